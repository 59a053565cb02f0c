from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from finetune.models.heads import FeatureHead
from finetune.tasks.losses import binary_cross_entropy
from finetune.training.linear_probe.heads import (
    MAX_EVALS,
    MAX_PHOTO_EVALS,
    MIN_EVALS,
    max_evals_for,
    minimize_head,
)


def problem(labels: int = 4, photos: int = 60, width: int = 12) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(5)
    targets = rng.integers(0, labels, photos)
    centers = rng.normal(0, 1, (labels, width))
    features = centers[targets] + rng.normal(0, 1.5, (photos, width))
    scales = 10.0 ** rng.uniform(-2, 2, width)
    return torch.from_numpy(features * scales + 3).float(), torch.from_numpy(targets)


def head_for(features: Tensor, labels: int) -> FeatureHead:
    return FeatureHead(features.mean(0), features.std(0, correction=0), labels)


def standardized(head: FeatureHead, features: Tensor) -> np.ndarray:
    return ((features.double() - head.mean.double()) / head.std.double()).numpy()


@pytest.mark.parametrize("strength", [0.001, 0.03, 1.0])
@pytest.mark.parametrize("shift", [0.0, 0.5], ids=["from nothing", "from elsewhere"])
def test_the_minimum_is_scikit_learns_logistic_regression(strength: float, shift: float) -> None:
    features, targets = problem()
    head = head_for(features, 4)
    with torch.no_grad():
        head.linear.weight += shift
    minimize_head(
        head,
        features,
        targets,
        functional.cross_entropy,
        strength=strength,
        max_evals=200,
    )
    fitted = LogisticRegression(C=1 / (strength * len(targets)), tol=1e-10, max_iter=10_000)
    fitted.fit(standardized(head, features), targets.numpy())
    largest = np.abs(fitted.coef_).max()
    np.testing.assert_allclose(head.linear.weight.detach(), fitted.coef_, atol=2e-3 * largest)
    with torch.no_grad():
        said = head(features).softmax(1)
    expected = fitted.predict_proba(standardized(head, features))
    np.testing.assert_allclose(said, expected, atol=2e-3)


def test_several_labels_are_as_many_regressions() -> None:
    features, one = problem()
    targets = torch.stack([one == 0, (one == 1) | (one == 2), one != 3], 1).float()
    head = head_for(features, 3)

    def loss(logits: Tensor, truth: Tensor) -> Tensor:
        return binary_cross_entropy(logits, truth, label_smoothing=0.0)

    minimize_head(head, features, targets, loss, strength=0.05, max_evals=200)
    for label in range(3):
        fitted = LogisticRegression(C=1 / (0.05 * len(one)), tol=1e-10, max_iter=10_000)
        fitted.fit(standardized(head, features), targets[:, label].numpy())
        found = head.linear.weight[label].detach().numpy()
        np.testing.assert_allclose(found, fitted.coef_[0], atol=2e-3)


def test_no_more_looks_than_allowed() -> None:
    features, targets = problem()
    seen = 0

    def loss(logits: Tensor, truth: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        return functional.cross_entropy(logits, truth)

    minimize_head(head_for(features, 4), features, targets, loss, strength=1e-6, max_evals=7)
    # The line search may end what it began.
    assert 3 <= seen <= 7 + 25


def test_many_photos_have_made_steps_enough() -> None:
    assert max_evals_for(100) == MAX_EVALS
    most = MAX_PHOTO_EVALS // MIN_EVALS
    assert (max_evals_for(most), max_evals_for(most + 1)) == (MIN_EVALS, 0)
    assert max_evals_for(0) == MAX_EVALS

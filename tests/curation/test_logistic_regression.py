from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from finetune.curation.logistic_regression import fit_classifier, fit_multi_label_classifier


def blobs(count: int, width: int, labels: int, seed: int) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, labels, count)
    centers = rng.normal(size=(labels, width))
    features = (centers[targets] + rng.normal(size=(count, width))) * rng.uniform(0.1, 9, width)
    return (features + 3).astype(np.float32), [f"label {t}" for t in targets]


@pytest.mark.parametrize(("count", "width", "labels"), [(120, 10, 3), (40, 90, 5), (60, 20, 2)])
def test_head_is_that_of_scikit_learn(
    count: int, width: int, labels: int, shrunk_scaler: Callable[[], Any]
) -> None:
    features, names = blobs(count, width, labels, seed=count)
    l2 = 0.02
    ours = fit_classifier(features, names, l2=l2)
    theirs = make_pipeline(
        shrunk_scaler(), LogisticRegression(C=1 / (count * l2), tol=1e-9, max_iter=5000)
    ).fit(features.astype(np.float64), names)
    assert list(ours.labels) == theirs.classes_.tolist()
    expected = theirs.predict_proba(features.astype(np.float64))
    if labels == 2:
        # scikit-learn trains one output for two labels; ours are two, w and -w, whose penalty is
        # half of that of their difference.
        theirs = make_pipeline(
            shrunk_scaler(), LogisticRegression(C=2 / (count * l2), tol=1e-9, max_iter=5000)
        ).fit(features.astype(np.float64), names)
        expected = theirs.predict_proba(features.astype(np.float64))
    assert np.abs(ours.probabilities(features) - expected).max() < 2e-3


def test_a_constant_feature_has_weight_zero() -> None:
    features, names = blobs(50, 6, 3, seed=8)
    features[:, 2] = 7
    head = fit_classifier(features, names)
    assert np.array_equal(head.weight[2], np.zeros(3))
    assert np.isfinite(head.weight).all()


def test_probabilities_sum_to_one_and_do_not_overflow() -> None:
    features, names = blobs(50, 6, 3, seed=9)
    found = fit_classifier(features, names).probabilities(features * np.float32(1e4))
    assert np.allclose(found.sum(axis=1), 1)
    assert np.isfinite(found).all()


def test_one_label_is_an_error() -> None:
    with pytest.raises(ValueError, match="a classifier needs two labels or more, not 1"):
        fit_classifier(np.zeros((3, 2), np.float32), ["a", "a", "a"])


def test_multi_label_classifiers_are_those_of_scikit_learn(
    shrunk_scaler: Callable[[], Any],
) -> None:
    features, names = blobs(150, 12, 4, seed=3)
    rng = np.random.default_rng(10)
    kind = np.array([int(name.split()[1]) for name in names])
    present = np.stack([kind == 0, kind < 2, rng.random(150) < 0.1], axis=1)
    ours = fit_multi_label_classifier(features, ["a", "b", "c"], present, l2=0.02)
    for k in range(3):
        theirs = make_pipeline(
            shrunk_scaler(), LogisticRegression(C=1 / (150 * 0.02), tol=1e-9, max_iter=5000)
        ).fit(features.astype(np.float64), present[:, k])
        expected = theirs.predict_proba(features.astype(np.float64))[:, 1]
        assert np.abs(ours.probabilities(features)[:, k] - expected).max() < 2e-3
    assert np.isfinite(ours.probabilities(features * np.float32(1e4))).all()


@pytest.mark.parametrize("all_have_it", [True, False])
def test_a_label_that_all_or_none_have_is_an_error(all_have_it: bool) -> None:
    present = np.full((4, 1), all_have_it)
    with pytest.raises(ValueError, match="photos with and photos without it"):
        fit_multi_label_classifier(np.zeros((4, 2), np.float32), ["a"], present)

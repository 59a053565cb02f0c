from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from finetune import train
from finetune.config_io import resolve
from finetune.errors import ConfigError
from finetune.models.heads import FeatureHead
from finetune.tasks.losses import binary_cross_entropy
from finetune.training.events import EpochDone, Event, Note
from finetune.training.linear_probe import heads
from finetune.training.linear_probe.heads import (
    L2_STRENGTHS,
    MAX_EVALS,
    MAX_PHOTO_EVALS,
    MIN_EVALS,
    heads_to_try,
    max_evals_for,
    minimize_head,
    strengths_of,
)

Settings = dict[str, object]


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    return make_photos({"ant": 12, "bee": 12})


def notes_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def test_strengths_are_numbers_with_commas() -> None:
    assert strengths_of(None) == L2_STRENGTHS
    assert strengths_of("1, 0.01,0") == (0.0, 0.01, 1.0)
    for text in ("0.1,much", "-1", "", "nan", "inf"):
        with pytest.raises(ConfigError) as error:
            strengths_of(text)
        assert str(error.value) == (
            f"--head-l2 {text} must be numbers from 0 on with commas between them, such as "
            "0.01,0.1,1."
        )


def test_of_many_labels_fewer_heads_are_tried() -> None:
    every = heads_to_try(L2_STRENGTHS, numbers=1280 * 200)
    assert len(every) == 12
    few = heads_to_try(L2_STRENGTHS, numbers=2048 * 2000)
    assert few == [(0.001, 3.0), (0.03, 3.0), (0.1, 1.0), (1.0, 1.0)]
    assert len(heads_to_try(L2_STRENGTHS, numbers=10**9)) == 2
    assert heads_to_try((0.1,), numbers=100) == [(0.1, 3.0), (0.1, 1.0)]


def test_the_strength_that_validation_chose_is_said(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    events: list[Event] = []
    flags = {**tiny_settings, "mode": "head", "head_l2": "0.01,100"}
    result = train(photos, resolve({}, flags), run="r", runs=tmp_path, callback=events.append)
    kept = [event.epoch for event in events if isinstance(event, EpochDone) and event.best]
    assert kept == [result.best_epoch] == [tiny_settings["epochs"]]
    said = notes_of(events)[-1]
    assert said in [
        f"L2 strength {strength} of 0.01, 100: the lowest calibrated log loss on validation."
        for strength in ("0.01", "100")
    ]
    # With an optimizer of a person's own choice heads stay where its steps left them.
    train(photos, resolve({}, {**flags, "optimizer": "sgd"}), runs=tmp_path, callback=events.append)
    assert notes_of(events)[-1] in [
        f"L2 strength {strength} of 0.01, 100 at learning rate {lr}: the lowest calibrated log "
        "loss on validation."
        for strength in ("0.01", "100")
        for lr in ("0.0025", "0.0075")
    ]
    # A strength that is the only one needs no choice, and one of 100 leaves no weights.
    one = train(photos, resolve({}, {**flags, "head_l2": "100"}), run="one", runs=tmp_path)
    few = train(photos, resolve({}, {**flags, "head_l2": "0"}), run="few", runs=tmp_path)
    weights = [load_file(r.run.model_file)["fc.weight"].abs().mean() for r in (one, few)]
    assert weights[0] < weights[1]


@pytest.mark.parametrize("flags", [{}, {"views": 3}, {"label_smoothing": 0.2}], ids=str)
def test_a_head_is_the_logistic_regression_of_its_strength(
    photos: Path, tmp_path: Path, tiny_settings: Settings, flags: Settings
) -> None:
    seen: list[tuple[np.ndarray, np.ndarray, FeatureHead]] = []

    def look(head: FeatureHead, features: Tensor, targets: Tensor, loss: Any, **how: Any) -> None:
        minimize_head(head, features, targets, loss, **how)
        seen.append((features.double().numpy(), targets.numpy(), head))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "minimize_head", look)
        config = resolve({}, {**tiny_settings, "mode": "head", "head_l2": "0.1", **flags})
        run = train(photos, config, run="r", runs=tmp_path).run
    ((features, targets, head),) = seen
    assert len(features) == len(targets) == 16 * int(str(flags.get("views", 1)))
    deviation = features.std(0)
    x = (features - features.mean(0)) / np.where(deviation > 1e-6, deviation, 1)
    # A smoothed label is a photo that counts for each label by its share.
    smoothing = float(str(flags.get("label_smoothing", 0)))
    shares = (1 - smoothing) * np.eye(2)[targets] + smoothing / 2
    fitted = LogisticRegression(C=1 / (0.05 * len(x)), tol=1e-10, max_iter=10_000).fit(
        np.tile(x, (2, 1)), np.repeat([0, 1], len(x)), sample_weight=shares.T.ravel()
    )
    # Of two labels the difference of the rows is the regression; each row has half its penalty.
    with torch.no_grad():
        difference = (head.linear.weight[1] - head.linear.weight[0]).double().numpy()
    np.testing.assert_allclose(difference, fitted.coef_[0], atol=2e-3 * np.abs(fitted.coef_).max())
    weight, _ = head.folded()
    assert torch.equal(load_file(run.model_file)["fc.weight"], weight)


def test_the_full_network_starts_from_the_head_that_features_support(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    events: list[Event] = []
    flags = {**tiny_settings, "mode": "full", "epochs": 1, "lr": 1e-8}
    train(photos, resolve({}, flags), run="full", runs=tmp_path, callback=events.append)
    assert any(
        text.startswith("The head starts from a linear probe of the frozen backbone: log loss ")
        for text in notes_of(events)
    )
    # It hardly moves at such a rate, so that it is a head-mode run's head of the same settings.
    head = {**tiny_settings, "mode": "head", "epochs": 25, "batch_size": 32}
    train(photos, resolve({}, head), run="head", runs=tmp_path)
    found, wanted = (load_file(tmp_path / n / "model.safetensors") for n in ("full", "head"))
    assert torch.allclose(found["fc.weight"], wanted["fc.weight"], atol=1e-4)


def test_epochs_of_the_head_alone_can_be_had_instead(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    events: list[Event] = []
    flags = {**tiny_settings, "mode": "full", "epochs": 2, "head_epochs": 1}
    train(photos, resolve({}, flags), run="r", runs=tmp_path, callback=events.append)
    assert not any("starts from" in text for text in notes_of(events))


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

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor

from finetune import train
from finetune.config_io import resolve
from finetune.errors import ConfigError
from finetune.models.features import FeatureCache
from finetune.tasks.single_label import SingleLabel
from finetune.training.events import EpochDone, Event, Note, Progressed
from finetune.training.linear_probe.features import FitInterruptedError, ProbePhotos
from finetune.training.linear_probe.heads import (
    L2_STRENGTHS,
    SHRINKAGES,
    HeadFitter,
    Shrinkage,
    fit_head,
    strengths_of,
)
from finetune.training.linear_probe.held_out import cross_fit_heads
from finetune.training.train import resume
from finetune.training.validation import SHARPNESS

Settings = dict[str, object]


def scaled(features: NDArray[Any]) -> NDArray[np.float64]:
    """Features as the penalty sees them: their variances shrunk towards the mean of all."""
    x = features.astype(np.float64)
    variance = x.var(0)
    shrunken = (len(x) * variance + 100 * variance.mean()) / (len(x) + 100)
    found: NDArray[np.float64] = (x - x.mean(0)) / np.sqrt(shrunken)
    return found


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    return make_photos({"ant": 12, "bee": 12})


def notes_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def test_strengths_are_numbers_with_commas() -> None:
    assert strengths_of(None) == (*L2_STRENGTHS, *SHRINKAGES)
    assert strengths_of("1, 0.01,0") == (0.0, 0.01, 1.0)
    for text in ("0.1,much", "-1", "", "nan", "inf"):
        with pytest.raises(ConfigError) as error:
            strengths_of(text)
        assert str(error.value) == (
            f"--head-l2 {text} must be numbers from 0 on with commas between them, such as "
            "0.01,0.1,1."
        )


def test_the_note_names_the_strength_that_validation_picked(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    events: list[Event] = []
    flags = {**tiny_settings, "mode": "head", "head_l2": "0.01,100"}
    train(photos, resolve({}, flags), run="r", runs=tmp_path, callback=events.append)
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [1]
    (head,) = (note for note in notes_of(events) if note.startswith("Head: "))
    (done,) = (event for event in events if isinstance(event, EpochDone))
    assert re.fullmatch(
        r"Head: L2 strength (0\.01|100) \(of 0\.01 to 100, the lowest log loss on validation: "
        rf"{done.validation_loss:.3f}\); \d+ of \d+ right\.",
        head,
    )
    # A strength that is the only one needs no choice, and one of 100 leaves no weights.
    one = train(photos, resolve({}, {**flags, "head_l2": "100"}), run="one", runs=tmp_path)
    few = train(photos, resolve({}, {**flags, "head_l2": "0"}), run="few", runs=tmp_path)
    weights = [load_file(r.run.model_file)["fc.weight"].abs().mean() for r in (one, few)]
    assert weights[0] < weights[1]


class Features:
    """Stands in for a feature cache: a key is the number of a row."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def read(self, keys: list[bytes]) -> Tensor:
        return self.rows[[int(key) for key in keys]]


def probe_photos(
    labels: int = 3, photos: int = 90, views: int = 1, folds: int = 5
) -> tuple[ProbePhotos, np.ndarray]:
    rng = np.random.default_rng(7)
    targets = rng.permutation(np.arange(photos) % labels)
    centers = rng.normal(0, 1, (labels, 10))
    rows = [centers[targets] + rng.normal(0, 1.2, (photos, 10)) for _ in range(views)]
    features = np.concatenate(rows).astype(np.float32)
    found = ProbePhotos(
        features=cast(FeatureCache, Features(torch.from_numpy(features))),
        views=[[b"%d" % (view * photos + i) for i in range(photos)] for view in range(views)],
        targets=targets,
        folds=np.arange(photos) % folds,
    )
    return found, features.astype(np.float64)


def fitter_of(photos: ProbePhotos, *, balanced: bool = False, smoothing: float = 0.0) -> HeadFitter:
    objective = SingleLabel().objective(label_smoothing=smoothing)
    device = torch.device("cpu")
    return HeadFitter(photos, labels=3, objective=objective, device=device, balanced=balanced)


def regression(
    x: np.ndarray, targets: np.ndarray, strength: float, weights: np.ndarray | None = None
) -> LogisticRegression:
    """scikit-learn's logistic regression with the same objective."""
    total = len(x) if weights is None else weights.sum()
    return LogisticRegression(C=1 / (strength * total), tol=1e-10, max_iter=20_000).fit(
        x, targets, sample_weight=weights
    )


@pytest.mark.parametrize("views", [1, 3])
def test_cross_fitted_logits_are_those_of_logistic_regressions_of_the_folds(views: int) -> None:
    photos, features = probe_photos(views=views)
    strengths = (0.01, 0.1, 1.0)
    fitted = fit_head(fitter_of(photos), strengths)
    assert isinstance(fitted.strength, float)
    x = scaled(features)
    count = len(photos.targets)
    shares: dict[float, np.ndarray] = {s: np.zeros((count, 3)) for s in strengths}
    for strength, fold in itertools.product(strengths, range(5)):
        learned = np.flatnonzero(photos.folds != fold)
        rows = np.concatenate([view * count + learned for view in range(views)])
        model = regression(x[rows], np.tile(photos.targets[learned], views), strength)
        asked = np.flatnonzero(photos.folds == fold)
        shares[strength][asked] = model.predict_proba(x[asked])
    found = softmax(fitted.held_out.logits, axis=1)
    np.testing.assert_allclose(found, shares[fitted.strength], atol=5e-3)
    assert fitted.loss == pytest.approx(log_loss(photos.targets, found), abs=1e-5)
    # No other strength has a lower loss after calibration.
    calibrated = {
        strength: min(
            log_loss(photos.targets, softmax(np.log(p) * factor, axis=1)) for factor in SHARPNESS
        )
        for strength, p in shares.items()
    }
    assert calibrated[fitted.strength] <= min(calibrated.values()) + 1e-4
    # The final head learns from every photo.
    everything = np.tile(np.arange(count), views)
    final = regression(x, photos.targets[everything], fitted.strength)
    own = fitter_of(photos).logits(fitted.solution, np.arange(count))
    np.testing.assert_allclose(softmax(own, axis=1), final.predict_proba(x[:count]), atol=5e-3)


def test_a_discriminant_is_picked_where_its_loss_on_held_out_photos_is_lower() -> None:
    rng = np.random.default_rng(5)
    targets = np.arange(240) % 3
    # Much of what varies within a label is common to all features.
    noise = rng.normal(size=(240, 3)) @ rng.normal(size=(3, 40)) + rng.normal(size=(240, 40))
    features = (rng.normal(0, 0.5, (3, 40))[targets] + noise).astype(np.float32)
    photos = ProbePhotos(
        features=cast(FeatureCache, Features(torch.from_numpy(features))),
        views=[[b"%d" % index for index in range(240)]],
        targets=targets,
        folds=np.arange(240) // 3 % 5,
    )
    fitted = fit_head(fitter_of(photos), strengths_of(None))
    assert isinstance(fitted.strength, Shrinkage)
    assert fitted.describe("folds").startswith("linear discriminant, shrinkage 0.")
    # Its logits are those of the folds' discriminants, made less sure.
    x = scaled(features)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=fitted.strength.value)
    expected = np.zeros((240, 3))
    for fold in range(5):
        held = photos.folds == fold
        model.fit(x[~held], targets[~held])
        expected[held] = model.predict_log_proba(x[held])
    sharpened = softmax(expected * fitted.strength.sharpness, axis=1)
    np.testing.assert_allclose(softmax(fitted.held_out.logits, axis=1), sharpened, atol=5e-3)
    regressions = fit_head(fitter_of(photos), L2_STRENGTHS)
    assert log_loss(targets, sharpened) < regressions.loss
    # Labels of several a photo have no discriminant.
    assert not fitter_of(dataclasses.replace(photos, targets=np.eye(3)[targets])).has_discriminant


def test_held_out_photos_of_easy_labels_leave_no_trace_in_their_heads() -> None:
    """More features than photos and weak strengths: a solver stops wherever it is started."""
    rng = np.random.default_rng(3)
    targets = np.arange(60) % 3
    centers = rng.normal(0, 1, (3, 200))
    features = (centers[targets] + rng.normal(0, 4, (60, 200))).astype(np.float32)
    photos = ProbePhotos(
        features=cast(FeatureCache, Features(torch.from_numpy(features))),
        views=[[b"%d" % i for i in range(60)]],
        targets=targets,
        folds=np.arange(60) % 5,
    )
    fitter = fitter_of(photos)
    fitted = fit_head(fitter, (0.001, 0.01))
    assert isinstance(fitted.strength, float)
    crossed = cross_fit_heads(fitter, fitted, np.arange(60), photos.folds, rng=rng)
    order = np.concatenate([np.flatnonzero(photos.folds == fold) for fold in range(5)])
    x = scaled(features.astype(np.float64))
    expected = np.zeros((60, 3))
    for fold in range(5):
        learned, asked = photos.folds != fold, photos.folds == fold
        model = regression(x[learned], targets[learned], fitted.strength)
        expected[asked] = model.predict_proba(x[asked])
    for logits, rows in ((fitted.held_out.logits, np.arange(60)), (crossed.known.logits, order)):
        found = log_loss(targets[rows], softmax(logits, axis=1), labels=[0, 1, 2])
        assert found == pytest.approx(log_loss(targets, expected, labels=[0, 1, 2]), rel=0.03)


def test_a_validation_part_is_never_learned_from() -> None:
    photos, features = probe_photos()
    folds = np.where(np.arange(90) < 60, -1, 0)
    photos = dataclasses.replace(photos, folds=folds)
    fitted = fit_head(fitter_of(photos), (0.1,))
    x = scaled(features)
    expected = regression(x[:60], photos.targets[:60], 0.1).predict_proba(x[60:])
    np.testing.assert_allclose(softmax(fitted.held_out.logits, axis=1), expected, atol=5e-3)
    logits = fitter_of(photos).logits(fitted.solution, np.arange(60, 90))
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=5e-3)


def test_balanced_labels_weigh_the_same() -> None:
    photos, features = probe_photos(photos=60)
    # 40 photos of label 0, 10 of each other; repeated, all have 40.
    targets = np.repeat([0, 1, 2], [40, 10, 10])
    photos = dataclasses.replace(photos, targets=targets, folds=np.arange(60) % 2)
    found = fitter_of(photos, balanced=True).fit(np.arange(60), 0.1)
    x = scaled(features)
    model = regression(x, targets, 0.1, np.where(targets == 0, 1.0, 4.0))
    logits = fitter_of(photos).logits(found, np.arange(60))
    np.testing.assert_allclose(softmax(logits, axis=1), model.predict_proba(x), atol=5e-3)


def test_smoothed_labels_are_photos_that_count_for_each_label_by_their_share() -> None:
    photos, features = probe_photos()
    found = fitter_of(photos, smoothing=0.2).fit(np.arange(90), 0.05)
    x = scaled(features)
    shares = 0.8 * np.eye(3)[photos.targets] + 0.2 / 3
    model = regression(np.tile(x, (3, 1)), np.repeat([0, 1, 2], 90), 0.05, shares.T.ravel())
    logits = fitter_of(photos).logits(found, np.arange(90))
    np.testing.assert_allclose(softmax(logits, axis=1), model.predict_proba(x), atol=5e-3)


def test_an_interrupted_fit_stops() -> None:
    photos, _ = probe_photos()
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 4

    with pytest.raises(FitInterruptedError):
        fit_head(fitter_of(photos), (0.1, 1.0), stop=stop)
    assert asked == 4


def test_a_device_without_float64_leaves_the_solver_on_the_cpu() -> None:
    photos, _ = probe_photos()
    objective = SingleLabel().objective()
    fitter = HeadFitter(photos, labels=3, objective=objective, device=torch.device("mps"))
    solution = fitter.fit(np.arange(90), 0.1)
    assert solution.weight.device.type == "cpu"
    expected = fitter_of(photos).fit(np.arange(90), 0.1)
    torch.testing.assert_close(solution.weight, expected.weight)


@pytest.mark.parametrize("stage", ["Features of train", "Fitting heads"])
def test_an_interrupted_head_run_is_resumed_to_the_same_bytes(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings, stage: str
) -> None:
    photos = make_photos({"ant": 60, "bee": 60})  # more than a batch of features
    config = resolve({}, {**tiny_settings, "mode": "head"})
    events: list[Event] = []

    def interrupt(event: Event) -> None:
        events.append(event)
        if isinstance(event, Progressed) and event.stage == stage and event.done < event.total:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(photos, config, run="r", runs=tmp_path, callback=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "r/model.safetensors").exists()
    assert notes_of(events)[-1] == (
        f"The features so far are kept. Continue with: finetune train --resume {tmp_path / 'r'}"
    )
    resume(tmp_path / "r")
    train(photos, config, run="whole", runs=tmp_path)
    first, second = (tmp_path / name / "model.safetensors" for name in ("whole", "r"))
    assert first.read_bytes() == second.read_bytes()


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
    head = {**tiny_settings, "mode": "head"}
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

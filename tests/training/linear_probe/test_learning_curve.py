"""Heads on shares of the photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from finetune import train
from finetune.config_io import resolve
from finetune.evaluation.learning_curve import LearningCurve
from finetune.models.features import FeatureCache
from finetune.prediction.report_extras import report_extras
from finetune.reporting.report import write_report
from finetune.runs.outlook import curve_sentences, read_curve
from finetune.tasks.single_label import SingleLabel
from finetune.training.linear_probe.features import ProbePhotos
from finetune.training.linear_probe.heads import HeadFitter
from finetune.training.linear_probe.learning_curve import curve_outputs


class Rows:
    """Stands in for a feature cache: keys are row numbers."""

    def __init__(self, features: NDArray[np.float32]) -> None:
        self.features = torch.from_numpy(features)

    def read(self, keys: list[bytes]) -> torch.Tensor:
        return self.features[[int(key) for key in keys]]


def fitter_of(
    features: NDArray[np.float32], targets: NDArray[np.int64], folds: NDArray[np.int64]
) -> HeadFitter:
    photos = ProbePhotos(
        features=cast(FeatureCache, Rows(features)),
        views=[[b"%d" % row for row in range(len(targets))]],
        targets=targets,
        folds=folds,
    )
    return HeadFitter(
        photos,
        labels=int(targets.max()) + 1,
        objective=SingleLabel().objective(),
        device=torch.device("cpu"),
    )


def drawn(photos: int = 90) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    targets = np.arange(photos) % 3
    centers = rng.normal(size=(3, 8)) * 1.2
    features = (centers[targets] + rng.normal(size=(photos, 8))).astype(np.float32)
    return features, targets.astype(np.int64), np.arange(photos) // 6


def test_shares_are_whole_groups_of_other_folds_and_nested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, targets, groups = drawn()
    folds = (groups % 3).astype(np.int64)
    fitter = fitter_of(features, targets, folds)
    learned: list[NDArray[np.int64]] = []
    real = fitter.fit

    def fit(rows: NDArray[np.int64], *given: Any, **named: Any) -> Any:
        learned.append(rows)
        return real(rows, *given, **named)

    monkeypatch.setattr(fitter, "fit", fit)
    shares = (0.2, 0.5, 1.0)
    rng = np.random.default_rng(1)
    found = curve_outputs(fitter, 0.1, groups, shares=shares, draws=2, rng=rng)
    # With all photos there is one draw.
    assert len(learned) == 3 * 3 + 3 * 2
    first = learned[:9]
    for fold in range(3):
        small, half, every = first[3 * fold : 3 * fold + 3]
        assert set(small) < set(half) < set(every)
        assert set(every) == set(np.flatnonzero(folds != fold))
        for rows in (small, half):
            assert set(np.flatnonzero(np.isin(groups, groups[rows]))) == set(rows)
            assert set(targets[rows]) == {0, 1, 2}
    assert found.photos == (12, 30, 60)
    assert found.predicted.shape == (3, 2, 90)
    np.testing.assert_array_equal(found.targets, targets)


def test_predictions_are_those_of_a_head_on_the_others() -> None:
    features, targets, groups = drawn()
    folds = (groups % 3).astype(np.int64) - (groups == 14)
    fitter = fitter_of(features, targets, folds)
    rng = np.random.default_rng(1)
    found = curve_outputs(fitter, 0.1, groups, shares=(0.5, 1.0), draws=1, rng=rng)
    held = np.flatnonzero(folds >= 0)
    expected = np.zeros(len(held), np.int64)
    for fold in range(3):
        rows = np.flatnonzero(folds == fold)
        solution = fitter.fit(np.flatnonzero(folds != fold), 0.1)
        expected[np.searchsorted(held, rows)] = fitter.logits(solution, rows).argmax(1)
    np.testing.assert_array_equal(found.predicted[-1, 0], expected)
    complete = np.arange(len(held)) % 3
    given = curve_outputs(
        fitter, 0.1, groups, shares=(0.5, 1.0), draws=1, rng=rng, complete=complete
    )
    np.testing.assert_array_equal(given.predicted[-1, 0], complete)
    assert given.photos[-1] == found.photos[-1]


def test_a_run_has_a_learning_curve_and_its_report_shows_it(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_weights: Path
) -> None:
    photos = make_photos({"ant": 24, "bee": 24})
    flags = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48, "mode": "head"}
    result = train(photos, resolve({}, flags), run="r", runs=tmp_path)
    curve = read_curve(result.run)
    assert curve is not None
    headline = result.metrics["folds"]
    assert curve.points[-1].accuracy == headline["top1"]
    content = json.loads(result.run.curve_file.read_text())
    assert LearningCurve.from_dict(content) == curve
    sentences = curve_sentences(curve, ["ant", "bee"])
    assert f"{100 * headline['top1']:.1f}" in sentences[0]
    assert [event["best"] for event in result.run.read_log()] == [False]
    extras, notes = report_extras(result.run, photos)
    assert notes == []
    assert extras.curve is not None
    assert len(extras.curve.points) == 6
    page = write_report(result.run.path, photos_root=photos, extras=extras).path.read_text()
    assert "Enough photos?" in page
    assert "with twice the photos, " in page


def test_too_few_photos_have_no_learning_curve(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_weights: Path
) -> None:
    photos = make_photos({"ant": 8, "bee": 8})
    flags = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48, "mode": "head"}
    run = train(photos, resolve({}, flags), run="r", runs=tmp_path).run
    assert read_curve(run) is None

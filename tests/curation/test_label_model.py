"""Nearest labels, and the scores by which they are calibrated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.curation import label_model
from finetune.curation.label_model import NONE, TEMPERATURE, LabelModel, nearest
from finetune.curation.score_calibration import Calibration, fit_calibration
from tests.curation.clusters import clusters, model_of


def test_scores_are_cosines_of_centered_roots() -> None:
    rows, own = clusters(12, 12)
    labeled = list(range(16))
    roots = np.sqrt(rows.astype(np.float64))
    unit = roots - roots.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centroids = np.stack([unit[[k for k in labeled if own[k] == c]].sum(axis=0) for c in range(2)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    cosines = unit[16:] @ centroids.T
    found = model_of(rows, own, labeled).scores(np.arange(16, 24))
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-4)
    odds = (cosines.max(axis=1) - cosines.min(axis=1)) / TEMPERATURE  # of two labels
    np.testing.assert_allclose(found.values, odds, atol=1e-3)
    assert found.labels.tolist() == cosines.argmax(axis=1).tolist()


def test_the_score_is_the_log_odds_of_a_softmax() -> None:
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, (20, 5))
    shares = np.exp(cosines / TEMPERATURE)
    shares /= shares.sum(axis=1, keepdims=True)
    best = shares.max(axis=1)
    labels, values = nearest(cosines)
    assert labels.tolist() == shares.argmax(axis=1).tolist()
    np.testing.assert_allclose(values, np.log(best / (1 - best)))


def seen_by_calibration(
    model: LabelModel, monkeypatch: pytest.MonkeyPatch
) -> dict[str, NDArray[Any]]:
    """Returns what a model passes to the calibration."""
    seen: dict[str, NDArray[Any]] = {}

    def fit(
        values: Any, labels: Any, right: Any, weights: Any, *, count: int, independent: float
    ) -> Calibration:
        seen.update(values=values, labels=labels, right=right, weights=weights)
        return fit_calibration(values, labels, right, weights, count=count, independent=independent)

    monkeypatch.setattr(label_model, "fit_calibration", fit)
    model.calibration()
    return seen


def test_calibration_leaves_each_group_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, own = clusters(10, 10)
    groups = [k // 2 for k in range(20)]
    seen = seen_by_calibration(model_of(rows, own, list(range(20)), groups), monkeypatch)
    unit = np.sqrt(rows.astype(np.float64))
    unit -= unit.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    pairs = list(zip(groups, own, strict=True))
    weights = np.array([1 / pairs.count(pair) for pair in pairs])
    np.testing.assert_allclose(seen["weights"], weights)
    for k in range(20):
        cosines = []
        for c in range(2):
            rest = [j for j in range(20) if own[j] == c and groups[j] != groups[k]]
            centroid = (weights[rest, None] * unit[rest]).sum(axis=0)
            cosines.append(unit[k] @ centroid / np.linalg.norm(centroid))
        assert seen["labels"][k] == np.argmax(cosines)
        assert seen["values"][k] == pytest.approx(np.ptp(cosines) / TEMPERATURE, abs=1e-3)
        assert seen["right"][k] == (np.argmax(cosines) == own[k])


def test_labels_that_are_left_out_count_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, own = clusters(10, 10, 10, 1)
    names = ["a", "b", NONE, "d"]
    model = LabelModel(rows, np.arange(31), np.array(own), list(range(31)), names, offered=2)
    seen = seen_by_calibration(model, monkeypatch)
    # 30 photos whose label can be learned without them, and 21 of labels that are left out: not
    # of "none", which is no label.
    assert len(seen["values"]) == 30 + 21
    assert not seen["right"][30:].any()
    # Good's estimate: one label of one photo, two without any.
    assert seen["weights"][30:].sum() == pytest.approx(31 * 3.5 / 32)
    unit = np.sqrt(rows.astype(np.float64))
    unit -= unit.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centroids = np.stack([unit[np.array(own) == c].sum(axis=0) for c in range(4)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    first = next(k for k in range(31) if names[own[k]] != NONE)
    cosines = unit[first] @ centroids.T
    cosines[own[first]] = -np.inf
    assert seen["labels"][30] == cosines.argmax()

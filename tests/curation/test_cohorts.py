"""Cohorts on drawn clusters, and their parts against formulas and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.isotonic import IsotonicRegression

from finetune.curation.cohorts import (
    LEAST_LABELED,
    LEAST_PHOTOS,
    Calibration,
    Cohort,
    LabelModel,
    RootSpace,
    balance,
    best_cohort,
    isotonic,
    lower_bounds,
    select_next,
    uncertainty,
)

Floats = NDArray[np.float64]


def clusters(
    *sizes: int, noise: float = 0.25, seed: int = 0
) -> tuple[NDArray[np.float32], list[int]]:
    """Returns non-negative features of clusters of these sizes, shuffled, and the clusters."""
    rng = np.random.default_rng(seed)
    own = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centers = rng.gamma(1.0, 1.0, (len(sizes), 64))
    rows = centers[own] * np.exp(rng.normal(0, noise, (len(own), 64)))
    return rows.astype(np.float32), own.tolist()


def model_of(
    rows: NDArray[np.float32], own: list[int], labeled: list[int], groups: list[int] | None = None
) -> LabelModel:
    names = [f"label {k}" for k in range(max(own) + 1)]
    return LabelModel(
        rows,
        np.array(labeled),
        np.array([own[k] for k in labeled]),
        groups or labeled,
        names,
    )


def first_of_each(own: list[int], count: int) -> list[int]:
    return [k for k, c in enumerate(own) if own[:k].count(c) < count]


def offered(
    rows: NDArray[np.float32], own: list[int], labeled: list[int], **options: int
) -> Cohort | None:
    model = model_of(rows, own, labeled)
    rest = np.setdiff1d(np.arange(len(own)), labeled)
    return best_cohort(
        model, model.scores(rest), model.calibration(), rest, most=options.get("most", 40)
    )


def test_clear_clusters_give_a_cohort_of_one_label() -> None:
    rows, own = clusters(30, 30, 30)
    cohort = offered(rows, own, first_of_each(own, 10))
    assert cohort is not None
    assert {own[position] for position in cohort.positions} == {cohort.label}
    assert len(cohort.positions) == 20
    assert offered(rows, own, first_of_each(own, 10), most=12) == Cohort(
        label=cohort.label, positions=cohort.positions[:12], share=cohort.share
    )


def test_few_labels_give_no_cohort() -> None:
    rows, own = clusters(30, 30, 30)
    assert offered(rows, own, first_of_each(own, 4)) is None


def test_a_burst_counts_once() -> None:
    rows, own = clusters(40, 40)
    labeled = first_of_each(own, 12)
    groups = [own[k] if own[k] == 0 else k for k in labeled]
    model = model_of(rows, own, labeled, groups)
    assert model.counts.tolist() == pytest.approx([1, 12])
    rest = np.setdiff1d(np.arange(len(own)), labeled)
    cohort = best_cohort(model, model.scores(rest), model.calibration(), rest, most=40)
    assert cohort is None or cohort.label == 1


def test_labels_that_cannot_be_told_apart_give_no_cohort() -> None:
    rng = np.random.default_rng(1)
    rows = rng.gamma(1.0, 1.0, (120, 64)).astype(np.float32)
    own = (np.arange(120) % 3).tolist()
    assert offered(rows, own, list(range(60))) is None


def test_a_label_that_nobody_gave_yet_is_not_swept_along() -> None:
    # Cluster 2 lies near cluster 1 and has no label.
    rows, own = clusters(40, 40, 40, seed=3)
    near = [k for k, c in enumerate(own) if c == 2]
    other = [k for k, c in enumerate(own) if c == 1]
    rows[near] = 0.5 * rows[near] + 0.5 * rows[other]
    labeled = [k for k in first_of_each(own, 14) if own[k] != 2]
    model = LabelModel(
        rows,
        np.array(labeled),
        np.array([own[k] for k in labeled]),
        labeled,
        ["a", "b"],
        offered=1,
    )
    rest = np.setdiff1d(np.arange(len(own)), labeled)
    cohort = best_cohort(model, model.scores(rest), model.calibration(), rest, most=40)
    if cohort is not None:
        right = np.mean([own[k] == cohort.label for k in cohort.positions])
        assert right >= 0.9


def test_scores_are_cosines_of_centered_roots() -> None:
    rows, own = clusters(12, 12)
    labeled = list(range(16))
    roots = np.sqrt(rows.astype(np.float64))
    unit = roots - roots.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centroids = np.stack([unit[[k for k in labeled if own[k] == c]].sum(axis=0) for c in range(2)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    cosines = unit[16:] @ centroids.T
    best = cosines.max(axis=1)
    found = model_of(rows, own, labeled).scores(np.arange(16, 24))
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-4)
    np.testing.assert_allclose(found.values, 2 * best - cosines.min(axis=1), atol=1e-4)
    assert found.labels.tolist() == cosines.argmax(axis=1).tolist()


def test_calibration_leaves_each_group_out() -> None:
    rows, own = clusters(10, 10)
    groups = [k // 2 for k in range(20)]
    calibration = model_of(rows, own, list(range(20)), groups).calibration()
    unit = np.sqrt(rows.astype(np.float64))
    unit -= unit.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    pairs = list(zip(groups, own, strict=True))
    weights = np.array([1 / pairs.count(pair) for pair in pairs])
    for k in range(20):
        cosines = []
        for c in range(2):
            rest = [j for j in range(20) if own[j] == c and groups[j] != groups[k]]
            centroid = (weights[rest, None] * unit[rest]).sum(axis=0)
            cosines.append(unit[k] @ centroid / np.linalg.norm(centroid))
        assert calibration.labels[k] == np.argmax(cosines)
        expected = 2 * max(cosines) - min(cosines)
        assert calibration.values[k] == pytest.approx(expected, abs=1e-4)
        assert calibration.right[k] == (np.argmax(cosines) == own[k])


def calibration_of(right: list[bool], unseen_share: float = 0.0) -> Calibration:
    """Returns a calibration with the highest score first."""
    count = len(right)
    return Calibration(
        labels=np.zeros(count, np.int64),
        values=np.linspace(1, 0, count),
        right=np.array(right),
        weights=np.ones(count),
        unseen=np.linspace(1, 0, count),
        unseen_share=unseen_share,
    )


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    right = np.array([1.0, 22, 30, 30, 55.5])
    wrong = np.array([0.0, 0, 1, 0.3, 2.25])
    found = lower_bounds(right, wrong)
    np.testing.assert_allclose(found, beta.ppf(0.1, right, wrong + 1), atol=1e-3)
    assert lower_bounds(np.zeros(1), np.ones(1)).tolist() == [0.0]


def test_the_threshold_lies_above_the_doubt() -> None:
    right = [True] * 40 + [False, True, True, False] + [True] * 10
    values = calibration_of(right).values
    threshold = calibration_of(right).threshold(0)
    assert threshold is not None
    assert values[39] >= threshold > values[40]
    assert calibration_of([True] * 21).threshold(0) is None
    assert calibration_of([True] * 22).threshold(0) == pytest.approx(0)
    assert calibration_of([True] * 22, unseen_share=0.5).threshold(0) is None


def test_shares_are_isotonic_and_need_twenty_photos() -> None:
    rng = np.random.default_rng(2)
    right = (rng.random(60) < np.linspace(1, 0.2, 60)).tolist()
    calibration = calibration_of(right)
    values = calibration.values
    fitted = IsotonicRegression().fit(values, np.array(right, float)).predict(values)
    found = calibration.shares(values)
    assert found is not None
    np.testing.assert_allclose(found, (fitted * 60 + 1) / 62)
    assert calibration_of([True] * 19).shares(np.array([0.5])) is None


def test_isotonic_equals_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    values, weights = rng.normal(size=50), rng.random(50) + 0.1
    expected = IsotonicRegression().fit(np.arange(50), values, weights).predict(np.arange(50))
    np.testing.assert_allclose(isotonic(values, weights), expected)


def test_next_photos_stand_for_the_others() -> None:
    rows, own = clusters(20, 20, 20, noise=0.1)
    chosen = select_next(rows, np.zeros(0, np.int64), np.arange(60), count=3)
    assert sorted(own[k] for k in chosen) == [0, 1, 2]
    labeled = np.array([k for k in range(60) if own[k] != 1][:20])
    rest = np.setdiff1d(np.arange(60), labeled)
    (first, *_) = select_next(rows, labeled, rest, count=1)
    assert own[first] == 1
    priority = np.where(np.array(own)[rest] == 2, 1.0, 0.0)
    (first, *_) = select_next(rows, labeled, rest, priority=priority, count=1)
    assert own[first] == 2


def test_the_first_choice_adds_most() -> None:
    rows, _ = clusters(15, 15)
    unit = RootSpace(rows).rows(rows)
    gains = np.maximum(unit @ unit.T, 0).sum(axis=0)
    assert select_next(rows, np.zeros(0, np.int64), np.arange(30), count=1) == [gains.argmax()]


def test_labels_with_few_photos_come_first() -> None:
    counts = np.array([0.0, 4.0, LEAST_LABELED, 50.0])
    found = balance(counts, np.arange(4))
    assert found.tolist() == pytest.approx([3, 3 / 25, 1 / 36, 1 / 36])


def test_uncertainty_is_one_less_the_margin() -> None:
    table = np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert np.allclose(uncertainty(table), [0.5, 1.0, 0.0])
    assert np.array_equal(uncertainty(np.ones((3, 1))), np.ones(3))


def test_the_smallest_cohort() -> None:
    rows, own = clusters(30, 30, 30)
    labeled = first_of_each(own, 30 - LEAST_PHOTOS)
    cohort = offered(rows, own, labeled)
    assert cohort is not None
    assert len(cohort.positions) == LEAST_PHOTOS
    labeled = first_of_each(own, 31 - LEAST_PHOTOS)
    assert offered(rows, own, labeled) is None

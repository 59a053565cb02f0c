"""Cohorts on drawn clusters."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.curation.cohorts import ENOUGH_PHOTOS, LEAST_PHOTOS, Cohort, find_cohort
from finetune.curation.label_model import LabelModel
from tests.curation.clusters import clusters, first_of_each, model_of


def cohort_of(model: LabelModel, rest: NDArray[np.int64], most: int = 40) -> Cohort | None:
    return find_cohort(model, model.scores(rest), model.calibration(), rest, most=most)


def offered(
    rows: NDArray[np.float32], own: list[int], labeled: list[int], most: int = 40
) -> Cohort | None:
    rest = np.setdiff1d(np.arange(len(own)), labeled)
    return cohort_of(model_of(rows, own, labeled), rest, most)


def test_clear_clusters_give_a_cohort_of_all_labels() -> None:
    rows, own = clusters(30, 30, 30)
    cohort = offered(rows, own, first_of_each(own, 10))
    assert cohort is not None
    assert [own[position] for position in cohort.positions] == list(cohort.labels)
    assert len(cohort.positions) == 40
    assert set(cohort.labels) == {0, 1, 2}
    assert offered(rows, own, first_of_each(own, 10), most=12) == Cohort(
        positions=cohort.positions[:12], labels=cohort.labels[:12]
    )


def test_few_labels_give_no_cohort() -> None:
    rows, own = clusters(30, 30, 30)
    assert offered(rows, own, first_of_each(own, 4)) is None
    # 24 labeled photos, but no label has five.
    rows, own = clusters(*[15] * 6)
    assert offered(rows, own, first_of_each(own, 4)) is None
    assert offered(rows, own, first_of_each(own, 5)) is not None


def test_a_burst_counts_once() -> None:
    rows, own = clusters(40, 40)
    labeled = first_of_each(own, 25)
    groups = [own[k] if own[k] == 0 else k for k in labeled]
    model = model_of(rows, own, labeled, groups)
    assert model.counts.tolist() == pytest.approx([1, 25])
    cohort = cohort_of(model, np.setdiff1d(np.arange(len(own)), labeled))
    assert cohort is None or set(cohort.labels) == {1}


def test_labels_that_cannot_be_told_apart_give_no_cohort() -> None:
    rng = np.random.default_rng(1)
    rows = rng.gamma(1.0, 1.0, (120, 64)).astype(np.float32)
    own = (np.arange(120) % 3).tolist()
    assert offered(rows, own, list(range(60))) is None


@pytest.mark.parametrize("seed", range(6))
def test_a_label_that_nobody_gave_yet_is_not_swept_along(seed: int) -> None:
    # Cluster 3 lies near cluster 1 and has no label.
    rows, own = clusters(40, 40, 40, 40, seed=seed)
    near = [k for k, c in enumerate(own) if c == 3]
    other = [k for k, c in enumerate(own) if c == 1]
    rows[near] = 0.5 * rows[near] + 0.5 * rows[other]
    labeled = [k for k in first_of_each(own, 14) if own[k] != 3]
    targets = np.array([own[k] for k in labeled])
    model = LabelModel(rows, np.array(labeled), targets, labeled, ["a", "b", "c"], offered=1)
    cohort = cohort_of(model, np.setdiff1d(np.arange(len(own)), labeled))
    assert cohort is not None
    right = [own[k] == label for k, label in zip(cohort.positions, cohort.labels, strict=True)]
    assert np.mean(right) >= 0.9


def test_a_small_cohort_is_offered_when_hardly_more_photos_are_left() -> None:
    rows, own = clusters(30, 30)
    for left, size in ((LEAST_PHOTOS - 1, None), (LEAST_PHOTOS, LEAST_PHOTOS)):
        cohort = offered(rows, own, list(range(60 - left)))
        assert (None if cohort is None else len(cohort.positions)) == size
    # Of many photos that are left, so few are not offered.
    rng = np.random.default_rng(0)
    noise = rng.gamma(1.0, 1.0, (100, 64)).astype(np.float32)
    mixed = np.concatenate([rows, noise])
    cohort = offered(mixed, [*own, *[0] * 100], list(range(60 - LEAST_PHOTOS)))
    assert cohort is None or len(cohort.positions) >= ENOUGH_PHOTOS

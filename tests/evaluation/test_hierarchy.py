from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from finetune.evaluation.hierarchy import (
    Hierarchy,
    LevelAnswers,
    fit_hierarchy,
    level_metrics,
    mean_distance,
)
from finetune.evaluation.precision_curve import SHARES, precision_curve
from finetune.photos.taxonomy import Taxonomy, make_taxonomy

LABELS = ["a1", "a2", "b1", "b2", "b3", "c"]


def tree() -> Taxonomy:
    found = make_taxonomy(LABELS, {label: [label[0]] for label in LABELS}, ["kind"])
    assert found is not None
    return found


def draw(seed: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Calibrated probabilities that are often split within a kind, and true labels."""
    rng = np.random.default_rng(seed)
    kinds = rng.dirichlet([0.06] * 3, count)
    inside = [rng.dirichlet([0.7] * size, count) for size in (2, 3, 1)]
    shares = np.concatenate([kinds[:, [k]] * part for k, part in enumerate(inside)], axis=1)
    shares /= shares.sum(axis=1, keepdims=True)
    targets = (rng.random((count, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(max=5)
    return shares, targets


def fit(shares: NDArray[np.float64], targets: NDArray[np.int64]) -> Hierarchy:
    groups = np.arange(len(targets))
    curve = precision_curve(shares.max(1), shares.argmax(1) == targets, groups)
    return fit_hierarchy(tree(), shares, targets, groups, labels=curve)


@pytest.mark.parametrize("precision", [0.8, 0.9])
def test_the_threshold_is_the_lowest_share_for_which_the_claim_holds(precision: float) -> None:
    shares, targets = draw(3, 400)
    groups = np.arange(len(targets))
    curve = precision_curve(shares.max(1), shares.argmax(1) == targets, groups)
    claim = curve.claim(precision)
    assert claim is not None
    assert claim.is_met
    sure = shares.max(1) >= claim.threshold
    kinds = np.stack([shares[:, :2].sum(1), shares[:, 2:5].sum(1), shares[:, 5]], axis=1)
    kind_of = np.array([0, 0, 1, 1, 1, 2])
    right = np.where(sure, shares.argmax(1) == targets, kinds.argmax(1) == kind_of[targets])
    values = np.sort(kinds[~sure].max(1))[::-1]
    expected = None
    for share in SHARES:  # largest first
        limit = values[int(share * len(values) + 1e-9) - 1]
        new = ~sure & (kinds.max(1) >= limit)
        answered = sure | new
        count, good = answered.sum(), right[answered].sum()
        bound = beta.ppf(0.025 / 11, good, count - good + 1)
        if right[new].mean() >= precision and bound >= precision:
            expected = limit
            break
    assert expected is not None
    found = fit(shares, targets).answers_at(precision)[0]
    assert found.threshold == pytest.approx(expected, abs=1e-12)
    new = ~sure & (kinds.max(1) >= expected)
    assert (found.photos, found.right) == (new.sum(), right[new].sum())


def test_answers_of_new_photos_are_as_precise_as_claimed() -> None:
    fresh, truth = draw(99, 8000)
    broken = answered = 0
    for seed in range(12):
        shares, targets = draw(seed, 1500)
        hierarchy = fit(shares, targets)
        curve = precision_curve(shares.max(1), shares.argmax(1) == targets, np.arange(1500))
        claim = curve.claim(0.95)
        if claim is None or not claim.is_met:
            continue
        sure = fresh.max(1) >= claim.threshold
        answers = hierarchy.roll_up(fresh, sure, 0.95)
        right = [
            LABELS[t][0] == answer.label if answer else fresh[n].argmax() == t
            for n, (t, answer) in enumerate(zip(truth, answers, strict=True))
            if answer or sure[n]
        ]
        answered += len(right) > 1.2 * sure.sum()
        broken += np.mean(right) < 0.95
    assert answered >= 10
    assert broken <= 1


def test_the_deepest_ancestor_answers() -> None:
    above = {"a1": ["x", "a"], "a2": ["x", "a"], "b": ["x", "b"], "c": ["y", "c"], "d": ["y", "d"]}
    taxonomy = make_taxonomy(["a1", "a2", "b", "c", "d"], above, ["order", "family"])
    assert taxonomy is not None
    empty = precision_curve([], [], [])
    levels = (LevelAnswers(threshold=0.8), LevelAnswers(threshold=0.9))
    hierarchy = Hierarchy(taxonomy=taxonomy, curves=(empty, empty), answers={95: levels})
    shares = np.array(
        [
            [0.5, 0.45, 0.05, 0.0, 0.0],
            [0.4, 0.2, 0.3, 0.1, 0.0],
            [0.3, 0.1, 0.2, 0.2, 0.2],
            [0.99, 0.0, 0.01, 0.0, 0.0],
        ]
    )
    sure = np.array([False, False, False, True])
    found = hierarchy.roll_up(shares, sure, 0.95)
    assert [one and (one.level, one.label) for one in found] == [
        ("family", "a"),
        ("order", "x"),
        None,
        None,
    ]
    assert found[1] is not None
    assert found[1].probability == pytest.approx(0.9)
    # A precision between two saved ones takes the answers of the next higher.
    assert hierarchy.roll_up(shares, sure, 0.93) == found
    assert hierarchy.roll_up(shares, sure, 0.96) == [None] * 4
    by_threshold = hierarchy.roll_up(shares, sure, 0.99, threshold=0.5)
    assert [one and one.label for one in by_threshold] == ["a", "a", "x", None]


def test_a_saved_hierarchy_is_the_same_and_knows_its_labels() -> None:
    hierarchy = fit(*draw(0, 300))
    content = json.loads(json.dumps(hierarchy.to_dict()))
    content["answers"]["95"][0]["later"] = 1
    assert Hierarchy.from_dict(content, LABELS) == hierarchy
    with pytest.raises(ValueError, match="other labels than the run"):
        Hierarchy.from_dict(content, LABELS[::-1])
    content["curves"] = []
    with pytest.raises(ValueError, match="one precision curve for each level"):
        Hierarchy.from_dict(content, LABELS)


def test_levels_count_photos_that_are_right_and_sure() -> None:
    taxonomy = tree()
    shares = np.array(
        [[0.5, 0.4, 0.1, 0, 0, 0], [0.1, 0, 0.3, 0.3, 0.3, 0], [0, 0, 0, 0, 0.05, 0.95]]
    )
    targets = np.array([1, 4, 2])
    sure_all = precision_curve([0.85] * 100, [True] * 100, np.arange(100))
    found = level_metrics(taxonomy, (sure_all, sure_all), shares, targets, precision=0.9)
    assert found == [
        {"level": "kind", "nodes": 3, "right": 2, "photos": 3, "sure": 3, "sure_right": 2},
        {"level": "label", "nodes": 6, "right": 0, "photos": 3, "sure": 1, "sure_right": 0},
    ]
    assert mean_distance(taxonomy, shares.argmax(1), targets) == pytest.approx(4 / 3)
    assert mean_distance(taxonomy, targets, targets) is None

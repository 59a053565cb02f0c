from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from finetune.evaluation.precision_curve import (
    LOWEST_CLAIM,
    MAX_POINTS,
    MIN_COVERAGE,
    PrecisionCurve,
    precision_curve,
)


def draw(
    seed: int, count: int, digits: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Probabilities, whether they are right (as often as they say), and groups."""
    rng = np.random.default_rng(seed)
    probabilities = 0.5 + 0.5 * np.round(rng.beta(6, 1, count), digits)
    return probabilities, rng.random(count) < probabilities, rng.integers(0, count, count)


def by_trying_every_probability(
    probabilities: NDArray[np.float64],
    correct: NDArray[np.bool_],
    groups: NDArray[np.int64],
    precision: float,
) -> float | None:
    for threshold in np.unique(probabilities):  # lowest first
        sure = probabilities >= threshold
        trials = len(np.unique(groups[sure]))
        successes = int(trials * correct[sure].mean() + 1e-9)
        if successes and beta.ppf(0.05, successes, trials - successes + 1) >= precision:
            return float(threshold)
    return None


@pytest.mark.parametrize("precision", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_threshold_is_the_lowest_at_which_the_bound_holds(precision: float, seed: int) -> None:
    probabilities, correct, groups = draw(seed, 400)
    expected = by_trying_every_probability(probabilities, correct, groups, precision)
    claim = precision_curve(probabilities, correct, groups).claim(precision)
    assert expected is not None
    assert claim is not None
    assert claim.threshold == expected
    sure = probabilities >= expected
    assert (claim.photos, claim.right) == (sure.sum(), correct[sure].sum())
    assert claim.groups == len(np.unique(groups[sure]))
    assert claim.coverage == pytest.approx(sure.mean())
    assert (claim.precision, claim.is_met) == (precision, True)


def test_frames_of_one_group_are_no_further_evidence() -> None:
    alone = precision_curve(np.ones(59), np.ones(59), np.arange(59)).claim(0.95)
    frames = precision_curve(np.ones(590), np.ones(590), np.arange(590) // 10).claim(0.95)
    assert alone is not None
    assert frames is not None
    assert (alone.groups, frames.groups, frames.photos) == (59, 59, 590)
    fewer = precision_curve(np.ones(590), np.ones(590), np.arange(590) // 11).claim(0.95)
    assert fewer is not None
    assert not fewer.is_met


@pytest.mark.parametrize(("count", "claimed"), [(58, 0.94), (40, 0.92), (14, 0.8)])
def test_too_few_photos_allow_a_lower_claim(count: int, claimed: float) -> None:
    claim = precision_curve(np.ones(count), np.ones(count), np.arange(count)).claim(0.95)
    assert claim is not None
    assert claim.precision == claimed
    assert claim.target == 0.95
    assert not claim.is_met
    assert 0.05 ** (1 / count) >= claimed


def test_below_the_lowest_claim_nothing_is_sure_unless_asked_for() -> None:
    curve = precision_curve(np.ones(13), np.ones(13), np.arange(13))
    assert curve.claim(0.95) is None
    claim = curve.claim(0.6)
    assert claim is not None
    assert claim.precision == 0.6
    assert LOWEST_CLAIM == 0.8


def test_a_lower_claim_covers_half_of_the_photos() -> None:
    # The surest fifth is right, but too small for 95 %; of all only two thirds are right.
    probabilities = np.r_[np.full(40, 0.9), np.full(160, 0.6)]
    correct = np.r_[np.ones(40), np.arange(160) % 5 < 3]
    curve = precision_curve(probabilities, correct, np.arange(200))
    assert curve.claim(0.95) is None
    assert MIN_COVERAGE == 0.5
    claim = curve.claim(0.92)
    assert claim is not None
    assert claim.coverage == 0.2


def test_the_claim_holds_for_new_photos() -> None:
    """In at most one of twenty collections the precision of new photos is below the claim."""
    fresh, right, _ = draw(99, 200_000, digits=4)
    broken = claims = 0
    for seed in range(200):
        claim = precision_curve(*draw(seed, 400, digits=4)).claim(0.95)
        if claim is not None and claim.is_met:
            claims += 1
            broken += right[fresh >= claim.threshold].mean() < 0.95
    assert claims > 100
    assert broken <= 0.05 * 200 + 2 * (200 * 0.05 * 0.95) ** 0.5


def test_many_photos_are_saved_as_few_points() -> None:
    curve = precision_curve(*draw(0, 3000, digits=6))
    assert len(curve.thresholds) == MAX_POINTS
    assert (curve.photos[-1], curve.total) == (3000, 3000)
    content = json.loads(json.dumps(curve.to_dict()))
    assert PrecisionCurve.from_dict(content) == curve
    content["groups"].pop()
    with pytest.raises(ValueError, match="equally many values"):
        PrecisionCurve.from_dict(content)


def test_no_photos_allow_no_claim() -> None:
    assert precision_curve([], [], []).claim(0.95) is None

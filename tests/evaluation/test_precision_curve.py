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
    SHARES,
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


def by_trying_every_share(
    probabilities: NDArray[np.float64],
    correct: NDArray[np.bool_],
    groups: NDArray[np.int64],
    precision: float,
) -> float | None:
    values = np.unique(probabilities)  # lowest first
    covered = np.array([(probabilities >= value).sum() for value in values])
    tried = []
    for share in SHARES:
        fitting = np.flatnonzero(covered <= share * len(probabilities) + 1e-9)
        if len(fitting):
            tried.append(values[fitting[0]])
    for threshold in sorted(set(tried)):
        sure = probabilities >= threshold
        trials = len(np.unique(groups[sure]))
        successes = int(trials * correct[sure].mean() + 1e-9)
        error = 0.025 if sure.all() else 0.025 / 11
        if successes and beta.ppf(error, successes, trials - successes + 1) >= precision:
            return float(threshold)
    return None


@pytest.mark.parametrize("precision", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_threshold_is_the_lowest_at_which_the_bound_holds(precision: float, seed: int) -> None:
    probabilities, correct, groups = draw(seed, 3000)
    expected = by_trying_every_share(probabilities, correct, groups, precision)
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
    alone = precision_curve(np.ones(72), np.ones(72), np.arange(72)).claim(0.95)
    frames = precision_curve(np.ones(720), np.ones(720), np.arange(720) // 10).claim(0.95)
    assert alone is not None
    assert frames is not None
    assert (alone.groups, frames.groups, frames.photos) == (72, 72, 720)
    fewer = precision_curve(np.ones(720), np.ones(720), np.arange(720) // 11).claim(0.95)
    assert fewer is not None
    assert not fewer.is_met


@pytest.mark.parametrize(("count", "claimed"), [(71, 0.94), (40, 0.91), (17, 0.8)])
def test_too_few_photos_allow_a_lower_claim(count: int, claimed: float) -> None:
    claim = precision_curve(np.ones(count), np.ones(count), np.arange(count)).claim(0.95)
    assert claim is not None
    assert claim.precision == claimed
    assert claim.target == 0.95
    assert not claim.is_met
    assert claimed <= 0.025 ** (1 / count) < claimed + 0.01


def test_below_the_lowest_claim_nothing_is_sure_unless_asked_for() -> None:
    curve = precision_curve(np.ones(16), np.ones(16), np.arange(16))
    assert curve.claim(0.95) is None
    claim = curve.claim(0.6)
    assert claim is not None
    assert claim.precision == 0.6
    assert LOWEST_CLAIM == 0.8


def test_a_lower_claim_covers_half_of_the_photos() -> None:
    # The surest fifth is right, but too small for 95 %; of all only two thirds are right.
    probabilities = np.r_[np.full(100, 0.9), np.full(400, 0.6)]
    correct = np.r_[np.ones(100), np.arange(400) % 5 < 3]
    curve = precision_curve(probabilities, correct, np.arange(500))
    assert curve.claim(0.95) is None
    assert MIN_COVERAGE == 0.5
    claim = curve.claim(0.92)
    assert claim is not None
    assert claim.coverage == 0.2


def test_the_claim_holds_for_new_photos() -> None:
    """In at most one of twenty collections the precision of new photos is below the claim."""
    fresh, right, _ = draw(99, 200_000, digits=4)
    broken = claims = 0
    for seed in range(100):
        claim = precision_curve(*draw(seed, 2000, digits=4)).claim(0.95)
        if claim is not None and claim.is_met:
            claims += 1
            broken += right[fresh >= claim.threshold].mean() < 0.95
    assert claims > 50
    assert broken <= 0.05 * 100


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


def test_unknown_photos_are_never_sure() -> None:
    probabilities, correct, groups = draw(1, 400)
    unknown = np.random.default_rng(2).random(400) < 0.2
    without = precision_curve(probabilities[~unknown], correct[~unknown], groups[~unknown])
    curve = precision_curve(probabilities, correct, groups, unknown=unknown)
    assert curve.photos == without.photos
    assert (curve.total, without.total) == (400, (~unknown).sum())
    claim, alone = curve.claim(0.9), without.claim(0.9)
    assert claim is not None
    assert alone is not None
    assert claim.threshold == alone.threshold
    assert claim.coverage == pytest.approx(alone.coverage * (~unknown).mean())

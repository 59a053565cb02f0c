from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from finetune.evaluation.precision_target import (
    MIN_COVERAGE,
    MIN_REJECTED,
    HeldOutScores,
    PrecisionTarget,
    fit_highest_precision,
    fit_threshold,
)

PLAIN = {"confidence": 0.5, "hardest_share": 1.0}
"""A target on the photos of the fit, with the same weight for all unknown photos."""


def held_out(
    scores: ArrayLike,
    correct: ArrayLike,
    unknown_scores: ArrayLike = (),
    labels: NDArray[np.int64] | None = None,
    unknown_labels: NDArray[np.int64] | None = None,
) -> HeldOutScores:
    known = np.asarray(scores, np.float64)
    unknown = np.asarray(unknown_scores, np.float64)
    return HeldOutScores(
        scores=known,
        correct=np.asarray(correct, bool),
        labels=np.zeros(len(known), np.int64) if labels is None else labels,
        unknown_scores=unknown,
        unknown_labels=np.zeros(len(unknown), np.int64)
        if unknown_labels is None
        else unknown_labels,
    )


def draw(
    seed: int, known: int = 200, unknown: int = 80, digits: int = 1, rate: float = 0.9
) -> HeldOutScores:
    rng = np.random.default_rng(seed)
    return held_out(
        np.round(rng.normal(2, 1, known), digits),
        rng.random(known) < rate,
        np.round(rng.normal(0, 1, unknown), digits),
        unknown_labels=rng.integers(0, 4, unknown),
    )


def by_trying_every_threshold(found: HeldOutScores, precision: float) -> float | None:
    every = np.r_[found.scores, found.unknown_scores]
    right = np.r_[found.correct, np.zeros(len(found.unknown_scores), bool)]
    for threshold in np.unique(every):  # lowest first
        answered = every >= threshold
        if right[answered].sum() >= precision * answered.sum() - 1e-9:
            return float(threshold)
    return None


@pytest.mark.parametrize("precision", [0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_threshold_is_the_lowest_that_reaches_the_precision(precision: float, seed: int) -> None:
    found = draw(seed)
    fitted = fit_threshold(found, PrecisionTarget(precision=precision, **PLAIN))
    assert fitted.threshold == by_trying_every_threshold(found, precision)
    if fitted.threshold is not None:
        answered = np.r_[found.scores, found.unknown_scores] >= fitted.threshold
        right = np.r_[found.correct, np.zeros(80, bool)]
        assert fitted.measured_precision == pytest.approx(right[answered].mean())
        assert fitted.coverage == pytest.approx((found.scores >= fitted.threshold).mean())
        refused = (found.unknown_scores < fitted.threshold).mean()
        assert fitted.refused_unknown == pytest.approx(refused)
    assert (fitted.photos, fitted.unknown_photos) == (200, 80)


def wilson_below(right: np.int64, total: float, confidence: float) -> float:
    z = norm.ppf(confidence)
    share = right / total
    reach = z * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return float((share + z * z / (2 * total) - reach) / (1 + z * z / total))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hardest_share", [0.1, 0.5])
def test_with_confidence_the_lower_bound_reaches_the_precision(
    seed: int, hardest_share: float
) -> None:
    """Brute force: Wilson's bound at each threshold, unknown photos like the hardest labels."""
    found = draw(seed, known=400, unknown=200, digits=2, rate=0.97)
    target = PrecisionTarget(
        precision=0.85, unknown_share=0.2, confidence=0.9, hardest_share=hardest_share
    )
    expected = None
    for threshold in np.unique(np.r_[found.scores, found.unknown_scores]):
        answered = found.scores >= threshold
        shares = sorted(
            (found.unknown_scores[found.unknown_labels == label] >= threshold).mean()
            for label in range(4)
        )
        fooled = np.mean(shares[-1:] if hardest_share == 0.1 else shares[-2:])
        right, total = (answered & found.correct).sum(), answered.sum() + 0.25 * 400 * fooled
        if right and wilson_below(right, total, 0.9) >= 0.85:
            expected = threshold
            break
    assert expected is not None
    assert fit_threshold(found, target).threshold == expected


def test_a_hard_label_among_easy_ones_decides() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 40)
    # Photos of label 4 look as familiar as known ones; the others do not at all.
    scores = np.where(labels == 4, rng.normal(2, 1, 200), rng.normal(-4, 1, 200))
    found = held_out(rng.normal(2, 1, 400), np.ones(400), scores, unknown_labels=labels)
    of_all = PrecisionTarget(precision=0.9, unknown_share=0.2, confidence=0.5, hardest_share=1.0)
    cautious = dataclasses.replace(of_all, hardest_share=0.1)
    assert fit_threshold(found, of_all).coverage == 1.0
    assert fit_threshold(found, cautious).coverage < 0.1


def test_threshold_holds_its_precision_on_photos_it_was_not_fitted_on() -> None:
    """The target holds in at least nine of ten collections, as the confidence of 90 % states."""
    rng = np.random.default_rng(9)

    def photos(known: int, unknown: int) -> HeldOutScores:
        correct = rng.random(known) < 0.97
        scores = rng.normal(np.where(correct, 5.0, 3.0), 1.2)
        return held_out(scores, correct, rng.normal(1.5, 1.2, unknown))

    kept = 0
    for _ in range(60):
        fitted = fit_threshold(photos(150, 60), PrecisionTarget(precision=0.9))
        asked = photos(20_000, 8_000)
        answered = ~fitted.is_unknown(np.r_[asked.scores, asked.unknown_scores])
        kept += np.r_[asked.correct, np.zeros(8_000, bool)][answered].mean() >= 0.9
        assert fitted.coverage > 0.5
    assert kept >= 48


def test_unknown_photos_are_weighted_to_their_share() -> None:
    found = draw(3, known=300, unknown=100, rate=0.95)
    fitted = fit_threshold(found, PrecisionTarget(precision=0.9, unknown_share=0.4, **PLAIN))
    # 300 known photos and a share of 0.4 make 200 unknown ones: each of the 100 twice.
    doubled = dataclasses.replace(
        found,
        unknown_scores=np.repeat(found.unknown_scores, 2),
        unknown_labels=np.repeat(found.unknown_labels, 2),
    )
    twice = fit_threshold(doubled, PrecisionTarget(precision=0.9, **PLAIN))
    assert fitted.threshold == twice.threshold
    assert fitted.measured_precision == pytest.approx(twice.measured_precision)
    assert fitted.refused_unknown == twice.refused_unknown
    assert fitted.unknown_photos == 100


def test_the_greatest_precision_that_leaves_half_of_the_photos_is_stated() -> None:
    found = draw(5, known=400, unknown=100, digits=3)
    fitted = fit_highest_precision(found, unknown_share=0.2)
    assert fitted.precision == 0.8
    assert fitted.coverage >= MIN_COVERAGE
    for above in (0.95, 0.9):
        target = PrecisionTarget(precision=above, unknown_share=0.2)
        limit = fit_threshold(found, target).threshold
        assert limit is None or (found.scores >= limit).mean() < MIN_COVERAGE


def test_without_a_reachable_target_nothing_is_rejected() -> None:
    fitted = fit_highest_precision(held_out(np.arange(40.0), np.zeros(40), np.arange(10.0)))
    assert fitted.threshold is None
    assert fitted.coverage == 1.0
    assert fitted.refused_unknown == 0.0
    assert fitted.measured_precision == 0.0
    assert fitted.is_unknown([-100.0]).tolist() == [False]


def test_without_unknown_photos_the_lowest_scores_are_still_rejected() -> None:
    scores = np.arange(200.0)
    fitted = fit_highest_precision(held_out(scores, np.ones(200)))
    assert fitted.threshold == np.quantile(scores, MIN_REJECTED)
    assert fitted.coverage == pytest.approx(1 - MIN_REJECTED)
    assert (fitted.unknown_photos, fitted.refused_unknown) == (0, None)


def test_no_photos_give_no_threshold() -> None:
    fitted = fit_highest_precision(held_out([], []))
    assert fitted.threshold is None
    assert fitted.photos == 0
    assert fitted.refused_unknown is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": 0.0}, "precision 0.0 must lie above 0 and be at most 1"),
        ({"precision": 1.1}, "precision 1.1 must lie above 0 and be at most 1"),
        ({"unknown_share": 1.0}, "unknown_share 1.0 must be 0 or more and below 1"),
        ({"confidence": 0.4}, "confidence 0.4 must be 0.5 or more and below 1"),
        ({"hardest_share": 0.0}, "hardest_share 0.0 must lie above 0 and be at most 1"),
    ],
)
def test_an_invalid_precision_target_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PrecisionTarget(**wrong)


def test_scores_and_correct_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) scores, but \(1,\) correct values"):
        fit_threshold(held_out([1.0, 2.0], [True]))

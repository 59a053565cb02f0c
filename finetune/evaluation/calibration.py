"""Calibration of probabilities: temperature scaling, log loss, Brier score, calibration errors.

Temperature scaling (Guo et al. 2017): ``p = softmax(logits / T)`` with the T that minimizes the log
loss on photos that the network was not trained on. It changes no ranking, and is never fitted on
the test photos.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.probabilities import Floats, check, log_softmax, softmax

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Bounds of the temperature."""

PRIOR = 0.3
"""Prior standard deviation of ``log T``: T is between 0.74 and 1.35 with probability 2/3."""


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """Returns the temperature that calibrates ``softmax(logits / T)`` on these photos.

    It is the maximum a posteriori estimate under a normal prior of ``log T`` with mean 0 and
    standard deviation `PRIOR`: with N photos it minimizes

        N · log loss(T) + (log T)² / (2 · PRIOR²)

    With few photos the log loss alone is noisy, and if all are right it decreases without limit as
    T goes to 0. The prior keeps T near 1 for few photos and has no effect for many.

    In ``b = 1/T`` the log loss ``mean(logsumexp(b·z) - b·z_y)`` is convex. The zero of the slope is
    found by Newton steps, replaced by bisection when one leaves the bracket.

    Args:
        logits: ``(N, C)`` of photos that the network was not trained on.
        targets: ``(N,)`` true indices.

    Returns:
        A temperature in 0.05..20; 1.0 without photos, for one label, or for equal logits.

    Raises:
        ModelError: Some logits are not finite.
        ValueError: Shapes that do not fit.
    """
    if np.asarray(logits).size == 0:
        return 1.0
    values, indices = check(logits, targets)
    count, labels = values.shape
    # Shifting a row changes no probability and keeps the sums well conditioned.
    values = values - values.mean(axis=1, keepdims=True)
    if labels == 1 or np.ptp(values, axis=1).max() == 0:
        return 1.0
    target = float(values[np.arange(count), indices].mean())
    weight = 1 / (PRIOR**2 * count)

    def slope_at(inverse: float) -> tuple[float, float]:
        slope, curvature = _slope(values, inverse)
        logarithm = math.log(inverse)
        return (
            slope - target + weight * logarithm / inverse,
            curvature + weight * (1 - logarithm) / inverse**2,
        )

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope_at(low)[0] >= 0:
        return MAX_TEMPERATURE
    if slope_at(high)[0] <= 0:
        return MIN_TEMPERATURE
    inverse = 1.0
    for _ in range(100):
        slope, curvature = slope_at(inverse)
        if slope > 0:
            high = inverse
        else:
            low = inverse
        step = slope / curvature if curvature > 0 else np.inf
        previous, inverse = inverse, inverse - step
        if not low < inverse < high:
            inverse = (low + high) / 2
        if abs(inverse - previous) <= 1e-12 * inverse:
            break
    return float(1 / inverse)


def _slope(values: np.ndarray, inverse: float) -> tuple[float, float]:
    """Returns mean and mean variance of the logits under ``softmax(inverse · values)``."""
    probabilities = softmax(values * inverse)
    expected = (probabilities * values).sum(axis=1)
    spread = (probabilities * (values - expected[:, None]) ** 2).sum(axis=1)
    return float(expected.mean()), float(spread.mean())


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    """Returns coverage ``k/N`` and the share of mistakes among the k surest, for k = 1..N.

    Geifman & El-Yaniv (2017). Photos of equal confidence share their mistakes evenly.

    Args:
        confidence: ``(N,)``, higher is more certain.
        correct: ``(N,)`` of 0 and 1.

    Returns:
        Coverage and risk, each ``(N,) float64``.
    """
    scores = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    mistakes = 1.0 - np.asarray(correct, dtype=np.float64)[order]
    mistakes = share_among_ties(scores[order], mistakes)
    taken = np.arange(1, len(scores) + 1)
    return taken / len(scores), np.cumsum(mistakes) / taken


def area_under_risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Returns AURC, the mean risk over all coverages; 0 is best (Geifman et al. 2019)."""
    return float(risk_coverage(confidence, correct)[1].mean())


def coverage_at_precision(confidence: ArrayLike, correct: ArrayLike, precision: float) -> float:
    """Returns the largest share of photos that can get a label with at least this precision.

    Only thresholds count: photos of equal confidence are kept all or none. 0.0 where not
    even the surest photos reach the precision.
    """
    scores = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(np.asarray(correct, dtype=np.float64)[order])
    taken = np.arange(1, len(scores) + 1)
    last_of_ties = np.r_[scores[order][1:] != scores[order][:-1], True]
    # Compared as counts: 19/20 >= 0.95 must hold whatever its rounding.
    enough = hits >= precision * taken - 1e-9
    good = np.flatnonzero(last_of_ties & enough)
    return float(taken[good[-1]] / len(scores)) if len(good) else 0.0


BINS = 15
"""Bins of the calibration errors, as in Guo et al. (2017)."""

RESAMPLES = 500
"""Resamples of `expected_gap`."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Photos with confidence in ``(low, high]``; means are None for an empty bin."""

    low: float
    high: float
    photos: int
    confidence: float | None
    accuracy: float | None


def log_loss(logits: ArrayLike, targets: ArrayLike) -> float:
    """Returns the mean negative log probability of the truth, in nats.

    Computed from logits by `log_softmax`: clipping probabilities would make a confident mistake
    too cheap.
    """
    values, indices = check(logits, targets)
    return float(-log_softmax(values)[np.arange(len(indices)), indices].mean())


def brier(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Returns the multi-class Brier score ``mean(sum_c (p_c - [c = target])²)``, 0 to 2.

    Brier (1950); two labels give twice the score that is usual for a yes/no forecast.
    """
    values, indices = check(probabilities, targets)
    wrong = values.copy()
    wrong[np.arange(len(indices)), indices] -= 1.0
    return float((wrong**2).sum(axis=1).mean())


def confidence_and_correct(probabilities: ArrayLike, targets: ArrayLike) -> tuple[Floats, Floats]:
    """Returns each photo's greatest probability and whether it is right (1.0 or 0.0), ``(N,)``."""
    values, indices = check(probabilities, targets)
    return values.max(axis=1), (values.argmax(axis=1) == indices).astype(np.float64)


def reliability_bins(
    probabilities: ArrayLike, targets: ArrayLike, *, bins: int = BINS
) -> list[ReliabilityBin]:
    """Returns mean confidence and accuracy in bins of equal width, ``(k/bins, (k+1)/bins]``."""
    return bin_confidence(*confidence_and_correct(probabilities, targets), bins=bins)


def bin_confidence(
    confidence: ArrayLike, correct: ArrayLike, *, bins: int = BINS
) -> list[ReliabilityBin]:
    """Returns the same from each photo's confidence and whether it is right, ``(N,)`` each."""
    values, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    edges = np.linspace(0.0, 1.0, bins + 1)
    # side="left" makes each bin open below and closed above; softmax may round a hair past 1.
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = np.bincount(place, weights=values, minlength=bins)
    hits = np.bincount(place, weights=right, minlength=bins)
    return [
        ReliabilityBin(
            low=float(edges[k]),
            high=float(edges[k + 1]),
            photos=int(counts[k]),
            confidence=float(sums[k] / counts[k]) if counts[k] else None,
            accuracy=float(hits[k] / counts[k]) if counts[k] else None,
        )
        for k in range(bins)
    ]


def expected_calibration_error(
    probabilities: ArrayLike, targets: ArrayLike, *, bins: int = BINS
) -> float:
    """Returns ECE: ``sum_b n_b/N · |accuracy_b - confidence_b|`` over bins of equal width.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), eq. 3.
    """
    return calibration_gap(reliability_bins(probabilities, targets, bins=bins))


def calibration_gap(bins: list[ReliabilityBin]) -> float:
    """Returns the mean gap between confidence and accuracy over bins, weighted by photos."""
    total = sum(item.photos for item in bins)
    return sum(
        item.photos / total * abs(item.accuracy - item.confidence)
        for item in bins
        if item.accuracy is not None and item.confidence is not None
    )


@dataclass(frozen=True, kw_only=True)
class ExpectedGap:
    """Calibration error expected by chance of a perfectly calibrated model.

    Attributes:
        mean: On average.
        high: In 19 of 20 such models it is at most this.
    """

    mean: float
    high: float


def expected_gap(
    confidence: ArrayLike,
    *,
    bins: int = BINS,
    resamples: int = RESAMPLES,
    rng: np.random.Generator,
) -> ExpectedGap:
    """Returns the ECE of simulated photos that are right with their predicted probability.

    The gap in a bin of few photos is never 0, however good the probabilities: ECE is biased upward,
    the more so the fewer photos there are (Bröcker 2012; Roelofs et al. 2022, "Mitigating Bias in
    Calibration Error Estimation"). This bias is simulated: each photo is right with a probability
    equal to its confidence, `resamples` times (the consistency resampling of Bröcker & Smith
    2007).

    Args:
        confidence: ``(N,)`` greatest probability of each photo.
        bins: As in `expected_calibration_error`.
        resamples: How many times.
        rng: Source of randomness.
    """
    values = np.clip(np.asarray(confidence, np.float64), 0.0, 1.0)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
    order = np.argsort(place, kind="stable")
    values, starts = values[order], np.flatnonzero(np.r_[True, np.diff(place[order]) > 0])
    gaps = np.empty(resamples)
    for k in range(resamples):
        surplus = (rng.random(len(values)) < values) - values
        gaps[k] = np.abs(np.add.reduceat(surplus, starts)).sum() / len(values)
    return ExpectedGap(mean=float(gaps.mean()), high=float(np.quantile(gaps, 0.95)))


def adaptive_calibration_error(
    probabilities: ArrayLike, targets: ArrayLike, *, bins: int = BINS
) -> float:
    """Returns ECE over bins of equal numbers of photos, by confidence.

    Nguyen & O'Connor (2015); Nixon et al. (2019) name it adaptive. Photos are sorted by
    confidence and cut as ``numpy.array_split`` cuts; with fewer photos than bins each photo is a
    bin. Photos of equal confidence count as equally often right, so that their order is irrelevant.
    """
    confidence, correct = confidence_and_correct(probabilities, targets)
    order = np.argsort(confidence, kind="stable")
    confidence, correct = confidence[order], share_among_ties(confidence[order], correct[order])
    error = 0.0
    for part in np.array_split(np.arange(len(order)), min(bins, len(order))):
        error += len(part) / len(order) * abs(correct[part].mean() - confidence[part].mean())
    return float(error)


def share_among_ties(sorted_scores: Floats, values: Floats) -> Floats:
    """Returns values with each run of equal scores replaced by its mean.

    It is what a random order among ties gives on average, and depends on no order.
    """
    starts = np.flatnonzero(np.r_[True, sorted_scores[1:] != sorted_scores[:-1]])
    lengths = np.diff(np.r_[starts, len(sorted_scores)])
    means: Floats = np.repeat(np.add.reduceat(values, starts) / lengths, lengths)
    return means

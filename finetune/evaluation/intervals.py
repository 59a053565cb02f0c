"""Confidence intervals, and paired tests of two models on the same photos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.probabilities import Floats

Interval = tuple[float, float]
"""Lower and upper end."""


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval | None:
    """Returns Wilson's score interval of a share; None without a trial.

    ``(p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` with ``p = successes / n``
    (Wilson 1927, eq. 4). Unlike ``p ± z·sqrt(p(1-p)/n)`` it stays within 0..1 and has a width at
    0 of n and n of n.

    Example:
        >>> [round(end, 4) for end in wilson(8, 10)]
        [0.4902, 0.9433]
    """
    return _wilson(successes / trials, trials, confidence) if trials else None


def cross_validated_interval(
    successes: int, trials: int, *, folds: int, confidence: float = 0.95
) -> Interval | None:
    """Returns the interval of a share of correct photos in a cross-validation; None without one.

    It is Wilson's for ``trials (K - 1) / (2 K - 1)`` photos. Other training photos would have given
    other heads, so the variance of the share is ``1/K + 1/(K - 1)`` of that of a fold instead of
    ``1/K`` (Nadeau and Bengio 2003, "Inference for the generalization error", section 3).

    Example:
        >>> [round(end, 3) for end in cross_validated_interval(270, 300, folds=5)]
        [0.837, 0.94]
    """
    if trials == 0:
        return None
    return _wilson(successes / trials, trials * (folds - 1) / (2 * folds - 1), confidence)


def _wilson(share: float, trials: float, confidence: float) -> Interval:
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    center = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # Rounding may leave the ends of 0 of n and n of n a hair outside.
    low = 0.0 if share == 0 else (center - reach) / scale
    high = 1.0 if share == 1 else (center + reach) / scale
    return low, high


def clopper_pearson_lower(successes: float, trials: int, *, confidence: float = 0.95) -> float:
    """Returns the exact one-sided lower bound of a share; 0 without a success.

    The share at which at least as many successes have the probability ``1 - confidence`` (Clopper
    & Pearson 1934); without a failure ``(1 - confidence)^(1 / trials)``, so that 59 trials are the
    fewest that show a share of 95 %.

    Args:
        successes: At most `trials`; a fraction is rounded down.
        trials: Independent trials.
        confidence: Probability that the bound is below the share.

    Example:
        >>> round(clopper_pearson_lower(59, 59), 4)
        0.9505
    """
    failures = trials - math.floor(successes + 1e-9)
    if failures >= trials:
        return 0.0
    if failures == 0:
        return float((1 - confidence) ** (1 / trials))
    counts = np.arange(1, failures + 1)
    # Logarithms of the binomial coefficients of 0 to `failures`.
    log_ways = np.r_[0.0, np.cumsum(np.log((trials - counts + 1) / counts))]
    numbers = np.arange(failures + 1)
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        terms = log_ways + numbers * math.log1p(-share) + (trials - numbers) * math.log(share)
        if np.exp(terms).sum() < 1 - confidence:
            low = share
        else:
            high = share
    return low


def clopper_pearson_reaches(
    successes: float, trials: int, share: float, *, confidence: float = 0.95
) -> bool:
    """Returns whether `clopper_pearson_lower` is at least a share, faster than computing it.

    It is where at least as many successes have a probability of at most ``1 - confidence`` at that
    share.

    Example:
        >>> clopper_pearson_reaches(59, 59, 0.95), clopper_pearson_reaches(58, 58, 0.95)
        (True, False)
    """
    failures = trials - math.floor(successes + 1e-9)
    if failures >= trials:
        return False
    counts = np.arange(1, failures + 1)
    steps = np.log((trials - counts + 1) / counts) + math.log1p(-share) - math.log(share)
    terms = np.r_[0.0, np.cumsum(steps)] + trials * math.log(share)
    return float(np.exp(terms).sum()) <= 1 - confidence + 1e-12


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval | None:
    """Returns Student's t interval of a mean; None for fewer than two values.

    ``mean ± t(K - 1) · s / sqrt(K)`` with s the standard deviation over ``K - 1`` (Student 1908).
    It assumes independent values. Those of a cross-validation are not: its folds train on
    much the same photos, no estimate of the variance of their mean is free of bias (Bengio &
    Grandvalet 2004, "No unbiased estimator of the variance of k-fold cross-validation", JMLR 5),
    and this one is mostly too small.

    Example:
        >>> [round(end, 4) for end in mean_interval([0.9, 0.8, 0.85])]
        [0.7258, 0.9742]
    """
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    reach = student_t(0.5 + confidence / 2, count - 1) * math.sqrt(variance / count)
    return mean - reach, mean + reach


def student_t(probability: float, freedom: int) -> float:
    """Returns the quantile of Student's t distribution with integer degrees of freedom.

    The distribution function is a finite sum in ``arctan(t / sqrt(freedom))`` (Abramowitz & Stegun
    1964, 26.7.3 and 26.7.4); the quantile is found by bisection.

    Raises:
        ValueError: A probability outside 0.5..1 (1 left out), or no degree of freedom.

    Example:
        >>> round(student_t(0.975, 4), 4)
        2.7764
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(f"no t quantile for {probability} with {freedom} degrees of freedom")
    # In the angle rather than in t, which has no upper bound.
    low, high = 0.0, math.pi / 2
    while True:
        angle = (low + high) / 2
        if angle in (low, high):
            return math.sqrt(freedom) * math.tan(angle)
        if 0.5 + _t_central(angle, freedom) / 2 < probability:
            low = angle
        else:
            high = angle


def _t_central(angle: float, freedom: int) -> float:
    """Returns the probability of ``|t| <= sqrt(freedom) * tan(angle)``."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = (cosine if freedom > 1 else 0.0) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def percentile_interval(values: Floats, *, confidence: float = 0.95) -> Interval | None:
    """Returns the percentile bootstrap interval (Efron 1979) of a statistic's resampled values.

    It spans the middle `confidence` share of them; NaN (undefined) is left out, and None is
    returned where all are.
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


RESAMPLES = 10_000


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the p-value of McNemar's exact two-sided test.

    Photos on which both are right or both wrong carry no information. Each of the n others is as
    likely to be the first's as the second's if the two are equally good:
    ``p = min(1, 2·sum_{k <= min(a, b)} C(n, k) / 2^n)`` (McNemar 1947, in its binomial form).

    Args:
        only_first: Photos that only the first is right on.
        only_second: Photos that only the second is right on.

    Example:
        >>> mcnemar(1, 9)
        0.021484375
    """
    differing = only_first + only_second
    fewer = min(only_first, only_second)
    # Integers, so that thousands of photos neither overflow nor underflow.
    term = tail = 1
    for k in range(fewer):
        term = term * (differing - k) // (k + 1)
        tail += term
    return min(1.0, float(2 * tail / 2**differing))


def paired_t_test(first: ArrayLike, second: ArrayLike) -> float:
    """Returns the p-value of Student's paired two-sided t-test; 1 for fewer than two pairs.

    ``t = mean(d) / (s / sqrt(n))`` of the differences ``d``, with ``n - 1`` degrees of freedom.

    Args:
        first: ``(N,)`` values.
        second: ``(N,)`` values of the same photos.

    Example:
        >>> round(paired_t_test([1.0, 2.0, 3.0, 4.0], [1.5, 2.1, 3.9, 4.6]), 4)
        0.0479
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    freedom = len(differences) - 1
    if freedom < 1 or not differences.any():
        return 1.0
    deviation = float(differences.std(ddof=1))
    if deviation == 0:
        return 0.0
    t = abs(float(differences.mean())) / (deviation / math.sqrt(freedom + 1))
    return max(0.0, 1 - _t_central(math.atan(t / math.sqrt(freedom)), freedom))


def accuracy_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """Returns the gain in accuracy of the second, with its paired bootstrap interval.

    Photos are drawn again with replacement, each with both predictions of it (Efron & Tibshirani
    1993, chapter 8). A photo adds +1, -1 or 0, so that a resample is a draw of three counts.

    Args:
        first: ``(N,)`` whether the first is right.
        second: ``(N,)`` the same of the second, on the same photos.
        rng: Source of randomness.
        resamples: How many times the photos are drawn again.
        confidence: Share of the resamples that the interval spans.

    Raises:
        ValueError: Different numbers of photos, or none.
    """
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != two.shape or one.ndim != 1 or not len(one):
        raise ValueError(f"{one.shape} and {two.shape} are not predictions of the same photos")
    gains, losses = int((two & ~one).sum()), int((one & ~two).sum())
    shares = np.array([gains, losses, len(one) - gains - losses]) / len(one)
    drawn = rng.multinomial(len(one), shares, size=resamples)
    ends = percentile_interval((drawn[:, 0] - drawn[:, 1]) / len(one), confidence=confidence)
    return (gains - losses) / len(one), ends or (0.0, 0.0)


def paired_difference(gains: int, losses: int, trials: int) -> Interval:
    """Returns the 95 % interval of the gain in accuracy of the second of two classifiers.

    Wald's interval with half a photo added to each of the four cells (Agresti & Min 2005, "Simple
    improved confidence intervals for comparing matched proportions"), which holds its level for
    few photos too, and is no point where both are right on the same ones.

    Args:
        gains: Photos that only the second predicts correctly.
        losses: Photos that only the first predicts correctly.
        trials: All photos, at least one.

    Example:
        >>> low, high = paired_difference(4, 0, 10)
        >>> round(low, 3), round(high, 3)
        (-0.006, 0.673)
    """
    more, less, size = gains + 0.5, losses + 0.5, trials + 2.0
    middle = (more - less) / size
    error = NormalDist().inv_cdf(0.975) * math.sqrt((more + less) / size - middle**2)
    reach = error / math.sqrt(size)
    return max(-1.0, middle - reach), min(1.0, middle + reach)

"""Paired tests of two networks on the same photos."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.intervals import Interval, percentile_interval

RESAMPLES = 10_000


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the p-value of McNemar's exact two-sided test.

    Photos on which both are right or both wrong say nothing about which is better. Of the n
    others, each is as likely to be the first's as the second's if the two are equally good:
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
    # Whole numbers, so that thousands of photos neither overflow nor underflow.
    term = tail = 1
    for k in range(fewer):
        term = term * (differing - k) // (k + 1)
        tail += term
    return min(1.0, float(2 * tail / 2**differing))


def accuracy_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """Returns the gain in accuracy of the second, with its paired bootstrap interval.

    Photos are drawn again with replacement, each with what both said of it (Efron & Tibshirani
    1993, chapter 8). A photo adds +1, -1 or 0, so that a resample is a draw of three counts.

    Args:
        first: ``(N,)`` whether the first is right.
        second: ``(N,)`` the same of the second, on the same photos.
        rng: The source of chance.
        resamples: How many times the photos are drawn again.
        confidence: Share of the resamples that the interval spans.

    Raises:
        ValueError: Different numbers of photos, or none.
    """
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != two.shape or one.ndim != 1 or not len(one):
        raise ValueError(f"{one.shape} and {two.shape} are not answers on the same photos")
    gains, losses = int((two & ~one).sum()), int((one & ~two).sum())
    shares = np.array([gains, losses, len(one) - gains - losses]) / len(one)
    drawn = rng.multinomial(len(one), shares, size=resamples)
    ends = percentile_interval((drawn[:, 0] - drawn[:, 1]) / len(one), confidence=confidence)
    return (gains - losses) / len(one), ends or (0.0, 0.0)

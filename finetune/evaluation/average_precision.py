"""Average precision of a ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.probabilities import Floats


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Returns ``sum_n (R_n - R_{n-1}) · P_n`` over the thresholds; None without a positive.

    The area under the precision-recall curve without interpolation; equal scores are one
    threshold.

    Args:
        scores: ``(N,)``, greater is likelier.
        positive: ``(N,)`` of 0 and 1.

    Example:
        >>> average_precision([0.9, 0.8, 0.1], [1, 0, 1])
        0.8333333333333333
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(positive, dtype=np.float64)
    positives = truth.sum()
    if positives == 0:
        return None
    order = np.argsort(-values, kind="stable")
    thresholds = np.flatnonzero(np.r_[values[order][1:] != values[order][:-1], True])
    hits = np.cumsum(truth[order])[thresholds]
    precision = hits / (thresholds + 1)
    return float((np.diff(np.r_[0.0, hits]) / positives * precision).sum())


def average_precisions(scores: ArrayLike, truth: ArrayLike) -> list[float | None]:
    """Returns the average precision of each column of ``(N, C)`` scores against 0/1 truth."""
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    return [average_precision(values[:, c], positive[:, c]) for c in range(values.shape[1])]


def defined_mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the defined values, or None."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def resampled_average_precision(
    scores: ArrayLike, positive: ArrayLike, weights: ArrayLike
) -> Floats:
    """Returns the average precision under each of R rows of weights, ``(R,)``; NaN if undefined.

    Args:
        scores: ``(N,)``, greater is likelier.
        positive: ``(N,)`` of 0 and 1.
        weights: ``(R, N)``: how many times each photo counts.
    """
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    thresholds = np.flatnonzero(np.r_[values[order][1:] != values[order][:-1], True])
    counted = np.asarray(weights, dtype=np.float64)[:, order]
    said = np.cumsum(counted, axis=1)[:, thresholds]
    hits = np.cumsum(counted * np.asarray(positive, np.float64)[order], axis=1)[:, thresholds]
    precision = np.divide(hits, said, out=np.zeros_like(hits), where=said > 0)
    gained = np.diff(hits, axis=1, prepend=0.0)
    total = hits[:, -1]
    found: Floats = np.divide(
        (gained * precision).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0
    )
    return found

"""Temperature scaling: one number that makes probabilities keep their word.

Guo et al. (2017): ``p = softmax(logits / T)`` with the T that minimizes the log loss on photos that
the network did not learn from, which changes no answer, only how sure it is. Never fitted on the
test part.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.probabilities import check, softmax

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of the temperature."""

PRIOR = 0.3
"""Deviation of the temperature's logarithm before any photo is seen: two in three between 0.74 and
1.35."""


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """Returns the temperature that makes ``softmax(logits / T)`` honest on these photos.

    The most probable T, given the photos and that its logarithm is a draw from a normal
    distribution of mean 0 and deviation `PRIOR`: with N photos it minimizes

        N · log loss(T) + (log T)² / (2 · PRIOR²)

    Few photos say little of T, and the log loss alone then follows chance; where every photo is
    right, it even falls for ever as T falls to 0, that is "always 100 % sure". What is added holds
    T near 1 against a few photos and is nothing against many.

    In ``b = 1/T`` the log loss ``mean(logsumexp(b·z) - b·z_y)`` is convex. The zero of the whole
    slope is found by Newton steps, halved wherever one leaves the bracket.

    Args:
        logits: ``(N, C)`` of photos that the network did not learn from.
        targets: ``(N,)`` true indices.

    Returns:
        A temperature in 0.05..20; 1.0 where there is nothing to learn from (no photos, one
        label, or logits that are all equal).

    Raises:
        ModelError: Some logits are not finite.
        ValueError: Shapes that do not fit.
    """
    if np.asarray(logits).size == 0:
        return 1.0
    values, indices = check(logits, targets)
    count, labels = values.shape
    # A shift of a row changes no probability; it keeps the sums below well conditioned.
    values = values - values.mean(axis=1, keepdims=True)
    if labels == 1 or np.ptp(values, axis=1).max() == 0:
        return 1.0
    wanted = float(values[np.arange(count), indices].mean())
    weight = 1 / (PRIOR**2 * count)

    def slope_at(inverse: float) -> tuple[float, float]:
        slope, curvature = _slope(values, inverse)
        logarithm = math.log(inverse)
        return (
            slope - wanted + weight * logarithm / inverse,
            curvature + weight * (1 - logarithm) / inverse**2,
        )

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope_at(low)[0] >= 0:
        return HOTTEST
    if slope_at(high)[0] <= 0:
        return COLDEST
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

"""Temperature scaling: one number that makes probabilities keep their word.

Guo et al. (2017): ``p = softmax(logits / T)`` with the T that minimises the log loss on the
validation part, which changes no answer, only how sure it is. Never fitted on the test part.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.probabilities import check, softmax

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of the temperature."""


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """Returns the temperature that makes ``softmax(logits / T)`` honest on these photos.

    In ``b = 1/T`` the log loss ``mean(logsumexp(b·z) - b·z_y)`` is convex, so that its slope
    ``mean(sum_c p_c·z_c - z_y)`` has one zero: found by Newton steps, halved wherever one leaves
    the bracket. Where every validation photo is right, that loss falls for ever as T falls to 0,
    that is "always 100 % sure". So the N photos count as N + 1, one of them of unknown label:
    each target is ``(1 - e)·onehot + e/C`` with ``e = 1/(N + 1)``, in the spirit of Platt (1999,
    section 2.2). The loss stays convex, and the effect vanishes as N grows.

    Args:
        logits: ``(N, C)`` of the validation part.
        targets: ``(N,)`` true indices.

    Returns:
        A temperature in 0.05..20; 1.0 where there is nothing to learn from (no photos, one
        label, or logits that are all equal). It is at a bound where the answers are no better
        than chance (20: all labels equally likely).

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
    # The mean over all labels is 0 after the shift, so that only the one-hot share is left.
    wanted = count / (count + 1) * float(values[np.arange(count), indices].mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    if _slope(values, low)[0] >= wanted:
        return HOTTEST
    if _slope(values, high)[0] <= wanted:
        return COLDEST
    inverse = 1.0
    for _ in range(100):
        slope, curvature = _slope(values, inverse)
        if slope > wanted:
            high = inverse
        else:
            low = inverse
        step = (slope - wanted) / curvature if curvature > 0 else np.inf
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

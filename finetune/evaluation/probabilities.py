"""Logits to probabilities in float64, and the checks that every metric shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.errors import ModelError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def log_softmax(logits: ArrayLike) -> Floats:
    """Returns the log probabilities of logits, rows summing to one after ``exp``.

    ``log p_c = z_c - max(z) - log(sum(exp(z - max(z))))``, which neither overflows nor loses a
    confident prediction to rounding.

    Args:
        logits: ``(N, C)``, any float type; computed in float64.

    Returns:
        ``(N, C) float64``.
    """
    values = np.asarray(logits, dtype=np.float64)
    shifted = values - values.max(axis=-1, keepdims=True)
    normalized: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalized


def softmax(logits: ArrayLike, *, temperature: float = 1.0) -> Floats:
    """Returns the probabilities ``softmax(logits / temperature)``, ``(N, C) float64``.

    Example:
        >>> softmax([[0.0, 0.0]]).tolist()
        [[0.5, 0.5]]
    """
    return np.exp(log_softmax(np.asarray(logits, dtype=np.float64) / temperature))


def sigmoid(logits: ArrayLike, *, temperature: float = 1.0) -> Floats:
    """Returns ``1 / (1 + exp(-logits / temperature))`` of each logit on its own, float64.

    Example:
        >>> sigmoid([[0.0, 800.0, -800.0]]).tolist()
        [[0.5, 1.0, 0.0]]
    """
    values = np.asarray(logits, dtype=np.float64) / temperature
    # exp of what is 0 or less never overflows.
    small = np.exp(-np.abs(values))
    shares: Floats = np.where(values >= 0, 1.0, small) / (1.0 + small)
    return shares


def check(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, Integers]:
    """Returns logits or probabilities as ``(N, C) float64`` and targets as ``(N,) int64``.

    Raises:
        ModelError: Some values are NaN or infinite, as after diverged training.
        ValueError: Shapes that do not fit, no photos, or a target outside ``0 <= target < C``.
    """
    values = np.asarray(scores, dtype=np.float64)
    indices = np.asarray(targets)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"scores must have the shape (N, C), not {values.shape}")
    if indices.shape != (len(values),):
        raise ValueError(f"{len(values)} rows of scores, but targets have shape {indices.shape}")
    if not len(values):
        raise ValueError("there are no photos to evaluate")
    if not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"targets must be integers, not {indices.dtype}")
    if indices.min() < 0 or indices.max() >= values.shape[1]:
        raise ValueError(f"targets must lie in 0..{values.shape[1] - 1}")
    check_finite(values)
    return values, indices.astype(np.int64)


def check_finite(values: NDArray[Any]) -> None:
    """Raises ModelError unless all ``(N, C)`` values are finite."""
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    if bad:
        raise ModelError(
            f"The network's predictions for {bad} of {len(values)} photos are not finite numbers: "
            "the training has diverged. Train again with a lower --lr."
        )

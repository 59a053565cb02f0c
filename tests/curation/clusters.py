"""Features of drawn clusters, and a model of the labels of some."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from finetune.curation.label_model import LabelModel


def clusters(
    *sizes: int, noise: float = 0.25, seed: int = 0
) -> tuple[NDArray[np.float32], list[int]]:
    """Returns non-negative features of clusters of these sizes, shuffled, and the clusters."""
    rng = np.random.default_rng(seed)
    own = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centers = rng.gamma(1.0, 1.0, (len(sizes), 64))
    rows = centers[own] * np.exp(rng.normal(0, noise, (len(own), 64)))
    return rows.astype(np.float32), own.tolist()


def model_of(
    rows: NDArray[np.float32], own: list[int], labeled: list[int], groups: list[int] | None = None
) -> LabelModel:
    names = [f"label {k}" for k in range(max(own) + 1)]
    return LabelModel(
        rows,
        np.array(labeled),
        np.array([own[k] for k in labeled]),
        groups or labeled,
        names,
    )


def first_of_each(own: list[int], count: int) -> list[int]:
    return [k for k, c in enumerate(own) if own[:k].count(c) < count]

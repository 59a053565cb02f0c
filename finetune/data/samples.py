"""Photos with their targets, as a data set lists them (imports no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.photos.crops import Crop


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Photo with its target.

    Attributes:
        path: Relative to the root of the dataset.
        digest: Digest of its content.
        crop: Crop of the photo; None: the `fit` of the preprocessing.
        target: Index of its label, or the indices of its labels where it may have several.
    """

    path: str
    digest: str
    crop: Crop | None
    target: int | tuple[int, ...]


def targets_of_samples(samples: Sequence[Sample], labels: int | None) -> NDArray[Any]:
    """Returns the targets of samples.

    Args:
        samples: N photos.
        labels: C where a photo may have several labels or none, else None.

    Returns:
        ``(N,) int64`` label indices, or ``(N, C) float32`` of 0 and 1.
    """
    if labels is None:
        return np.array([sample.target for sample in samples], dtype=np.int64)
    rows = np.zeros((len(samples), labels), dtype=np.float32)
    for row, sample in zip(rows, samples, strict=True):
        row[np.atleast_1d(np.array(sample.target, dtype=np.int64))] = 1
    return rows

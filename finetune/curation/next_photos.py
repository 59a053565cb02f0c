"""Photos to label next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from finetune.curation.label_model import CHUNK, RootSpace

SAMPLE = 1500
"""Photos of a large collection among which the next ones are chosen."""

FEW = 5
"""Independent photos up to which a label comes first."""

Array = NDArray[np.float64]


def select_next(
    features: NDArray[np.floating],
    labeled: NDArray[np.int64],
    positions: NDArray[np.int64],
    *,
    priority: Array | None = None,
    count: int = 20,
) -> list[int]:
    """Returns the positions of the photos to label next: those that stand for most others.

    Greedy facility location (Nemhauser, Wolsey and Fisher 1978): the photo that adds most to
    the sum, over all unlabeled photos, of the cosine to the nearest labeled or chosen one. Of a
    burst, one photo is taken. Of a large collection, `SAMPLE` random photos stand for all.

    Args:
        features: ``(N, F)`` of all photos.
        labeled: Positions of the labeled photos.
        positions: ``(P,)``, positions of the photos to choose from.
        priority: ``(P,)``, factors of what each photo adds.
        count: Maximum number of photos.
    """
    factors = np.ones(len(positions)) if priority is None else priority
    if len(positions) > SAMPLE:
        drawn = np.sort(np.random.default_rng(0).permutation(len(positions))[:SAMPLE])
        positions, factors = positions[drawn], factors[drawn]
    space = RootSpace(features)
    rows = space.rows(features[positions])
    cosines = rows @ rows.T
    covered = np.zeros(len(rows), np.float32)
    for start in range(0, len(labeled), CHUNK):
        others = space.rows(features[labeled[start : start + CHUNK]])
        covered = np.maximum(covered, (rows @ others.T).max(axis=1))
    free = np.ones(len(rows), bool)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        gains = np.maximum(cosines - covered[:, None], 0).sum(axis=0) * factors
        best = int(np.where(free, gains, -1.0).argmax())
        chosen.append(int(positions[best]))
        free[best] = False
        covered = np.maximum(covered, cosines[best])
    return chosen


def balance(counts: Array, predicted: NDArray[np.int64], shares: Array | None = None) -> Array:
    """Returns the priorities of photos, given the independent photos of each label.

    Labels with few photos come first, so that each soon has the `FEW` of a cohort. Of the others,
    photos that are sure come last: they will be accepted together.

    Args:
        counts: ``(labels,)``.
        predicted: ``(P,)``, index of the nearest label of each photo.
        shares: ``(P,)``, calibrated probabilities of these labels; None: unknown.
    """
    few = np.minimum(counts, FEW)[predicted]
    is_few = few < FEW - 1e-6
    doubts = 1.0 if shares is None else np.where(is_few, 1.0, 1 - shares)
    result: Array = np.where(is_few, 3.0, 1.0) / (1 + few) ** 2 * doubts
    return result


def uncertainty(probabilities: Array) -> Array:
    """Returns 1 minus the margin between the two likeliest labels, ``(N,)`` in [0, 1]."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    two = -np.partition(-probabilities, 1, axis=1)[:, :2]
    margin: Array = 1 - (two[:, 0] - two[:, 1])
    return margin

"""Label suggestions for unlabeled photos, and active learning order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from finetune.curation.embedding import unit_rows

NEIGHBORS = 10
"""Number of nearest neighbors that vote."""

TEMPERATURE = 0.07
"""Temperature of the neighbors' votes (Wu et al. 2018, arXiv:1805.01978)."""

PRIOR_VOTE = 0.5
"""Prior vote spread over all labels; the nearest neighbor's vote is 1."""

CHUNK = 2048
"""Photos that are compared with all labeled ones at a time, to bound the memory."""


def neighbor_probabilities(
    features: NDArray[np.float32],
    labeled: NDArray[np.float32],
    targets: NDArray[np.int64],
    labels: int,
    *,
    neighbors: int = NEIGHBORS,
) -> NDArray[np.float64]:
    """Returns the probability of each label by the nearest labeled photos.

    Each of the k nearest by cosine s votes for its label with weight
    ``exp((s - s_nearest) / 0.07)``; a prior vote of 0.5 is spread over all labels.

    Args:
        features: ``(N, F)`` of the photos to label.
        labeled: ``(M, F)`` of the labeled photos.
        targets: ``(M,)``, label indices of the labeled photos.
        labels: Number of labels.
        neighbors: k; at most M are used.

    Returns:
        ``(N, labels)``; rows sum to 1; uniform without labeled photos.
    """
    result = np.full((len(features), labels), 1.0 / labels)
    if not len(labeled):
        return result
    k = min(neighbors, len(labeled))
    labeled = unit_rows(labeled)
    for start in range(0, len(features), CHUNK):
        rows = slice(start, min(start + CHUNK, len(features)))
        cosines = unit_rows(features[rows]) @ labeled.T
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(cosines, nearest, axis=1).astype(np.float64)
        weights = np.exp((found - found.max(axis=1, keepdims=True)) / TEMPERATURE)
        votes = np.full((len(found), labels), PRIOR_VOTE / labels)
        np.add.at(votes, (np.arange(len(found))[:, None], targets[nearest]), weights)
        result[rows] = votes / votes.sum(axis=1, keepdims=True)
    return result


def uncertainty(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns 1 minus the margin between the two likeliest labels, ``(N,)`` in [0, 1]."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    two = -np.partition(-probabilities, 1, axis=1)[:, :2]
    return 1 - (two[:, 0] - two[:, 1])


def select_next(
    probabilities: NDArray[np.float64],
    features: NDArray[np.float32],
    labeled: NDArray[np.float32] | None = None,
    *,
    count: int = 20,
) -> list[int]:
    """Returns the photos to label next: uncertain and unlike the labeled ones (active learning).

    Greedily takes the photo with the largest ``uncertainty x distance`` to the nearest photo that
    is labeled or already taken: the k-center rule of Sener and Savarese 2018, arXiv:1708.00489,
    weighted by the margin. Of a burst, one photo is taken.

    Args:
        probabilities: ``(N, C)`` of the unlabeled photos.
        features: ``(N, F)`` of the unlabeled photos.
        labeled: ``(M, F)`` of the labeled photos, if any.
        count: Maximum number of photos.
    """
    uncertain = uncertainty(probabilities)
    rows = unit_rows(features)
    distance = np.full(len(rows), 2.0)
    if labeled is not None and len(labeled):
        others = unit_rows(labeled)
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            distance[part] = 1 - (rows[part] @ others.T).max(axis=1)
    # Certain photos may still be taken when no others are left.
    uncertain = np.maximum(uncertain, 1e-3)
    distance = np.maximum(distance, 0.0)
    free = np.ones(len(rows), bool)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        scores = np.where(free, uncertain * distance, -1.0)
        best = int(scores.argmax())
        chosen.append(best)
        free[best] = False
        distance = np.minimum(distance, np.maximum(1 - rows @ rows[best], 0.0))
    return chosen

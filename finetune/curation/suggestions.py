"""Label suggestions for unlabeled photos, and active learning order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.curation.embedding import unit_rows

NEIGHBORS = 10
"""Number of nearest neighbors that vote."""

TEMPERATURE = 0.07
"""Temperature of the neighbors' votes (Wu et al. 2018, arXiv:1805.01978)."""

DOUBT = 0.5
"""Prior vote spread over all labels; the nearest neighbor's vote is 1."""

CHUNK = 2048
"""Photos that are compared with all labeled ones at a time, to bound the memory."""


@dataclass(frozen=True, kw_only=True)
class Suggested:
    """Suggested label with its probability."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Similar photos with the same suggestion, to be accepted together.

    Attributes:
        label: Index of the label that all of them are likeliest to show.
        positions: The photos, the surest first and then by their likeness to it.
        least_probability: Of `label`, over all of them.
    """

    label: int
    positions: tuple[int, ...]
    least_probability: float


def neighbor_probabilities(
    features: NDArray[np.float32],
    known: NDArray[np.float32],
    targets: NDArray[np.int64],
    labels: int,
    *,
    neighbors: int = NEIGHBORS,
) -> NDArray[np.float64]:
    """Returns the probability of each label by the nearest labeled photos.

    Each of the k nearest by cosine s says its label with weight ``exp((s - s_nearest) / 0.07)``;
    half a nearest neighbor's say is spread over all labels, so that a lone one convinces nobody.

    Args:
        features: ``(N, F)`` of the photos to label.
        known: ``(M, F)`` of the labeled ones.
        targets: ``(M,)``, the index of the label of each.
        labels: How many labels there are.
        neighbors: k; fewer where fewer are labeled.

    Returns:
        ``(N, labels)``; rows sum to 1; all labels alike where none is labeled.
    """
    result = np.full((len(features), labels), 1.0 / labels)
    if not len(known):
        return result
    k = min(neighbors, len(known))
    known = unit_rows(known)
    for start in range(0, len(features), CHUNK):
        rows = slice(start, min(start + CHUNK, len(features)))
        cosines = unit_rows(features[rows]) @ known.T
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(cosines, nearest, axis=1).astype(np.float64)
        says = np.exp((found - found.max(axis=1, keepdims=True)) / TEMPERATURE)
        votes = np.full((len(found), labels), DOUBT / labels)
        np.add.at(votes, (np.arange(len(found))[:, None], targets[nearest]), says)
        result[rows] = votes / votes.sum(axis=1, keepdims=True)
    return result


def ranked(
    probabilities: NDArray[np.float64], labels: Sequence[str], *, top: int = 5
) -> list[tuple[Suggested, ...]]:
    """Returns the likeliest labels of each photo, the likeliest first.

    Args:
        probabilities: ``(N, C)``.
        labels: The C labels.
        top: How many.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        tuple(Suggested(label=labels[i], probability=float(row[i])) for i in best)
        for row, best in zip(probabilities, order, strict=True)
    ]


def uncertainty(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns 1 less the margin between the two likeliest labels ``(N,)``: 1 is a toss-up."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    two = -np.partition(-probabilities, 1, axis=1)[:, :2]
    return 1 - (two[:, 0] - two[:, 1])


def ask_next(
    probabilities: NDArray[np.float64],
    features: NDArray[np.float32],
    known: NDArray[np.float32] | None = None,
    *,
    count: int = 20,
) -> list[int]:
    """Returns the photos to label next: uncertain ones unlike the labeled ones.

    Greedily takes the photo with the largest ``uncertainty x distance``, the distance being that
    to the nearest photo that is labeled or was taken before it (the k-center rule of Sener and
    Savarese 2018, arXiv:1708.00489, weighted by the margin), so that a burst is asked about once.

    Args:
        probabilities: ``(N, C)`` of the unlabeled photos.
        features: ``(N, F)`` of them.
        known: ``(M, F)`` of the labeled ones, if there are any.
        count: How many to return at most.
    """
    doubt = uncertainty(probabilities)
    rows = unit_rows(features)
    distance = np.full(len(rows), 2.0)
    if known is not None and len(known):
        others = unit_rows(known)
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            distance[part] = 1 - (rows[part] @ others.T).max(axis=1)
    # A sure photo may still be asked about when nothing better is left.
    doubt = np.maximum(doubt, 1e-3)
    distance = np.maximum(distance, 0.0)
    free = np.ones(len(rows), bool)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        scores = np.where(free, doubt * distance, -1.0)
        best = int(scores.argmax())
        chosen.append(best)
        free[best] = False
        distance = np.minimum(distance, np.maximum(1 - rows @ rows[best], 0.0))
    return chosen


def cohorts(
    probabilities: NDArray[np.float64],
    features: NDArray[np.float32],
    *,
    least_probability: float = 0.7,
    most_photos: int = 24,
    most_cohorts: int = 20,
) -> list[Cohort]:
    """Returns cohorts of similar photos with one suggestion each, the surest first.

    The surest photo that is left leads the next cohort, and those of the same suggestion that are
    nearest to it follow.

    Args:
        probabilities: ``(N, C)`` of the unlabeled photos.
        features: ``(N, F)`` of them.
        least_probability: Photos whose likeliest label is less probable are in no cohort.
        most_photos: Photos of a cohort, as many as a person can look over at once.
        most_cohorts: How many cohorts to make.
    """
    rows = unit_rows(features)
    likeliest = probabilities.argmax(axis=1)
    sureness = probabilities.max(axis=1)
    free = sureness >= least_probability
    found: list[Cohort] = []
    while free.any() and len(found) < most_cohorts:
        leader = int(np.where(free, sureness, -1.0).argmax())
        fellows = np.flatnonzero(free & (likeliest == likeliest[leader]))
        likeness = rows[fellows] @ rows[leader]
        likeness[fellows == leader] = np.inf
        members = fellows[np.argsort(-likeness, kind="stable")[:most_photos]]
        free[members] = False
        found.append(
            Cohort(
                label=int(likeliest[leader]),
                positions=tuple(int(i) for i in members),
                least_probability=float(sureness[members].min()),
            )
        )
    return found

"""Cohorts: unlabeled photos whose labels are safe to accept together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.curation.label_model import LabelModel, Scores
from finetune.curation.score_calibration import Calibration

LEAST_LABELED = 5
"""Independent photos that a label needs; a burst counts once."""

ENOUGH_PHOTOS = 20
"""Size from which on a cohort is offered: of a large one, a stated share is right more surely."""

LEAST_PHOTOS = 10
"""Smallest cohort, offered where hardly more photos are left."""

MOST_OF_REST = 0.6
"""Share of the photos that are left from which on a smaller cohort is offered."""

LEAST_BOUND = 0.85
"""Least lower bound of the probability that each photo's label is right."""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Photos with their probable labels.

    Attributes:
        positions: The photos, the surest first.
        labels: Index of the label of each.
    """

    positions: tuple[int, ...]
    labels: tuple[int, ...]


def find_cohort(
    model: LabelModel,
    scores: Scores,
    calibration: Calibration,
    positions: NDArray[np.int64],
    *,
    most: int,
) -> Cohort | None:
    """Returns the surest photos if they are many enough to accept them together, or None.

    Their labels have at least `LEAST_LABELED` independent photos, and are the nearest by centroid
    and by nearest labeled photo.

    Args:
        model: The labels.
        scores: Of the photos to choose from.
        calibration: Of the same model.
        positions: ``(P,)``, these photos.
        most: Largest number of photos.
    """
    bounds = calibration.bounds(scores.values, scores.labels)
    known = model.counts[scores.labels] >= LEAST_LABELED - 1e-6
    fits = np.flatnonzero(known & (bounds >= LEAST_BOUND))
    fits = fits[model.neighbors(positions[fits]) == scores.labels[fits]]
    least = min(ENOUGH_PHOTOS, max(LEAST_PHOTOS, MOST_OF_REST * len(positions)))
    if len(fits) < least:
        return None
    chosen = fits[np.argsort(-bounds[fits], kind="stable")][:most]
    return Cohort(
        positions=tuple(positions[chosen].tolist()),
        labels=tuple(scores.labels[chosen].tolist()),
    )

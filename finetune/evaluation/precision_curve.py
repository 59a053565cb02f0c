"""Precision of predictions by their probability, and the precision that can be claimed.

A prediction is sure from the lowest probability at which a precision can be claimed: at which the
lower bound of the share of right predictions reaches it. The bound is that of Clopper and Pearson
(1934) on whole near-duplicate groups, because frames of one burst are no independent evidence.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from finetune.config import PRECISION
from finetune.evaluation.intervals import clopper_pearson_lower, clopper_pearson_reaches
from finetune.evaluation.probabilities import Floats

CONFIDENCE = 0.95
"""Confidence of a claim."""

LOWEST_CLAIM = 0.8
"""Lowest precision that is claimed instead, where the photos are too few for the one asked for."""

MIN_COVERAGE = 0.5
"""Share of the photos that such a lower claim must cover."""

MAX_POINTS = 200
"""Largest number of points of a saved curve."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Precision that is claimed of predictions from a probability on.

    Attributes:
        precision: The claim, at most the target.
        target: Precision asked for.
        threshold: Probability.
        photos: Held-out photos with a probability of at least the threshold.
        right: How many of these are right.
        groups: Their near-duplicate groups.
        coverage: Their share of all held-out photos.
    """

    precision: float
    target: float
    threshold: float
    photos: int
    right: int
    groups: int
    coverage: float

    @property
    def is_met(self) -> bool:
        """Whether the target itself is claimed."""
        return self.precision >= self.target


@dataclass(frozen=True, kw_only=True)
class PrecisionCurve:
    """Counts of held-out photos by the probability of their prediction.

    Attributes:
        thresholds: ``(T,)`` probabilities, decreasing.
        photos: ``(T,)``, photos with at least that probability.
        right: ``(T,)``, those whose prediction is right.
        groups: ``(T,)``, near-duplicate groups with such a photo.
        total: All photos.
    """

    thresholds: tuple[float, ...]
    photos: tuple[int, ...]
    right: tuple[int, ...]
    groups: tuple[int, ...]
    total: int

    def claim(self, target: float = PRECISION) -> Claim | None:
        """Returns the claim with the largest coverage for a precision.

        Where the target cannot be claimed, the highest whole percentage that can, from
        `LOWEST_CLAIM` on, of at least `MIN_COVERAGE` of the photos; None without one.
        """
        bounds = self._bounds
        good = np.flatnonzero(bounds >= target - 1e-12)
        if len(good):
            return self._at(int(good[-1]), target, target)
        most = np.array(self.photos) >= MIN_COVERAGE * self.total
        if not most.any():
            return None
        precision = math.floor(float(bounds[most].max()) * 100 + 1e-9) / 100
        if precision < min(LOWEST_CLAIM, target):
            return None
        place = int(np.flatnonzero(bounds >= precision - 1e-12)[-1])
        return self._at(place, precision, target)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; `from_dict` is the inverse."""
        return {
            "thresholds": list(self.thresholds),
            "photos": list(self.photos),
            "right": list(self.right),
            "groups": list(self.groups),
            "total": self.total,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PrecisionCurve:
        """Inverse of `to_dict`; raises KeyError, TypeError or ValueError."""
        counts = {
            name: tuple(int(value) for value in content[name])
            for name in ("photos", "right", "groups")
        }
        thresholds = tuple(float(value) for value in content["thresholds"])
        if any(len(values) != len(thresholds) for values in counts.values()):
            raise ValueError("a precision curve with equally many values of each kind")
        return cls(thresholds=thresholds, total=int(content["total"]), **counts)

    @functools.cached_property
    def _bounds(self) -> Floats:
        """Lower bound of the precision at each threshold, ``(T,)``."""
        counts = zip(self.right, self.photos, self.groups, strict=True)
        return np.array(
            [
                clopper_pearson_lower(groups * right / photos, groups, confidence=CONFIDENCE)
                for right, photos, groups in counts
            ],
            np.float64,
        )

    def _at(self, place: int, precision: float, target: float) -> Claim:
        return Claim(
            precision=precision,
            target=target,
            threshold=self.thresholds[place],
            photos=self.photos[place],
            right=self.right[place],
            groups=self.groups[place],
            coverage=self.photos[place] / self.total,
        )


def is_claimable(right: float, groups: int, precision: float) -> bool:
    """Returns whether a precision can be claimed of photos.

    Args:
        right: Share of the photos that are right, times `groups`.
        groups: Their near-duplicate groups.
        precision: To claim.
    """
    return clopper_pearson_reaches(right, groups, precision, confidence=CONFIDENCE)


def precision_curve(confidence: ArrayLike, correct: ArrayLike, groups: ArrayLike) -> PrecisionCurve:
    """Returns the curve of held-out photos.

    Args:
        confidence: ``(N,)``, probability of each prediction.
        correct: ``(N,)``, whether it is right.
        groups: ``(N,)``, near-duplicate group of each photo.

    Example:
        >>> curve = precision_curve([0.9, 0.8, 0.8], [True, True, False], ["a", "b", "b"])
        >>> curve.photos, curve.right, curve.groups
        ((1, 3), (1, 2), (1, 2))
    """
    values = np.asarray(confidence, np.float64)
    order = np.argsort(-values, kind="stable")
    values, right = values[order], np.cumsum(np.asarray(correct, bool)[order])
    _, first = np.unique(np.asarray(groups)[order], return_index=True)
    new = np.zeros(len(values), np.int64)
    new[first] = 1
    # Photos of equal probability are covered all or none.
    places = np.flatnonzero(np.r_[values[1:] != values[:-1], True][: len(values)])
    if len(places) > MAX_POINTS:
        places = places[np.linspace(0, len(places) - 1, MAX_POINTS).round().astype(int)]
    return PrecisionCurve(
        thresholds=tuple(values[places].tolist()),
        photos=tuple((places + 1).tolist()),
        right=tuple(right[places].tolist()),
        groups=tuple(np.cumsum(new)[places].tolist()),
        total=len(values),
    )

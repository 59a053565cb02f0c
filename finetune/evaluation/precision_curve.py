"""Precision of predictions by their probability, and the precision that can be claimed.

A prediction is sure from the lowest probability at which a precision can be claimed: at which the
lower bound of the share of right predictions reaches it. The bound is that of Clopper and Pearson
(1934) on whole near-duplicate groups, because frames of one burst are no independent evidence.

The threshold is chosen among several by the photos that the bound is of, and the luckiest of many
bounds is too high. So there are twelve thresholds, by the share of the photos that they cover, and
their bounds hold together with 95 % confidence (Bonferroni): half of the 5 % is for all photos,
where small collections without a mistake need it, and the other half is for the eleven others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from finetune.config import PRECISION
from finetune.evaluation.intervals import clopper_pearson_lower, clopper_pearson_reaches
from finetune.evaluation.probabilities import Floats, Integers

CONFIDENCE = 0.95
"""Confidence of a claim, whichever threshold it takes."""

SHARES = (1.0, 0.97, 0.94, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of the photos at which a precision may be claimed."""

ALL_CONFIDENCE = 1 - (1 - CONFIDENCE) / 2
"""Confidence of the bound of all photos."""

SOME_CONFIDENCE = 1 - (1 - CONFIDENCE) / 2 / (len(SHARES) - 1)
"""Confidence of each other bound."""

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
        photos: ``(T,)``, photos with at least that probability, without those that are unknown.
        right: ``(T,)``, those whose prediction is right.
        groups: ``(T,)``, near-duplicate groups with such a photo.
        total: All photos, unknown ones too.
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
        places, bounds = self._bounds
        good = places[bounds >= target - 1e-12]
        if len(good):
            return self._at(int(good.max()), target, target)
        most = np.array(self.photos)[places] >= MIN_COVERAGE * self.total
        if not most.any():
            return None
        precision = math.floor(float(bounds[most].max()) * 100 + 1e-9) / 100
        if precision < min(LOWEST_CLAIM, target):
            return None
        place = int(places[bounds >= precision - 1e-12].max())
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
    def _bounds(self) -> tuple[Integers, Floats]:
        """Places of the shares in the curve, ``(K,)``, and the lower bound at each."""
        places = share_places(self.photos)
        bounds = []
        for place in places.tolist():
            photos, groups = self.photos[place], self.groups[place]
            complete = place == len(self.photos) - 1
            bounds.append(
                clopper_pearson_lower(
                    groups * self.right[place] / photos,
                    groups,
                    confidence=ALL_CONFIDENCE if complete else SOME_CONFIDENCE,
                )
            )
        return places, np.array(bounds, np.float64)

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


def share_places(counts: Sequence[int]) -> Integers:
    """Returns the places of `SHARES` in ascending numbers of photos, each place once.

    The place of a share is the last one with no more than that share of the largest number.
    """
    shares = np.floor(np.array(SHARES) * (counts[-1] if len(counts) else 0) + 1e-9)
    places = np.searchsorted(np.asarray(counts), shares, side="right") - 1
    return np.unique(places[places >= 0])


def is_claimable(right: float, groups: int, precision: float) -> bool:
    """Returns whether a precision can be claimed of photos by one of several thresholds.

    Args:
        right: Share of the photos that are right, times `groups`.
        groups: Their near-duplicate groups.
        precision: To claim.
    """
    return clopper_pearson_reaches(right, groups, precision, confidence=SOME_CONFIDENCE)


def precision_curve(
    confidence: ArrayLike,
    correct: ArrayLike,
    groups: ArrayLike,
    *,
    unknown: ArrayLike | None = None,
) -> PrecisionCurve:
    """Returns the curve of held-out photos.

    Args:
        confidence: ``(N,)``, probability of each prediction.
        correct: ``(N,)``, whether it is right.
        groups: ``(N,)``, near-duplicate group of each photo.
        unknown: ``(N,)``, photos that are unknown, and therefore never sure; None: none is.

    Example:
        >>> curve = precision_curve([0.9, 0.8, 0.8], [True, True, False], ["a", "b", "b"])
        >>> curve.photos, curve.right, curve.groups
        ((1, 3), (1, 2), (1, 2))
    """
    values = np.asarray(confidence, np.float64)
    total = len(values)
    order = np.argsort(-values, kind="stable")
    if unknown is not None:
        order = order[~np.asarray(unknown, bool)[order]]
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
        total=total,
    )

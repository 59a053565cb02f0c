"""Precision target: fits the unknown threshold so that predictions keep a stated precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.intervals import wilson
from finetune.evaluation.out_of_distribution import Score, UnknownThreshold
from finetune.evaluation.probabilities import Floats, Integers

STATED_PRECISIONS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Precision targets; the first that keeps enough coverage is used."""

MIN_COVERAGE = 0.5
"""Minimum coverage of photos of known labels."""

CONFIDENCE = 0.9
"""Confidence that the precision is at least the stated one."""

HARDEST_SHARE = 0.1
"""Out-of-distribution photos are taken to be like this share of the held-out labels: those accepted
most, at least one."""

MIN_REJECTED = 0.05
"""Minimum share of known photos to reject if no label can be held out."""


@dataclass(frozen=True, kw_only=True)
class HeldOutScores:
    """Out-of-distribution scores of held-out photos and of photos of held-out labels.

    Attributes:
        scores: ``(N,)`` of photos of known labels; higher is more in-distribution.
        correct: ``(N,)``, whether their predictions are right.
        labels: ``(N,)``, their true labels.
        unknown_scores: ``(M,)`` of photos of held-out labels.
        unknown_labels: ``(M,)``, their labels.
    """

    scores: Floats
    correct: NDArray[np.bool_]
    labels: Integers
    unknown_scores: Floats
    unknown_labels: Integers


@dataclass(frozen=True, kw_only=True)
class PrecisionTarget:
    """Precision target with its assumptions.

    Attributes:
        precision: Share of accepted photos that should be right, 0 < precision <= 1.
        unknown_share: Assumed share of out-of-distribution photos, 0 <= share < 1; None: the share
            among the scores.
        confidence: Confidence of the precision, 0.5 <= confidence < 1; at 0.5 it holds for the
            photos fitted on.
        hardest_share: See `HARDEST_SHARE`; 1: all held-out labels.
    """

    precision: float = STATED_PRECISIONS[0]
    unknown_share: float | None = None
    confidence: float = CONFIDENCE
    hardest_share: float = HARDEST_SHARE

    def __post_init__(self) -> None:
        if not 0 < self.precision <= 1:
            raise ValueError(f"precision {self.precision} must lie above 0 and be at most 1")
        if self.unknown_share is not None and not 0 <= self.unknown_share < 1:
            raise ValueError(f"unknown_share {self.unknown_share} must be 0 or more and below 1")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence {self.confidence} must be 0.5 or more and below 1")
        if not 0 < self.hardest_share <= 1:
            raise ValueError(
                f"hardest_share {self.hardest_share} must lie above 0 and be at most 1"
            )

    def unknown_to_known(self, found: HeldOutScores) -> float:
        """Returns the ratio of out-of-distribution to known photos."""
        if not len(found.unknown_scores):
            return 0.0
        if self.unknown_share is None:
            return len(found.unknown_scores) / max(1, len(found.scores))
        return self.unknown_share / (1 - self.unknown_share)


def fit_highest_precision(
    found: HeldOutScores,
    *,
    unknown_share: float | None = None,
    score: Score = "energy",
    precisions: Sequence[float] = STATED_PRECISIONS,
) -> UnknownThreshold:
    """Returns the threshold for the highest precision with enough coverage.

    If even the lowest of `precisions` has less coverage than `MIN_COVERAGE`, the threshold is None:
    no photo is rejected. Without held-out labels at least `MIN_REJECTED` of the known photos are.
    """
    for precision in precisions:
        target = PrecisionTarget(precision=precision, unknown_share=unknown_share)
        fitted = fit_threshold(found, target, score=score)
        if fitted.threshold is None or fitted.coverage < MIN_COVERAGE:
            continue
        if not len(found.unknown_scores):
            limit = float(np.quantile(found.scores, MIN_REJECTED))
            return _at(found, target, max(limit, fitted.threshold), score)
        return fitted
    return _at(found, target, None, score)


def fit_threshold(
    found: HeldOutScores, target: PrecisionTarget | None = None, *, score: Score = "energy"
) -> UnknownThreshold:
    """Returns the lowest threshold that meets the precision target.

    Candidates are the scores of all photos; accepted photos of held-out labels count as wrong. The
    lowest candidate whose lower bound of the precision (Wilson 1927, one-sided) reaches the target
    has the largest coverage. Held-out labels differ much in how many of their photos are accepted,
    so that out-of-distribution photos are taken to be like the most accepted labels.

    Args:
        found: Scores of held-out photos. Without held-out labels the precision holds only among
            photos of known labels.
        target: Precision target.
        score: Name of the score.
    """
    target = target or PrecisionTarget()
    known = found.scores
    if known.shape != found.correct.shape:
        raise ValueError(f"{known.shape} scores, but {found.correct.shape} correct values")
    if found.unknown_scores.shape != found.unknown_labels.shape:
        raise ValueError("each photo of a held-out label needs a score and a label")
    candidates = np.unique(np.concatenate([known, found.unknown_scores]))
    right = _at_least(known[found.correct], candidates)
    unknown = _accepted_unknown(found, candidates, target) * len(known)
    accepted = _at_least(known, candidates) + unknown * target.unknown_to_known(found)
    bound = _lower_bounds(right, accepted, target.confidence)
    good = np.flatnonzero((right > 0) & (bound >= target.precision - 1e-12))
    return _at(found, target, float(candidates[good[0]]) if len(good) else None, score)


def _at(
    found: HeldOutScores, target: PrecisionTarget, threshold: float | None, score: Score
) -> UnknownThreshold:
    """Returns a threshold with its figures on the fitted photos."""
    known, unknown = found.scores, found.unknown_scores
    limit = -np.inf if threshold is None else threshold
    accepted = known >= limit
    false_accepts = float((unknown >= limit).mean()) if len(unknown) else 0.0
    right = int((accepted & found.correct).sum())
    total = float(accepted.sum()) + false_accepts * target.unknown_to_known(found) * len(known)
    return UnknownThreshold(
        score=score,
        threshold=threshold,
        precision=target.precision,
        measured_precision=right / total if total else None,
        precision_interval=wilson(right, max(right, round(total))),
        coverage=float(accepted.mean()) if len(known) else 0.0,
        refused_unknown=1 - false_accepts if len(unknown) else None,
        photos=len(known),
        unknown_photos=len(unknown),
        unknown_share=target.unknown_share,
        confidence=target.confidence,
    )


def _accepted_unknown(found: HeldOutScores, candidates: Floats, target: PrecisionTarget) -> Floats:
    """Returns the share of out-of-distribution photos accepted at each threshold, ``(T,)``.

    The mean over the most accepted labels; see `PrecisionTarget.hardest_share`.
    """
    labels = np.unique(found.unknown_labels)
    if not len(labels):
        return np.zeros(len(candidates))
    if target.hardest_share == 1:
        return _at_least(found.unknown_scores, candidates) / len(found.unknown_scores)
    count = max(1, math.ceil(target.hardest_share * len(labels) - 1e-9))
    shares = np.empty((len(labels), len(candidates)), np.float32)
    for row, label in enumerate(labels):
        scores = found.unknown_scores[found.unknown_labels == label]
        shares[row] = _at_least(scores, candidates) / len(scores)
    most: Floats = np.sort(shares, axis=0)[-count:].mean(axis=0, dtype=np.float64)
    return most


def _at_least(scores: Floats, candidates: Floats) -> Floats:
    """Returns the number of scores at or above each candidate, ``(T,)``."""
    below = np.searchsorted(np.sort(scores), candidates, side="left")
    return np.asarray(len(scores) - below, np.float64)


def _lower_bounds(right: Floats, accepted: Floats, confidence: float) -> Floats:
    """Returns Wilson's one-sided lower bound of ``right / accepted``, ``(T,)``."""
    z = NormalDist().inv_cdf(confidence)
    share = np.divide(right, accepted, out=np.zeros(len(right)), where=accepted > 0)
    count = np.maximum(accepted, 1e-12)
    center = share + z * z / (2 * count)
    reach = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return np.asarray((center - reach) / (1 + z * z / count))

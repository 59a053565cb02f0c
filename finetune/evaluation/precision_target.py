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

LEAST_COVERAGE = 0.5
"""Least coverage of known photos; of a few sure predictions little is measured, and
nobody has much of them."""

CONFIDENCE = 0.9
"""Confidence that the precision is at least the stated one."""

HARDEST = 0.1
"""Share of the held-out labels, accepted most, that out-of-distribution photos are taken to be
like; one label at least."""

RESERVE = 0.05
"""Share of the known photos, of lowest score, that are unknown where no label can be held out
and nothing is known of foreign photos."""


@dataclass(frozen=True, kw_only=True)
class HeldOutScores:
    """Scores of held-out photos: of labels that were learned, and of labels that were not.

    Attributes:
        scores: ``(N,)`` of photos of known labels, greater is more familiar.
        correct: ``(N,)`` whether the label said of these is right.
        labels: ``(N,)`` their labels.
        unknown_scores: ``(M,)`` of photos whose labels the network, or the head, never learned.
        unknown_labels: ``(M,)`` their labels.
    """

    scores: Floats
    correct: NDArray[np.bool_]
    labels: Integers
    unknown_scores: Floats
    unknown_labels: Integers


@dataclass(frozen=True, kw_only=True)
class Promise:
    """Precision target with its assumptions.

    Attributes:
        precision: Share of the answers that should be right, 0 < precision <= 1.
        unknown_share: Share of foreign photos among those that will be asked about, 0 <= share < 1;
            None: as many as there are scores.
        confidence: How sure the precision is to be kept, 0.5 <= confidence < 1. At 0.5 it is kept
            on the photos fitted on.
        hardest: As `HARDEST`; 1: foreign photos are like all the held-out labels together.
    """

    precision: float = STATED_PRECISIONS[0]
    unknown_share: float | None = None
    confidence: float = CONFIDENCE
    hardest: float = HARDEST

    def __post_init__(self) -> None:
        if not 0 < self.precision <= 1:
            raise ValueError(f"precision {self.precision} must lie above 0 and be at most 1")
        if self.unknown_share is not None and not 0 <= self.unknown_share < 1:
            raise ValueError(f"unknown_share {self.unknown_share} must be 0 or more and below 1")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence {self.confidence} must be 0.5 or more and below 1")
        if not 0 < self.hardest <= 1:
            raise ValueError(f"hardest {self.hardest} must lie above 0 and be at most 1")

    def foreign_to_known(self, found: HeldOutScores) -> float:
        """Returns the ratio of out-of-distribution to known photos."""
        if not len(found.unknown_scores):
            return 0.0
        if self.unknown_share is None:
            return len(found.unknown_scores) / max(1, len(found.scores))
        return self.unknown_share / (1 - self.unknown_share)


def fit_stated(
    found: HeldOutScores,
    *,
    unknown_share: float | None = None,
    score: Score = "energy",
    precisions: Sequence[float] = STATED_PRECISIONS,
) -> UnknownThreshold:
    """Returns the threshold for the highest precision with enough coverage.

    A collection whose labels are hard to tell apart cannot be answered right 95 times in 100, save
    for a few photos; then less is promised, and the promise is kept. Where even the least of
    `precisions` leaves fewer than `LEAST_COVERAGE`, no photo is refused and nothing is promised:
    the threshold is None. Without foreign photos `RESERVE` of the known ones are refused at least.
    """
    for precision in precisions:
        wanted = Promise(precision=precision, unknown_share=unknown_share)
        fitted = fit_threshold(found, wanted, score=score)
        if fitted.threshold is None or fitted.coverage < LEAST_COVERAGE:
            continue
        if not len(found.unknown_scores):
            limit = float(np.quantile(found.scores, RESERVE))
            return _at(found, wanted, max(limit, fitted.threshold), score)
        return fitted
    return _at(found, wanted, None, score)


def fit_threshold(
    found: HeldOutScores, promise: Promise | None = None, *, score: Score = "energy"
) -> UnknownThreshold:
    """Returns the lowest threshold that meets the precision target.

    An answered photo of a foreign label counts as wrong. Of all the thresholds, each the score of
    some photo, those are good at which the lower bound of the precision reaches the promise; the
    lowest of these answers most. Photos of equal score are answered all or none.

    The bound is Wilson's (1927), one-sided. Foreign photos differ from label to label more than
    chance has it: one label is like another that was learned, and its photos are answered; its
    neighbor is like none. Which kind will come is not known, so that the foreign photos are taken
    to be like the labels that were answered most when they were held out.

    Args:
        found: Scores of known photos and of foreign ones. Without foreign ones the precision is one
            among photos of known labels alone, and foreign photos will break it.
        promise: What to keep.
        score: The name to remember.
    """
    promise = promise or Promise()
    known = found.scores
    if known.shape != found.correct.shape:
        raise ValueError(f"{known.shape} scores, but {found.correct.shape} of right and wrong")
    if found.unknown_scores.shape != found.unknown_labels.shape:
        raise ValueError("each foreign photo needs a score and a label")
    candidates = np.unique(np.concatenate([known, found.unknown_scores]))
    right = _at_least(known[found.correct], candidates)
    foreign = _answered_foreign(found, candidates, promise) * len(known)
    answered = _at_least(known, candidates) + foreign * promise.foreign_to_known(found)
    bound = _lower_bounds(right, answered, promise.confidence)
    good = np.flatnonzero((right > 0) & (bound >= promise.precision - 1e-12))
    return _at(found, promise, float(candidates[good[0]]) if len(good) else None, score)


def _at(
    found: HeldOutScores, promise: Promise, threshold: float | None, score: Score
) -> UnknownThreshold:
    """Returns a threshold with its figures on the fitted photos."""
    known, foreign = found.scores, found.unknown_scores
    # Without a promise nothing is refused.
    limit = -np.inf if threshold is None else threshold
    answered = known >= limit
    fooled = float((foreign >= limit).mean()) if len(foreign) else 0.0
    right = int((answered & found.correct).sum())
    total = float(answered.sum()) + fooled * promise.foreign_to_known(found) * len(known)
    return UnknownThreshold(
        score=score,
        threshold=threshold,
        precision=promise.precision,
        measured_precision=right / total if total else None,
        precision_interval=wilson(right, max(right, round(total))),
        coverage=float(answered.mean()) if len(known) else 0.0,
        refused_unknown=1 - fooled if len(foreign) else None,
        photos=len(known),
        unknown_photos=len(foreign),
        unknown_share=promise.unknown_share,
        confidence=promise.confidence,
    )


def _answered_foreign(found: HeldOutScores, candidates: Floats, promise: Promise) -> Floats:
    """Returns the share of out-of-distribution photos accepted at each threshold, ``(T,)``.

    The mean over the labels of which most are answered there, as many as `Promise.hardest` says.
    """
    labels = np.unique(found.unknown_labels)
    if not len(labels):
        return np.zeros(len(candidates))
    if promise.hardest == 1:
        return _at_least(found.unknown_scores, candidates) / len(found.unknown_scores)
    count = max(1, math.ceil(promise.hardest * len(labels) - 1e-9))
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


def _lower_bounds(right: Floats, answered: Floats, confidence: float) -> Floats:
    """Returns Wilson's one-sided lower bound of ``right / answered``, ``(T,)``."""
    z = NormalDist().inv_cdf(confidence)
    share = np.divide(right, answered, out=np.zeros(len(right)), where=answered > 0)
    count = np.maximum(answered, 1e-12)
    center = share + z * z / (2 * count)
    reach = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return np.asarray((center - reach) / (1 + z * z / count))

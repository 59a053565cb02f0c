"""What it costs to answer only where sure: risk against coverage."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.probabilities import Floats
from finetune.evaluation.reliability import share_among_ties


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    """Returns coverage ``k/N`` and the share of mistakes among the k surest, for k = 1..N.

    Geifman & El-Yaniv (2017). Photos of equal confidence share their mistakes evenly.

    Args:
        confidence: ``(N,)``, greater is surer.
        correct: ``(N,)`` of 0 and 1.

    Returns:
        Coverage and risk, each ``(N,) float64``.
    """
    scores = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    mistakes = 1.0 - np.asarray(correct, dtype=np.float64)[order]
    mistakes = share_among_ties(scores[order], mistakes)
    taken = np.arange(1, len(scores) + 1)
    return taken / len(scores), np.cumsum(mistakes) / taken


def area_under_risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Returns AURC, the mean risk over all coverages; 0 is best (Geifman et al. 2019)."""
    return float(risk_coverage(confidence, correct)[1].mean())


def coverage_at_precision(confidence: ArrayLike, correct: ArrayLike, precision: float) -> float:
    """Returns the greatest share of photos that can be answered with at least this precision.

    Only thresholds count: photos of equal confidence are answered all or none. 0.0 where not
    even the surest photos reach the precision.
    """
    scores = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(np.asarray(correct, dtype=np.float64)[order])
    taken = np.arange(1, len(scores) + 1)
    last_of_ties = np.r_[scores[order][1:] != scores[order][:-1], True]
    # Compared as counts: 19/20 >= 0.95 must hold whatever its rounding.
    enough = hits >= precision * taken - 1e-9
    good = np.flatnonzero(last_of_ties & enough)
    return float(taken[good[-1]] / len(scores)) if len(good) else 0.0

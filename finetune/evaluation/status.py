"""Status of a prediction: sure, unsure, or unknown.

Two questions, and two words for the answers. *Unknown*: the photo is unlike all that was learned.
*Unsure*: it may be one of the labels, but predictions of that probability are wrong too often for
the precision that is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.out_of_distribution import UnknownDetector
from finetune.evaluation.precision_curve import Claim, PrecisionCurve

Status = Literal["sure", "unsure", "unknown"]


def statuses(confidence: ArrayLike, unknown: ArrayLike, *, sure_from: float | None) -> list[Status]:
    """Returns the status of photos.

    Args:
        confidence: ``(N,)``, probability of each photo's likeliest label.
        unknown: ``(N,)``, whether the photo is unlike all that was learned.
        sure_from: Probability from which the label is sure; None: it never is.

    Example:
        >>> statuses([0.9, 0.6, 0.9], [False, False, True], sure_from=0.8)
        ['sure', 'unsure', 'unknown']
    """
    least = np.inf if sure_from is None else sure_from
    pairs = zip(np.asarray(confidence) >= least, np.asarray(unknown), strict=True)
    return [_status(bool(sure), bool(odd)) for sure, odd in pairs]


def sure_threshold(
    curves: Sequence[PrecisionCurve | None],
    detectors: Sequence[UnknownDetector | None],
    precision: float,
) -> tuple[float | None, Claim | None]:
    """Returns the probability from which a label is sure, and the claim that it is based on.

    An ensemble averages its probabilities, and so its thresholds: its claim is None. A run of an
    earlier version has one threshold for both questions; what passes it is sure.

    Args:
        curves: Precision curve of each run.
        detectors: Detector of each run.
        precision: Precision to claim.
    """
    claims = [curve.claim(precision) if curve else None for curve in curves]
    thresholds: list[float] = []
    for claim, curve, detector in zip(claims, curves, detectors, strict=True):
        old = curve is None and detector is not None and detector.fixed is not None
        if claim is None and not old:
            return None, None
        thresholds.append(claim.threshold if claim else 0.0)
    return float(np.mean(thresholds)), claims[0] if len(claims) == 1 else None


def _status(sure: bool, unknown: bool) -> Status:
    if unknown:
        return "unknown"
    return "sure" if sure else "unsure"

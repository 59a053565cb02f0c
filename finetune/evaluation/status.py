"""Status of a prediction: sure, unsure, or unknown.

Two questions, and two words for the answers. *Unknown*: the photo is unlike all that was learned.
*Unsure*: it may be one of the labels, but the likeliest is not right often enough.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

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


def _status(sure: bool, unknown: bool) -> Status:
    if unknown:
        return "unknown"
    return "sure" if sure else "unsure"

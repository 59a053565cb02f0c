"""Label thresholds where a photo may have several labels.

Each label has its own threshold, chosen on the validation part. Between two neighboring
probabilities of that part every threshold gives the same labels there; 0.5 is taken where it lies
between them, else the middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.probabilities import Floats

DEFAULT_THRESHOLD = 0.5
"""Threshold of a label without validation photos."""

PRIOR_PHOTOS = 10.0
"""Weight of the calibrated probabilities, in photos, when F1 is maximized.

`benchmarks/label_thresholds.py` measures it: more would help where the probabilities are
calibrated, and harm where they are biased.
"""

NEVER = 2.0
"""Threshold of a label that is never predicted."""


def f1_threshold(probabilities: ArrayLike, positive: ArrayLike) -> float:
    """Returns the threshold with the best F1 of a label, ``2·TP / (2·TP + FP + FN)``.

    Of several that are equally good, the one nearest to 0.5: ties are common with few photos.

    Args:
        probabilities: ``(N,)`` of the label.
        positive: ``(N,)`` in [0, 1]: whether the photo has it, or how likely it has.

    Returns:
        A threshold in 0..1; `DEFAULT_THRESHOLD` where no photo has the label.

    Example:
        >>> f1_threshold([0.9, 0.4, 0.3, 0.1], [1, 1, 0, 0])
        0.35
    """
    cuts = _cuts(probabilities, positive)
    if cuts is None:
        return DEFAULT_THRESHOLD
    values, hits, predicted, total = cuts
    scores = 2 * hits / (predicted + total)
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    return min(
        (_between(values, int(k)) for k in best), key=lambda cut: abs(cut - DEFAULT_THRESHOLD)
    )


def precision_threshold(probabilities: ArrayLike, positive: ArrayLike, precision: float) -> float:
    """Returns the lowest threshold that reaches a precision.

    Args:
        probabilities: ``(N,)`` of the label.
        positive: ``(N,)`` of 0 and 1.
        precision: Required share, in (0, 1].

    Returns:
        A threshold in 0..1, `DEFAULT_THRESHOLD` if no photo has the label, `NEVER` if none
        reaches the precision.
    """
    cuts = _cuts(probabilities, positive)
    if cuts is None:
        return DEFAULT_THRESHOLD
    values, hits, predicted, _ = cuts
    good = np.flatnonzero(hits >= precision * predicted - 1e-9)
    return _between(values, int(good[-1])) if len(good) else NEVER


def fit_thresholds(
    probabilities: ArrayLike,
    truth: ArrayLike,
    *,
    precision: float | None = None,
    prior_photos: float = PRIOR_PHOTOS,
) -> tuple[float, ...]:
    """Returns a threshold for each label, for the best F1 or for a stated precision.

    The best F1 of a few photos is mostly chance. So a photo counts as
    ``q = w·y + (1 - w)·p`` of one that has the label, with ``w = n / (n + k)`` for n photos that
    do. With few photos the calibrated probabilities dominate (w = 0 is the plug-in rule of Lipton
    et al. 2014, arXiv 1402.1892), with many the photos themselves.

    Args:
        probabilities: ``(N, C)`` of the validation part, calibrated.
        truth: ``(N, C)`` of 0 and 1.
        precision: Share of each label's predictions that should be right; None: the best F1.
        prior_photos: k above; 0 trusts the photos alone.
    """
    values, positive = np.asarray(probabilities, np.float64), np.asarray(truth)
    columns = zip(values.T, positive.T, strict=True)
    if precision is None:
        return tuple(
            f1_threshold(scores, _expected(scores, present, prior_photos))
            for scores, present in columns
        )
    return tuple(precision_threshold(scores, present, precision) for scores, present in columns)


def _expected(probabilities: Floats, positive: Floats, prior_photos: float) -> Floats:
    """Returns calibrated rates of the label by isotonic groups; 0 where none has it."""
    present: Floats = np.asarray(positive).astype(np.float64)
    if not present.any():
        return present
    own = present.sum() / (present.sum() + prior_photos)
    mixed: Floats = own * present + (1 - own) * probabilities
    return mixed


def _cuts(
    probabilities: ArrayLike, positive: ArrayLike
) -> tuple[Floats, Floats, Floats, float] | None:
    """Returns distinct values, falling; hits and predictions at each as threshold; positives."""
    values = np.asarray(probabilities, np.float64)
    truth = np.asarray(positive).astype(np.float64)
    if not truth.any():
        return None
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    hits: Floats = np.cumsum(truth[order])[last]
    predicted: Floats = (last + 1).astype(np.float64)
    return ranked[last], hits, predicted, float(truth.sum())


def _between(values: Floats, place: int) -> float:
    """Returns a threshold that the value at `place` reaches and the next lower one does not."""
    high = float(values[place])
    low = float(values[place + 1]) if place + 1 < len(values) else 0.0
    if low < DEFAULT_THRESHOLD <= high:
        return DEFAULT_THRESHOLD
    middle = (low + high) / 2
    # Of two neighboring floats the middle may be the lower one itself.
    return middle if low < middle <= high else high

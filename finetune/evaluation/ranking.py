"""Average precision: how well a score ranks photos; mAP for several labels a photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.probabilities import Floats, check_finite


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Returns ``sum_n (R_n - R_{n-1}) · P_n`` over the thresholds; None without a positive.

    The area under the precision-recall curve without interpolation; equal scores are one
    threshold.

    Args:
        scores: ``(N,)``, greater is likelier.
        positive: ``(N,)`` of 0 and 1.

    Example:
        >>> average_precision([0.9, 0.8, 0.1], [1, 0, 1])
        0.8333333333333333
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(positive, dtype=np.float64)
    positives = truth.sum()
    if positives == 0:
        return None
    order = np.argsort(-values, kind="stable")
    thresholds = np.flatnonzero(np.r_[values[order][1:] != values[order][:-1], True])
    hits = np.cumsum(truth[order])[thresholds]
    precision = hits / (thresholds + 1)
    return float((np.diff(np.r_[0.0, hits]) / positives * precision).sum())


def average_precisions(scores: ArrayLike, truth: ArrayLike) -> list[float | None]:
    """Returns the average precision of each column of ``(N, C)`` scores against 0/1 truth."""
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    return [average_precision(values[:, c], positive[:, c]) for c in range(values.shape[1])]


def defined_mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of what is defined; None where nothing is."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def evaluate_multilabel(
    logits: ArrayLike, truth: ArrayLike, labels: Sequence[str], *, threshold: float = 0.5
) -> dict[str, Any]:
    """Returns the metrics of photos that carry several labels or none, ready for JSON.

    Args:
        logits: ``(N, C)``; a label is said where its sigmoid reaches the threshold.
        truth: ``(N, C)`` of 0 and 1.
        labels: C names.
        threshold: Probability from which a label is said.

    Returns:
        ``photos``, ``mean_average_precision`` (mean over labels that occur), its micro form,
        ``exact_match``, ``macro_f1``, ``micro_f1``, and ``labels`` with precision, recall, f1,
        average_precision and photos each. Undefined values (0/0) are None and left out of means.

    Raises:
        ModelError: Some logits are not finite.
        ValueError: Shapes that do not fit, or no photos.
    """
    values, positive = np.asarray(logits, dtype=np.float64), np.asarray(truth).astype(bool)
    if values.ndim != 2 or values.shape != positive.shape or not values.size:
        raise ValueError(f"logits {values.shape} and truth {positive.shape} do not fit")
    if values.shape[1] != len(labels):
        raise ValueError(f"{values.shape[1]} columns of logits, but {len(labels)} labels")
    check_finite(values)
    # sigmoid(z) >= t exactly where z >= log(t / (1 - t)).
    said = values >= np.log(threshold / (1 - threshold))
    hits = (said & positive).sum(axis=0).astype(np.float64)
    predicted, present = said.sum(axis=0), positive.sum(axis=0)
    precision, recall = _ratio(hits, predicted), _ratio(hits, present)
    f1 = _ratio(2 * hits, predicted + present)
    average = average_precisions(values, positive)
    return {
        "photos": len(values),
        "mean_average_precision": defined_mean(average),
        "micro_average_precision": average_precision(values.ravel(), positive.ravel()),
        "exact_match": float((said == positive).all(axis=1).mean()),
        "macro_f1": defined_mean(f1),
        "micro_f1": _ratio(2 * hits.sum()[None], (predicted + present).sum()[None])[0],
        "labels": {
            label: {
                "precision": precision[c],
                "recall": recall[c],
                "f1": f1[c],
                "average_precision": average[c],
                "photos": int(present[c]),
                "predicted": int(predicted[c]),
            }
            for c, label in enumerate(labels)
        },
    }


def _ratio(numerator: Floats, denominator: ArrayLike) -> list[float | None]:
    bottom = np.asarray(denominator, dtype=np.float64)
    return [float(n / d) if d else None for n, d in zip(numerator, bottom, strict=True)]

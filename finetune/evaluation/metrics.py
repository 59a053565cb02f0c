"""Metrics of one label a photo, as in ``metrics.json``.

Where the denominator of a ratio is 0 (the recall of a label without photos, the precision of a
label that is never predicted), it is undefined: NaN in arrays, None in JSON, and left out of means.
Photos with equal logits go to the label that comes first in the class order, in every top-k.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.calibration import (
    adaptive_calibration_error,
    area_under_risk_coverage,
    brier,
    confidence_and_correct,
    coverage_at_precision,
    expected_calibration_error,
    expected_gap,
    log_loss,
    reliability_bins,
)
from finetune.evaluation.confusion import (
    LabelCounts,
    confusion_matrix,
    count_labels,
    resample_labels,
)
from finetune.evaluation.intervals import Interval, percentile_interval, wilson
from finetune.evaluation.probabilities import Floats, Integers, check, softmax

PRECISIONS = (0.9, 0.95, 0.99)
"""Precisions for which the coverage is reported."""

RESAMPLES = 1000
"""Resamples of each bootstrap interval."""


def evaluate_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    labels: Sequence[str],
    *,
    temperature: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns all metrics of one part, ready for JSON.

    Args:
        logits: ``(N, C)`` raw outputs of the network, not yet divided by the temperature.
        targets: ``(N,)`` true indices.
        labels: C names in class order.
        temperature: Fitted by calibration; ``uncalibrated`` has the calibration metrics at 1.
        seed: Seed of the bootstrap intervals.

    Returns:
        ``photos``; ``top1`` .. ``top5`` and ``top1_interval`` (Wilson, 95 %);
        ``balanced_accuracy``, ``macro_f1`` with bootstrap intervals; ``weighted_f1``; ``kappa``;
        ``log_loss``; ``brier``; ``ece``; ``adaptive_ece``; ``ece_honest`` and ``ece_honest_high``,
        mean and 95th percentile of the ECE of exact probabilities on as many photos;
        ``mean_average_precision``; ``aurc``;
        ``coverage`` by stated precision; ``reliability`` bins; ``uncalibrated``; and ``labels``:
        for each its ``precision``, ``recall``, ``f1``, ``average_precision``, ``photos``,
        ``predicted``, and Wilson intervals of precision and recall.

    Raises:
        ModelError: Some logits are not finite.
        ValueError: Shapes that do not fit, no photos, or a target that is no index of a label.

    Example:
        >>> evaluate_logits([[2.0, 0.0], [0.0, 1.0]], [0, 0], ["ant", "bee"])["top1"]
        0.5
    """
    values, indices = check(logits, targets)
    if values.shape[1] != len(labels):
        raise ValueError(f"{values.shape[1]} columns of logits, but {len(labels)} labels")
    matrix = confusion_matrix(indices, values.argmax(axis=1), len(labels))
    counts = count_labels(matrix)
    resampled = resample_labels(matrix, resamples=RESAMPLES, rng=np.random.default_rng(seed))
    probabilities = softmax(values, temperature=temperature)
    confidence, correct = confidence_and_correct(probabilities, indices)
    average = average_precisions(probabilities, indices[:, None] == np.arange(len(labels)))
    by_chance = expected_gap(confidence, rng=np.random.default_rng((seed, 0xECE)))
    top = top_k_accuracies(values, indices)
    return {
        "photos": len(indices),
        **{f"top{k}": top[k - 1] for k in range(1, 6)},
        "top1_interval": wilson(int(counts.hits.sum()), len(indices)),
        "balanced_accuracy": _or_none(balanced_accuracy(counts)),
        "balanced_accuracy_interval": percentile_interval(balanced_accuracy(resampled)),
        "macro_f1": _or_none(macro_f1(counts)),
        "macro_f1_interval": percentile_interval(macro_f1(resampled)),
        "weighted_f1": _or_none(weighted_f1(counts)),
        "kappa": _or_none(kappa(counts)),
        **_calibration(values, indices, temperature),
        "ece_honest": by_chance.mean,
        "ece_honest_high": by_chance.high,
        "mean_average_precision": defined_mean(average),
        "aurc": area_under_risk_coverage(confidence, correct),
        "coverage": {
            f"{precision:g}": coverage_at_precision(confidence, correct, precision)
            for precision in PRECISIONS
        },
        "temperature": temperature,
        "uncalibrated": _calibration(values, indices, 1.0),
        "labels": _by_label(counts, labels, average),
    }


def top_k_accuracies(logits: ArrayLike, targets: ArrayLike, *, most: int = 5) -> list[float]:
    """Returns the shares of photos whose truth is among the first 1, 2 .. `most` labels.

    With fewer labels than k every photo counts, as the truth is among all labels.
    """
    values, indices = check(logits, targets)
    truth = values[np.arange(len(indices)), indices][:, None]  # (N, 1)
    earlier = np.arange(values.shape[1]) < indices[:, None]  # (N, C)
    rank = ((values > truth) | ((values == truth) & earlier)).sum(axis=1)
    return [float((rank < k).mean()) for k in range(1, most + 1)]


def precisions(counts: LabelCounts) -> Floats:
    """Returns the precision of each label, ``(..., C)``."""
    return _divide(counts.hits, counts.predicted)


def recalls(counts: LabelCounts) -> Floats:
    """Returns the recall of each label, ``(..., C)``."""
    return _divide(counts.hits, counts.photos)


def f1_scores(counts: LabelCounts) -> Floats:
    """Returns ``2·TP / (2·TP + FP + FN)`` of each label; NaN if neither present nor predicted."""
    return _divide(2 * counts.hits, counts.photos + counts.predicted)


def balanced_accuracy(counts: LabelCounts) -> Floats:
    """Returns the mean recall over the labels that have photos, ``(...)`` of ``(..., C)``."""
    return _mean_defined(recalls(counts))


def macro_f1(counts: LabelCounts) -> Floats:
    """Returns the mean F1 over the labels that are present or predicted."""
    return _mean_defined(f1_scores(counts))


def weighted_f1(counts: LabelCounts) -> Floats:
    """Returns the mean F1 weighted by each label's number of photos."""
    weighted = np.nan_to_num(f1_scores(counts)) * counts.photos
    return _divide(weighted.sum(axis=-1), counts.photos.sum(axis=-1))


def kappa(counts: LabelCounts) -> Floats:
    """Returns Cohen's kappa ``(p_o - p_e) / (1 - p_e)``: agreement beyond chance (Cohen 1960).

    NaN where the expected agreement is 1 (truth and predictions are all of one label).
    """
    total = counts.photos.sum(axis=-1)
    observed = counts.hits.sum(axis=-1) * total
    expected = (counts.photos * counts.predicted).sum(axis=-1)
    return _divide(observed - expected, total * total - expected)


def _calibration(logits: Floats, targets: Integers, temperature: float) -> dict[str, Any]:
    probabilities = softmax(logits, temperature=temperature)
    return {
        "log_loss": log_loss(logits / temperature, targets),
        "brier": brier(probabilities, targets),
        "ece": expected_calibration_error(probabilities, targets),
        "adaptive_ece": adaptive_calibration_error(probabilities, targets),
        "reliability": [dataclasses.asdict(b) for b in reliability_bins(probabilities, targets)],
    }


def _by_label(
    counts: LabelCounts, labels: Sequence[str], average: Sequence[float | None]
) -> dict[str, dict[str, float | int | Interval | None]]:
    hits, photos, predicted = counts.hits, counts.photos, counts.predicted
    precision, recall, f1 = precisions(counts), recalls(counts), f1_scores(counts)
    return {
        label: {
            "photos": int(photos[c]),
            "predicted": int(predicted[c]),
            "precision": _or_none(precision[c]),
            "precision_interval": wilson(int(hits[c]), int(predicted[c])),
            "recall": _or_none(recall[c]),
            "recall_interval": wilson(int(hits[c]), int(photos[c])),
            "f1": _or_none(f1[c]),
            "average_precision": average[c],
        }
        for c, label in enumerate(labels)
    }


def _divide(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    shares: Floats = np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom != 0)
    return shares


def _mean_defined(values: Floats) -> Floats:
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def _or_none(value: ArrayLike) -> float | None:
    number = float(np.asarray(value))
    return None if np.isnan(number) else number


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
    # Rounding can add up to a little over 1.
    return min(1.0, float((np.diff(np.r_[0.0, hits]) / positives * precision).sum()))


def average_precisions(scores: ArrayLike, truth: ArrayLike) -> list[float | None]:
    """Returns the average precision of each column of ``(N, C)`` scores against 0/1 truth."""
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    return [average_precision(values[:, c], positive[:, c]) for c in range(values.shape[1])]


def defined_mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the defined values, or None."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def resampled_average_precision(
    scores: ArrayLike, positive: ArrayLike, weights: ArrayLike
) -> Floats:
    """Returns the average precision under each of R rows of weights, ``(R,)``; NaN if undefined.

    Args:
        scores: ``(N,)``, greater is likelier.
        positive: ``(N,)`` of 0 and 1.
        weights: ``(R, N)``: how many times each photo counts.
    """
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    thresholds = np.flatnonzero(np.r_[values[order][1:] != values[order][:-1], True])
    counted = np.asarray(weights, dtype=np.float64)[:, order]
    predicted = np.cumsum(counted, axis=1)[:, thresholds]
    hits = np.cumsum(counted * np.asarray(positive, np.float64)[order], axis=1)[:, thresholds]
    precision = np.divide(hits, predicted, out=np.zeros_like(hits), where=predicted > 0)
    gained = np.diff(hits, axis=1, prepend=0.0)
    total = hits[:, -1]
    found: Floats = np.divide(
        (gained * precision).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0
    )
    return found

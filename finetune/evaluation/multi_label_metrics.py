"""Metrics of several labels a photo.

Each label is a binary classification by a sigmoid: a label is predicted where its probability
reaches its threshold. A ratio with denominator 0 is undefined: None, and left out
of means, as in `finetune.evaluation.metrics`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.evaluation.calibration import bin_confidence, calibration_gap
from finetune.evaluation.intervals import percentile_interval, wilson
from finetune.evaluation.metrics import (
    average_precision,
    average_precisions,
    defined_mean,
    resampled_average_precision,
)
from finetune.evaluation.probabilities import Floats, check_finite, sigmoid
from finetune.evaluation.thresholds import DEFAULT_THRESHOLD, NEVER

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Bounds of the temperature."""

RESAMPLES = 1000
"""Resamples of each bootstrap interval."""

_MAX_CELLS = 4_000_000

Truth = NDArray[np.bool_]


def evaluate_multilabel(
    logits: ArrayLike,
    truth: ArrayLike,
    labels: Sequence[str],
    *,
    temperature: float = 1.0,
    thresholds: Sequence[float] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns all metrics of one part whose photos carry several labels or none, ready for JSON.

    Args:
        logits: ``(N, C)``, not yet divided by the temperature.
        truth: ``(N, C)`` of 0 and 1.
        labels: C names.
        temperature: Fitted by calibration; ``uncalibrated`` has the calibration metrics at 1.
        thresholds: C probabilities from which on a label is predicted; None: 0.5 for each.
        seed: Seed of the bootstrap intervals.

    Returns:
        ``photos``; ``mean_average_precision`` (mean over labels that occur) and
        ``micro_average_precision``; ``exact_match`` (photos whose labels are all right, Wilson
        interval); ``hamming_loss`` (share of wrong yes/no decisions); ``macro_f1``, ``micro_f1``;
        bootstrap intervals of mAP and both F1; ``labels_a_photo``; ``log_loss`` (nats a photo,
        summed over labels), ``brier``, ``ece`` and ``reliability`` over all yes/no decisions;
        ``temperature``; ``uncalibrated``; and ``labels``: for each its ``threshold`` (None: it is
        never predicted), ``precision``, ``recall`` (with Wilson intervals), ``f1``,
        ``average_precision``, ``photos``, ``predicted``.

    Raises:
        ModelError: Some logits are not finite.
        ValueError: Shapes that do not fit, or no photos.
    """
    values, positive = check_multilabel(logits, truth)
    count, width = values.shape
    if width != len(labels):
        raise ValueError(f"{width} columns of logits, but {len(labels)} labels")
    limits = (
        np.full(width, DEFAULT_THRESHOLD)
        if thresholds is None
        else np.asarray(thresholds, np.float64)
    )
    if limits.shape != (width,):
        raise ValueError(f"{width} labels, but thresholds have shape {limits.shape}")
    probabilities = sigmoid(values, temperature=temperature)
    chosen = probabilities >= limits
    right = (chosen & positive).astype(np.float64)
    hits, predicted, present = (
        part.sum(axis=0).astype(np.int64) for part in (right, chosen, positive)
    )
    f1 = _ratio(2 * hits, predicted + present)
    average = average_precisions(values, positive)
    exact = (chosen == positive).all(axis=1)
    again = _resample(values, positive, chosen, np.random.default_rng(seed))
    return {
        "photos": count,
        "mean_average_precision": defined_mean(average),
        "mean_average_precision_interval": percentile_interval(again["map"]),
        "micro_average_precision": average_precision(values.ravel(), positive.ravel()),
        "exact_match": float(exact.mean()),
        "exact_match_interval": wilson(int(exact.sum()), count),
        "hamming_loss": float((chosen != positive).mean()),
        "macro_f1": defined_mean(f1),
        "macro_f1_interval": percentile_interval(again["macro_f1"]),
        "micro_f1": _ratio(2 * hits.sum()[None], (predicted + present).sum()[None])[0],
        "micro_f1_interval": percentile_interval(again["micro_f1"]),
        "labels_a_photo": float(positive.sum() / count),
        "labels_predicted": float(chosen.sum() / count),
        **_calibration(values, positive, temperature),
        "temperature": temperature,
        "uncalibrated": _calibration(values, positive, 1.0),
        "labels": {
            label: {
                "photos": int(present[c]),
                "predicted": int(predicted[c]),
                "threshold": float(limits[c]) if limits[c] < NEVER else None,
                "precision": _ratio(hits[c : c + 1], predicted[c : c + 1])[0],
                "precision_interval": wilson(int(hits[c]), int(predicted[c])),
                "recall": _ratio(hits[c : c + 1], present[c : c + 1])[0],
                "recall_interval": wilson(int(hits[c]), int(present[c])),
                "f1": f1[c],
                "average_precision": average[c],
            }
            for c, label in enumerate(labels)
        },
    }


def fit_sigmoid_temperature(logits: ArrayLike, truth: ArrayLike) -> float:
    """Returns the temperature that calibrates ``sigmoid(logits / T)`` on these photos.

    As `finetune.evaluation.calibration.fit_temperature`, with a yes/no question a label: in
    ``b = 1/T`` the log loss ``mean(log(1 + exp(b·z)) - q·b·z)`` is convex, so that its slope
    ``mean((sigmoid(b·z) - q)·z)`` has one zero. The N photos count as N + 1, one of them unknown
    (``q = (1 - e)·y + e/2``, ``e = 1/(N + 1)``), so that a part without a mistake does not push the
    probabilities to 0 and 1.

    Args:
        logits: ``(N, C)`` of the validation part.
        truth: ``(N, C)`` of 0 and 1.

    Returns:
        A temperature in 0.05..20; 1.0 without photos, or where all logits are 0.

    Raises:
        ModelError: Some logits are not finite.
        ValueError: Shapes that do not fit.
    """
    if np.asarray(logits).size == 0:
        return 1.0
    values, positive = check_multilabel(logits, truth)
    if not values.any():
        return 1.0
    unsure = 1 / (len(values) + 1)
    smoothed = (1 - unsure) * positive + unsure / 2

    def slope(inverse: float) -> tuple[float, float]:
        shares = sigmoid(values * inverse)
        first = ((shares - smoothed) * values).mean()
        second = (shares * (1 - shares) * values**2).mean()
        return float(first), float(second)

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope(low)[0] >= 0:
        return MAX_TEMPERATURE
    if slope(high)[0] <= 0:
        return MIN_TEMPERATURE
    inverse = 1.0
    for _ in range(200):
        first, second = slope(inverse)
        low, high = (low, inverse) if first > 0 else (inverse, high)
        step = first / second if second > 0 else np.inf
        before, inverse = inverse, inverse - step
        if not low < inverse < high:
            inverse = (low + high) / 2
        if abs(inverse - before) <= 1e-12 * inverse:
            break
    return float(1 / inverse)


def multilabel_log_loss(logits: ArrayLike, truth: ArrayLike) -> float:
    """Returns the binary cross-entropy in nats a photo: summed over labels, mean over photos."""
    values, positive = check_multilabel(logits, truth)
    return float(_log_losses(values, positive).sum(axis=1).mean())


def check_multilabel(logits: ArrayLike, truth: ArrayLike) -> tuple[Floats, Truth]:
    """Returns logits as ``(N, C) float64`` and truth as ``(N, C) bool``.

    Raises:
        ModelError: Some logits are not finite.
        ValueError: Shapes that do not fit, or no photos.
    """
    values, positive = np.asarray(logits, dtype=np.float64), np.asarray(truth).astype(bool)
    if values.ndim != 2 or values.shape != positive.shape or not values.size:
        raise ValueError(f"logits {values.shape} and truth {positive.shape} do not fit")
    check_finite(values)
    return values, positive


def _log_losses(values: Floats, positive: Truth) -> Floats:
    # log(1 + exp(-z)) where the label is there, log(1 + exp(z)) where it is not.
    losses: Floats = np.logaddexp(0.0, np.where(positive, -values, values))
    return losses


def _calibration(values: Floats, positive: Truth, temperature: float) -> dict[str, Any]:
    shares = sigmoid(values, temperature=temperature)
    bins = bin_confidence(shares.ravel(), positive.ravel())
    return {
        "log_loss": float(_log_losses(values / temperature, positive).sum(axis=1).mean()),
        "brier": float(((shares - positive) ** 2).mean()),
        "ece": calibration_gap(bins),
        "reliability": [dataclasses.asdict(item) for item in bins],
    }


def _resample(
    values: Floats, positive: Truth, predicted: Truth, rng: np.random.Generator
) -> dict[str, Floats]:
    """Returns bootstrap resamples of mAP, macro F1 and micro F1, ``(R,)``.

    A resample is an integer for each photo: how many times it was drawn.
    """
    count = len(values)
    found: dict[str, list[Floats]] = {"map": [], "macro_f1": [], "micro_f1": []}
    done = 0
    while done < RESAMPLES:
        rounds = min(RESAMPLES - done, max(1, _MAX_CELLS // count))
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=rounds).astype(np.float64)
        hits = drawn @ (predicted & positive)
        both = drawn @ (predicted.astype(np.float64) + positive)
        columns = [
            resampled_average_precision(values[:, c], positive[:, c], drawn)
            for c in range(values.shape[1])
        ]
        found["map"].append(_mean_defined(np.stack(columns, axis=1)))
        found["macro_f1"].append(_mean_defined(_divide(2 * hits, both)))
        found["micro_f1"].append(_divide(2 * hits.sum(axis=1), both.sum(axis=1)))
        done += rounds
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _divide(top: Floats, bottom: Floats) -> Floats:
    shares: Floats = np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom != 0)
    return shares


def _mean_defined(values: Floats) -> Floats:
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1).astype(float))


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> list[float | None]:
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return [float(n / d) if d else None for n, d in zip(top, bottom, strict=True)]

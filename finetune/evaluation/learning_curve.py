"""Learning curve: accuracy by the number of training photos, and what twice as many would bring.

The error of heads on few and many of the photos follows a power law, ``a + b n^-c`` with n photos
(Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically"; Figueroa et al. 2012,
"Predicting sample size required for classification performance"). It is fitted to the errors of
cross-validated heads and read off at twice the photos. The interval comes from resampled
near-duplicate groups: each resample has a curve of its own.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.intervals import Interval, wilson
from finetune.evaluation.probabilities import Floats, Integers

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the near-duplicate groups that heads are fitted on."""

RESAMPLES = 500

EXPONENTS = np.arange(0.1, 1.01, 0.1)
"""Exponents that are tried."""

CONFIDENCE = 0.95

TANGIBLE = 0.01
"""Gain in accuracy that is worth words."""


@dataclass(frozen=True, kw_only=True)
class CurveOutputs:
    """Predictions of held-out photos by heads on some of the others.

    Attributes:
        shares: ``(S,)``, ascending shares of the groups; the last is 1.
        photos: ``(S,)``, mean number of photos that the heads learned.
        predicted: ``(S, D, K)``, label that each head gives a photo; D draws.
        targets: ``(K,)``, true labels.
        groups: ``(K,)``, near-duplicate groups.
    """

    shares: tuple[float, ...]
    photos: tuple[float, ...]
    predicted: Integers
    targets: Integers
    groups: NDArray[Any]

    @property
    def wrong(self) -> Floats:
        """Share of the draws in which each photo is wrong, ``(S, K)``."""
        return np.asarray((self.predicted != self.targets).mean(axis=1))


@dataclass(frozen=True, kw_only=True)
class Point:
    """Accuracy of heads on some of the photos.

    Attributes:
        share: Of the near-duplicate groups.
        photos: Photos that the heads learned.
        accuracy: Mean over the draws.
        interval: Wilson's, over groups.
    """

    share: float
    photos: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class LabelOutlook:
    """Outlook of a label with twice the photos.

    Attributes:
        label: Its index.
        photos: Held-out photos.
        wrong: How many of these are wrong now.
        fewer: How many fewer would be wrong, by the curve of the label.
    """

    label: int
    photos: int
    wrong: int
    fewer: float


@dataclass(frozen=True, kw_only=True)
class LookAlikes:
    """Two labels that more photos do not tell apart.

    Attributes:
        labels: Their indices.
        confused: Photos of either taken for the other, with all photos.
        before: The same with few photos.
    """

    labels: tuple[int, int]
    confused: float
    before: float


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Accuracy by the number of photos, with the forecast for twice as many.

    Attributes:
        points: By the number of photos.
        forecast: Accuracy with twice the photos.
        interval: 95 % interval of what a cross-validation on these would show.
        gain: 95 % interval of the gain in accuracy, without the noise of measuring it.
        labels: Those that gain most, first.
        look_alikes: The most confused, first.
    """

    points: tuple[Point, ...]
    forecast: float
    interval: Interval
    gain: Interval
    labels: tuple[LabelOutlook, ...]
    look_alikes: tuple[LookAlikes, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; `from_dict` is the inverse."""
        return {
            "points": [vars(point) for point in self.points],
            "forecast": self.forecast,
            "interval": list(self.interval),
            "gain": list(self.gain),
            "labels": [vars(label) for label in self.labels],
            "look_alikes": [vars(pair) for pair in self.look_alikes],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LearningCurve:
        """Inverse of `to_dict`; raises KeyError, TypeError or ValueError."""

        def pair(values: Sequence[float]) -> Interval:
            low, high = values
            return low, high

        def known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
            # Later versions may add keys.
            return {field.name: values[field.name] for field in dataclasses.fields(kind)}

        return cls(
            points=tuple(
                Point(**known(Point, point) | {"interval": pair(point["interval"])})
                for point in content["points"]
            ),
            forecast=content["forecast"],
            interval=pair(content["interval"]),
            gain=pair(content["gain"]),
            labels=tuple(LabelOutlook(**known(LabelOutlook, one)) for one in content["labels"]),
            look_alikes=tuple(
                LookAlikes(**known(LookAlikes, one) | {"labels": tuple(one["labels"])})
                for one in content["look_alikes"]
            ),
        )


def fit_learning_curve(outputs: CurveOutputs, *, rng: np.random.Generator) -> LearningCurve:
    """Returns the learning curve of held-out predictions.

    Args:
        outputs: Predictions of heads on shares of the photos.
        rng: Resamples the groups.
    """
    wrong = outputs.wrong
    groups = np.unique(outputs.groups, return_inverse=True)[1]
    count = int(groups.max()) + 1
    sizes = np.bincount(groups, minlength=count).astype(np.float64)
    sums = np.stack([np.bincount(groups, row, minlength=count) for row in wrong])  # (S, G)
    errors = sums.sum(axis=1) / sizes.sum()
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)  # (R, G)
    resampled = drawn @ sums.T / (drawn @ sizes)[:, None]
    ratios = np.array(outputs.photos) / outputs.photos[-1]
    forecast = float(forecasts(ratios, errors[None])[0])
    futures = forecasts(ratios, resampled)
    # The figure of twice the photos comes from twice the groups, by chance a little off.
    seen = rng.binomial(2 * count, futures.clip(0, 1)) / (2 * count)
    ends = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    low, high = np.quantile(seen, ends)
    gain_low, gain_high = np.quantile(resampled[:, -1] - futures, ends)
    points = []
    for share, photos, error in zip(outputs.shares, outputs.photos, errors, strict=True):
        interval = wilson(round((1 - error) * count), count) or (0.0, 1.0)
        points.append(
            Point(
                share=share,
                photos=round(photos),
                accuracy=float(1 - error),
                interval=(min(interval[0], 1 - error), max(interval[1], 1 - error)),
            )
        )
    return LearningCurve(
        points=tuple(points),
        forecast=1 - forecast,
        interval=(float(1 - max(high, forecast)), float(1 - min(low, forecast))),
        gain=(float(gain_low), float(gain_high)),
        labels=_outlooks(outputs, ratios),
        look_alikes=_look_alikes(outputs),
    )


def forecasts(ratios: Floats, errors: Floats) -> Floats:
    """Returns the errors with twice the photos, ``(R,)``, by power laws.

    Each law is ``a + b r^-c`` with a and b of at least 0, fitted by least squares with weights r:
    what happens at many photos counts most for still more. What it gains from one to two is taken
    off the error at one.

    Args:
        ratios: ``(S,)``, numbers of photos as shares of the largest.
        errors: ``(R, S)``, errors of R curves.
    """
    best = np.full(len(errors), np.inf)
    gain = np.zeros(len(errors))
    for exponent in EXPONENTS:
        shape = ratios**-exponent
        constant, slope = _nonnegative_line(shape, errors, ratios)
        loss = ((constant[:, None] + slope[:, None] * shape - errors) ** 2 * ratios).sum(axis=1)
        better = loss < best - 1e-15
        best = np.where(better, loss, best)
        gain = np.where(better, slope * (1 - 2.0**-exponent), gain)
    return np.maximum(errors[:, -1] - gain, 0)


def _nonnegative_line(x: Floats, y: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Returns intercepts and slopes of at least 0 by weighted least squares of ``y (R, S)``."""
    total = weights.sum()
    mean_x, mean_y = (weights * x).sum() / total, (weights * y).sum(axis=1) / total
    spread = (weights * (x - mean_x) ** 2).sum()
    slope = (weights * (x - mean_x) * (y - mean_y[:, None])).sum(axis=1) / spread
    slope = np.maximum(slope, 0)
    constant = mean_y - slope * mean_x
    through_zero = (weights * x * y).sum(axis=1) / (weights * x * x).sum()
    negative = constant < 0
    return np.where(negative, 0, constant), np.where(negative, through_zero, slope)


def _outlooks(outputs: CurveOutputs, ratios: Floats) -> tuple[LabelOutlook, ...]:
    labels, of_label, photos = np.unique(outputs.targets, return_inverse=True, return_counts=True)
    wrong = np.stack([np.bincount(of_label, row, minlength=len(labels)) for row in outputs.wrong])
    errors = (wrong / photos).T  # (labels, S)
    fewer = (errors[:, -1] - forecasts(ratios, errors)) * photos
    found = [
        LabelOutlook(label=label, photos=count, wrong=round(mistakes), fewer=max(gain, 0.0))
        for label, count, mistakes, gain in zip(
            labels.tolist(), photos.tolist(), wrong[-1].tolist(), fewer.tolist(), strict=True
        )
    ]
    return tuple(sorted(found, key=lambda one: (-one.fewer, one.label)))


FEWEST_CONFUSED = 3
"""Photos of two labels that must be confused for them to be named as look-alikes."""

LASTING = 0.9
"""Share of the confusions with few photos that must last with all of them."""


def _look_alikes(outputs: CurveOutputs) -> tuple[LookAlikes, ...]:
    """Returns pairs of labels that are confused about as often with all photos as with few."""
    few = [k for k, share in enumerate(outputs.shares) if 0.2 <= share <= 0.4] or [0]
    before: defaultdict[tuple[int, int], float] = defaultdict(float)
    for place in few:
        for pair, count in _confusions(outputs, place).items():
            before[pair] += count / len(few)
    found = [
        LookAlikes(labels=pair, confused=count, before=before[pair])
        for pair, count in _confusions(outputs, len(outputs.shares) - 1).items()
        if count >= FEWEST_CONFUSED and count >= LASTING * before[pair]
    ]
    return tuple(sorted(found, key=lambda one: (-one.confused, one.labels)))


def _confusions(outputs: CurveOutputs, place: int) -> dict[tuple[int, int], float]:
    """Returns the mean number of photos a draw in which two labels are confused, by the pair."""
    predicted = outputs.predicted[place]
    truth = np.broadcast_to(outputs.targets, predicted.shape)
    wrong = predicted != truth
    pairs = np.sort(np.stack([predicted[wrong], truth[wrong]]), axis=0)
    unique, counts = np.unique(pairs, axis=1, return_counts=True)
    return {
        (first, second): count / len(predicted)
        for first, second, count in zip(*unique.tolist(), counts.tolist(), strict=True)
    }

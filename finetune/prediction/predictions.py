"""Predictions of photos: ranked labels with probabilities (imports no torch)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from finetune.evaluation.predictions import LabelSet


class RankedJson(TypedDict):
    """Label with its calibrated probability in [0, 1].

    With several labels a photo, `predicted` is whether the probability reaches the label's
    threshold.
    """

    label: str
    probability: float
    predicted: NotRequired[bool]


class PredictionJson(TypedDict):
    """Prediction of one photo.

    `status` is "ok", or the reason why the photo could not be opened. `ranked` has the likeliest
    label first. `unknown` is whether the photo may show none of the labels. With several labels a
    photo, `labels` are those that reach their threshold.
    """

    photo: str | None
    status: str
    labels: NotRequired[list[str]]
    ranked: list[RankedJson]
    unknown: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """One label with its calibrated probability in [0, 1].

    Attributes:
        predicted: Whether the probability reaches the label's threshold; None where a photo has
            one label.
    """

    label: str
    probability: float
    predicted: bool | None = None

    def to_dict(self) -> RankedJson:
        """Returns JSON values."""
        content: RankedJson = {"label": self.label, "probability": self.probability}
        if self.predicted is not None:
            content["predicted"] = self.predicted
        return content


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoPrediction:
    """Prediction of one photo.

    Attributes:
        photo: Its path; None for pixels or bytes.
        status: ``"ok"``, or why the photo could not be opened.
        ranked: All labels, the likeliest first; empty where the photo could not be opened.
        unknown: Whether the photo is out of distribution or below the threshold; of several labels,
            whether none is predicted.
    """

    photo: str | None
    status: str
    ranked: tuple[Ranked, ...] = ()
    unknown: bool = False

    @property
    def label(self) -> str | None:
        """Likeliest label, or None."""
        return self.ranked[0].label if self.ranked else None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Predicted labels, the likeliest first; None where a photo has one label."""
        if not self.ranked or self.ranked[0].predicted is None:
            return None
        return tuple(item.label for item in self.ranked if item.predicted)

    @property
    def label_set(self) -> LabelSet | None:
        """Predicted labels, sorted, and the probability that exactly these are right."""
        if self.labels is None:
            return None
        shares = [
            item.probability if item.predicted else 1 - item.probability for item in self.ranked
        ]
        return LabelSet(labels=tuple(sorted(self.labels)), probability=math.prod(shares))

    def probability_of(self, label: str) -> float:
        """Returns the probability of a label, or 0 if it is unknown."""
        return next((item.probability for item in self.ranked if item.label == label), 0.0)

    def to_dict(self, top: int | None = None) -> PredictionJson:
        """Returns JSON values, with the `top` likeliest labels."""
        photo, status, unknown = self.photo, self.status, self.unknown
        ranked = [item.to_dict() for item in self.ranked[:top]]
        if self.labels is None:
            return {"photo": photo, "status": status, "ranked": ranked, "unknown": unknown}
        labels = list(self.labels)
        return {
            "photo": photo,
            "status": status,
            "labels": labels,
            "ranked": ranked,
            "unknown": unknown,
        }


def rank(
    labels: Sequence[str],
    probabilities: NDArray[np.float64],
    limits: NDArray[np.float64] | None = None,
) -> tuple[Ranked, ...]:
    """Returns labels by decreasing probability; ties are in class order.

    Args:
        labels: C names in class order.
        probabilities: ``(C,)``.
        limits: Thresholds ``(C,)``, where a photo may have several labels.
    """
    order = np.argsort(-probabilities, kind="stable")
    predicted = None if limits is None else probabilities >= limits
    return tuple(
        Ranked(
            label=labels[index],
            probability=float(probabilities[index]),
            predicted=None if predicted is None else bool(predicted[index]),
        )
        for index in order
    )

"""Predictions of photos: ranked labels with probabilities (imports no torch)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from finetune.evaluation.predictions import LabelSet
from finetune.evaluation.status import Status

UNKNOWN = "unknown (unlike anything learned)"
NO_LABEL = "no label reaches its threshold"

GUESSES = 3
"""Largest number of guesses in an unsure answer."""

SMALLEST_GUESS = 0.05
"""Smallest probability of a guess."""


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

    `status` is "failed" where the photo could not be opened, and `error` is the reason. `ranked`
    has the likeliest label first. With several labels a photo, `labels` are those that reach their
    threshold.
    """

    photo: str | None
    status: Literal["sure", "unsure", "unknown", "failed"]
    error: NotRequired[str]
    labels: NotRequired[list[str]]
    ranked: list[RankedJson]


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
        status: See `finetune.evaluation.status.Status`; ``"failed"``: the photo could not be
            opened.
        ranked: All labels, the likeliest first; empty where the photo could not be opened.
        error: Why the photo could not be opened, or None.
    """

    photo: str | None
    status: Status | Literal["failed"]
    ranked: tuple[Ranked, ...] = ()
    error: str | None = None

    @classmethod
    def failed(cls, photo: str | None, error: str) -> PhotoPrediction:
        """Returns the prediction of a photo that could not be opened."""
        return cls(photo=photo, status="failed", error=error)

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

    @property
    def answer(self) -> str:
        """The answer in words: the label, the best guesses, or why there is neither."""
        if self.error is not None:
            return f"cannot be opened: {self.error}"
        if self.labels is not None:
            named = [f"{i.label} {i.probability:.0%}" for i in self.ranked if i.predicted]
            return ", ".join(named) or NO_LABEL
        if self.status == "unknown":
            return UNKNOWN
        if self.status == "sure":
            return f"{self.ranked[0].label} {self.ranked[0].probability:.0%}"
        guesses = [item for item in self.ranked[:GUESSES] if item.probability >= SMALLEST_GUESS]
        named = [f"{item.label} {item.probability:.0%}" for item in guesses or self.ranked[:1]]
        return f"unsure: {', '.join(named)}"

    def probability_of(self, label: str) -> float:
        """Returns the probability of a label, or 0 if it is unknown."""
        return next((item.probability for item in self.ranked if item.label == label), 0.0)

    def to_dict(self, top: int | None = None) -> PredictionJson:
        """Returns JSON values, with the `top` likeliest labels."""
        content: PredictionJson = {
            "photo": self.photo,
            "status": self.status,
            "ranked": [item.to_dict() for item in self.ranked[:top]],
        }
        if self.error is not None:
            content["error"] = self.error
        if self.labels is not None:
            content["labels"] = list(self.labels)
        return content


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

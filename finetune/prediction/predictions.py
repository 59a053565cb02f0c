"""Predictions of photos: ranked labels with probabilities (imports no torch)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from finetune.evaluation.hierarchy import Ancestor
from finetune.evaluation.predictions import LabelSet
from finetune.evaluation.status import Status
from finetune.formatting import percent

By = Literal["photo", "burst"]
"""Whether each photo has its own answer, or each burst of frames has one."""

UNKNOWN = "unknown (unlike anything learned)"
NO_LABEL = "no label reaches its threshold"

GUESSES = 3
"""Largest number of guesses in an unsure answer."""

SMALLEST_GUESS = 0.05
"""Smallest probability of a guess."""


MOST_STRUCK_OUT = 0.5
"""Largest probability of impossible labels with which a possible one can be sure."""


class RankedJson(TypedDict):
    """Label with its calibrated probability in [0, 1].

    With several labels a photo, `predicted` is whether the probability reaches the label's
    threshold.
    """

    label: str
    probability: float
    predicted: NotRequired[bool]


class AncestorJson(TypedDict):
    """Answer of an unsure photo at a level above the labels."""

    level: str
    label: str
    probability: float


class BurstJson(TypedDict):
    """Number of frames of a burst, and the path of the best one."""

    frames: int
    best: str


class PredictionJson(TypedDict):
    """Prediction of one photo.

    `status` is "failed" where the photo could not be opened, and `error` is the reason. `ranked`
    has the likeliest label first. With several labels a photo, `labels` are those that reach their
    threshold. `ancestor` is the answer at a level above the labels, where no label is sure.
    `struck_out` are impossible labels with the probability that they had. `burst` is the burst that
    the answer is of.
    """

    photo: str | None
    status: Literal["sure", "unsure", "unknown", "failed"]
    error: NotRequired[str]
    labels: NotRequired[list[str]]
    ranked: list[RankedJson]
    ancestor: NotRequired[AncestorJson]
    struck_out: NotRequired[list[RankedJson]]
    burst: NotRequired[BurstJson]


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
class Burst:
    """Frames of one burst, which have one answer.

    Attributes:
        frames: How many there are.
        best: Path of the one in which the label is likeliest.
    """

    frames: int
    best: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoPrediction:
    """Prediction of one photo.

    Attributes:
        photo: Its path; None for pixels or bytes.
        status: See `finetune.evaluation.status.Status`; ``"failed"``: the photo could not be
            opened.
        ranked: All labels, the likeliest first; empty where the photo could not be opened.
        error: Why the photo could not be opened, or None.
        ancestor: Answer at a level above the labels where none of these is sure, or None.
        struck_out: Impossible labels with the probability that they had, the likeliest first.
        burst: The burst that the answer is of, or None.
    """

    photo: str | None
    status: Status | Literal["failed"]
    ranked: tuple[Ranked, ...] = ()
    error: str | None = None
    ancestor: Ancestor | None = None
    struck_out: tuple[Ranked, ...] = ()
    burst: Burst | None = None

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
            named = [f"{i.label} {percent(i.probability)}" for i in self.ranked if i.predicted]
            return ", ".join(named) or NO_LABEL
        if self.status == "unknown":
            return UNKNOWN
        if self.status == "sure":
            return f"{self.ranked[0].label} {percent(self.ranked[0].probability)}"
        if self.ancestor is not None:
            node, likeliest = self.ancestor, self.ranked[0]
            return (
                f"{node.label} {percent(node.probability)}, likeliest {likeliest.label} "
                f"{percent(likeliest.probability)}"
            )
        guesses = [item for item in self.ranked[:GUESSES] if item.probability >= SMALLEST_GUESS]
        named = [f"{item.label} {percent(item.probability)}" for item in guesses or self.ranked[:1]]
        return f"unsure: {', '.join(named)}"

    @property
    def likely_struck_out(self) -> tuple[Ranked, ...]:
        """Impossible labels that would have been worth naming."""
        return tuple(item for item in self.struck_out if item.probability >= SMALLEST_GUESS)

    @property
    def doubtful(self) -> bool:
        """Whether impossible labels had more of the probability than possible ones."""
        return sum(item.probability for item in self.struck_out) > MOST_STRUCK_OUT

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
        if self.ancestor is not None:
            content["ancestor"] = AncestorJson(
                level=self.ancestor.level,
                label=self.ancestor.label,
                probability=self.ancestor.probability,
            )
        if self.likely_struck_out:
            content["struck_out"] = [item.to_dict() for item in self.likely_struck_out]
        if self.burst is not None:
            content["burst"] = BurstJson(frames=self.burst.frames, best=self.burst.best)
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

"""What is said of a photo: ranked labels with probabilities. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.predictions import LabelSet


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """One label and how probable it is.

    Attributes:
        label: The label.
        probability: Calibrated, in [0, 1].
        said: Whether the probability reaches the label's threshold, where a photo may have several
            labels, else None.
    """

    label: str
    probability: float
    said: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        plain: dict[str, Any] = {"label": self.label, "probability": self.probability}
        return plain if self.said is None else plain | {"said": self.said}


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoPrediction:
    """What a run says of one photo.

    Attributes:
        photo: Its path, or None where it came as pixels or bytes.
        status: ``"ok"``, or why the photo could not be opened.
        ranked: All labels, the likeliest first; empty where the photo could not be opened.
        unknown: Whether the photo is unlike those that the run can be trusted on, or less certain
            than was asked for; of several labels, whether none is said.
    """

    photo: str | None
    status: str
    ranked: tuple[Ranked, ...] = ()
    unknown: bool = False

    @property
    def label(self) -> str | None:
        """The likeliest label, or None."""
        return self.ranked[0].label if self.ranked else None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The labels that are said, the likeliest first; None where a photo has just one."""
        if not self.ranked or self.ranked[0].said is None:
            return None
        return tuple(item.label for item in self.ranked if item.said)

    @property
    def label_set(self) -> LabelSet | None:
        """The labels that are said, sorted, and how probable it is that exactly these are right."""
        if self.labels is None:
            return None
        shares = [item.probability if item.said else 1 - item.probability for item in self.ranked]
        return LabelSet(labels=tuple(sorted(self.labels)), probability=math.prod(shares))

    def probability_of(self, label: str) -> float:
        """Returns the probability of one label; 0 for one that is not there."""
        return next((item.probability for item in self.ranked if item.label == label), 0.0)

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Returns plain JSON values, with the `top` likeliest labels."""
        said = self.labels
        return {
            "photo": self.photo,
            "status": self.status,
            **({} if said is None else {"labels": list(said)}),
            "ranked": [item.to_dict() for item in self.ranked[:top]],
            "unknown": self.unknown,
        }


def rank(
    labels: Sequence[str],
    probabilities: NDArray[np.float64],
    limits: NDArray[np.float64] | None = None,
) -> tuple[Ranked, ...]:
    """Returns labels by falling probability; of equal ones, the first in class order comes first.

    Args:
        labels: C names in class order.
        probabilities: ``(C,)``.
        limits: ``(C,)`` from which a label is said, where a photo may have several.
    """
    order = np.argsort(-probabilities, kind="stable")
    said = None if limits is None else probabilities >= limits
    return tuple(
        Ranked(
            label=labels[index],
            probability=float(probabilities[index]),
            said=None if said is None else bool(said[index]),
        )
        for index in order
    )

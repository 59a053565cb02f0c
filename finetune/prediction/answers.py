"""What is said of a photo: ranked labels with probabilities. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """One label and how probable it is.

    Attributes:
        label: The label.
        probability: Calibrated, in [0, 1].
    """

    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"label": self.label, "probability": self.probability}


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoPrediction:
    """What a run says of one photo.

    Attributes:
        photo: Its path, or None where it came as pixels or bytes.
        status: ``"ok"``, or why the photo could not be opened.
        ranked: All labels, the likeliest first; empty where the photo could not be opened.
        unknown: Whether the photo is unlike those that the run can be trusted on, or less certain
            than was asked for.
    """

    photo: str | None
    status: str
    ranked: tuple[Ranked, ...] = ()
    unknown: bool = False

    @property
    def label(self) -> str | None:
        """The likeliest label, or None."""
        return self.ranked[0].label if self.ranked else None

    def probability_of(self, label: str) -> float:
        """Returns the probability of one label; 0 for one that is not there."""
        return next((item.probability for item in self.ranked if item.label == label), 0.0)

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Returns plain JSON values, with the `top` likeliest labels."""
        return {
            "photo": self.photo,
            "status": self.status,
            "ranked": [item.to_dict() for item in self.ranked[:top]],
            "unknown": self.unknown,
        }


def rank(labels: Sequence[str], probabilities: NDArray[np.float64]) -> tuple[Ranked, ...]:
    """Returns labels by falling probability; of equal ones, the first in class order comes first.

    Args:
        labels: C names in class order.
        probabilities: ``(C,)``.
    """
    order = np.argsort(-probabilities, kind="stable")
    return tuple(
        Ranked(label=labels[index], probability=float(probabilities[index])) for index in order
    )

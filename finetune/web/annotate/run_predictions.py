"""What a trained run says of the photos of a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.photos.collection import Photo
from finetune.web.annotate.session import Session

Array = NDArray[np.float64]

Classifier = Callable[[Sequence[Photo]], tuple[tuple[str, ...], Array]]
"""Gives the labels and the probabilities ``(N, labels)`` of photos: a run that was trained."""


class RunAnswers:
    """What a run has said so far; nothing where there is none.

    Attributes:
        labels: Those of the run; () where there is none.
    """

    def __init__(self) -> None:
        self.labels: tuple[str, ...] = ()
        self._rows: dict[str, Array] = {}

    def put(self, ids: Sequence[str], labels: tuple[str, ...], shares: Array) -> None:
        """Takes the probabilities ``(N, labels)`` of N photos."""
        self.labels = labels
        self._rows |= dict(zip(ids, shares, strict=True))

    def of(self, photo_id: str) -> Array:
        """Returns the probabilities ``(labels,)`` of a photo."""
        return self._rows[photo_id]


def run_classifier(run: str, session: Session) -> Classifier:
    """Returns what a trained run says of photos of a session.

    Raises:
        RunError: There is no such run, or it is damaged.
    """
    from finetune.prediction.predictor import Predictor

    predictor = Predictor.load(run)

    def classify(photos: Sequence[Photo]) -> tuple[tuple[str, ...], Array]:
        answers = predictor.predict_batch([session.root / photo.path for photo in photos])
        shares = np.full((len(answers), len(predictor.labels)), 1 / len(predictor.labels))
        for row, answer in zip(shares, answers, strict=True):
            by_label = {item.label: item.probability for item in answer.ranked}
            if by_label:
                row[:] = [by_label[label] for label in predictor.labels]
        return predictor.labels, shares

    return classify

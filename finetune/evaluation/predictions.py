"""Predictions and true labels of evaluated photos: ``predictions.csv``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from finetune.errors import RunError
from finetune.evaluation.multi_label_metrics import check_multilabel
from finetune.evaluation.probabilities import check, sigmoid, softmax
from finetune.files import can_be_path
from finetune.formatting import visible
from finetune.photos.labels import join_labels, split_labels
from finetune.spreadsheets import guard, read_csv, unguard, write_csv

RANKED = 5
"""Number of ranked labels written per photo."""

_COLUMNS = ("path", "digest", "part", "label", "predicted", "probability", "correct")
_SEVERAL_COLUMNS = ("path", "digest", "part", "labels", "predicted", "probability", "correct")
_RANKS = tuple(f"{what}_{k}" for k in range(1, RANKED + 1) for what in ("label", "probability"))


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """Predicted labels of one photo.

    Attributes:
        labels: In class order.
        probability: That exactly these are right, the labels taken as independent: the product of
            ``p`` over these and of ``1 - p`` over all others.
    """

    labels: tuple[str, ...]
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Prediction and truth of one photo.

    Attributes:
        path: As in the collection, relative to its root.
        digest: Of the file's content.
        part: train, validation, test, or another collection's name.
        label: The truth; of several labels a photo, all of them joined by ``|``.
        ranked: At most five (label, probability), likeliest first.
        label_set: Predicted labels, if a photo may have several; else None.
    """

    path: str
    digest: str
    part: str
    label: str
    ranked: tuple[tuple[str, float], ...]
    label_set: LabelSet | None = None

    @property
    def predicted(self) -> str:
        """Likeliest label; of several labels a photo, all predicted ones, joined by ``|``."""
        return self.ranked[0][0] if self.label_set is None else join_labels(self.label_set.labels)

    @property
    def probability(self) -> float:
        """Probability of `predicted`."""
        return self.ranked[0][1] if self.label_set is None else self.label_set.probability

    @property
    def correct(self) -> bool:
        """Whether `predicted` is the truth; of several labels, whether all are right."""
        return self.predicted == self.label

    @property
    def truth(self) -> tuple[str, ...]:
        """True labels."""
        return (self.label,) if self.label_set is None else split_labels(self.label)

    @property
    def predicted_labels(self) -> tuple[str, ...]:
        """Predicted labels."""
        return (self.ranked[0][0],) if self.label_set is None else self.label_set.labels


@dataclass(frozen=True, kw_only=True)
class EvaluatedPhoto:
    """Photo of a row of logits."""

    path: str
    digest: str
    part: str


def make_predictions(
    photos: Sequence[EvaluatedPhoto],
    logits: ArrayLike,
    targets: ArrayLike,
    labels: Sequence[str],
    *,
    temperature: float = 1.0,
) -> list[Prediction]:
    """Returns one prediction a photo, in the order given.

    Args:
        photos: N photos.
        logits: ``(N, C)``.
        targets: ``(N,)`` true indices.
        labels: C names in class order.
        temperature: Divides the logits.
    """
    values, indices = check(logits, targets)
    probabilities = softmax(values, temperature=temperature)
    # Ranked by logits: probabilities that round to the same number keep their order.
    order = np.argsort(-values, axis=1, kind="stable")[:, :RANKED]  # (N, K)
    return [
        Prediction(
            path=photo.path,
            digest=photo.digest,
            part=photo.part,
            label=labels[truth],
            ranked=tuple((labels[c], float(row[c])) for c in best),
        )
        for photo, truth, row, best in zip(photos, indices, probabilities, order, strict=True)
    ]


def make_multilabel_predictions(
    photos: Sequence[EvaluatedPhoto],
    logits: ArrayLike,
    truth: ArrayLike,
    labels: Sequence[str],
    *,
    thresholds: Sequence[float],
    temperature: float = 1.0,
) -> list[Prediction]:
    """Returns one prediction for each photo with several labels, in order.

    Args:
        photos: N photos.
        logits: ``(N, C)``.
        truth: ``(N, C)`` of 0 and 1.
        labels: C names in class order.
        thresholds: C probabilities from which on a label is predicted.
        temperature: Divides the logits.
    """
    values, positive = check_multilabel(logits, truth)
    probabilities = sigmoid(values, temperature=temperature)
    chosen = probabilities >= np.asarray(thresholds, np.float64)
    certainty = np.where(chosen, probabilities, 1 - probabilities).prod(axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :RANKED]

    def named(columns: np.ndarray) -> tuple[str, ...]:
        return tuple(label for label, present in zip(labels, columns, strict=True) if present)

    return [
        Prediction(
            path=photo.path,
            digest=photo.digest,
            part=photo.part,
            label=join_labels(named(positive[n])),
            ranked=tuple((labels[int(c)], float(probabilities[n, c])) for c in order[n]),
            label_set=LabelSet(labels=named(chosen[n]), probability=float(certainty[n])),
        )
        for n, photo in enumerate(photos)
    ]


def write_predictions(path: Path, rows: Iterable[Prediction]) -> Path:
    """Writes predictions as CSV for spreadsheets and for `read_predictions`.

    Raises:
        StorageError: The file could not be written; an older one is intact.
    """

    def cells(row: Prediction) -> list[str]:
        ranks = [cell for label, share in row.ranked for cell in (guard(label), repr(share))]
        ranks += [""] * (len(_RANKS) - len(ranks))
        names = (row.path, row.digest, row.part, row.label, row.predicted)
        shown = [guard(visible(text)) for text in names]
        return [*shown, repr(row.probability), str(row.correct).lower(), *ranks]

    held = list(rows)
    columns = _SEVERAL_COLUMNS if any(row.label_set is not None for row in held) else _COLUMNS
    return write_csv(path, [[*columns, *_RANKS], *map(cells, held)])


def read_predictions(path: Path) -> list[Prediction]:
    """Returns the predictions in a file that `write_predictions` wrote.

    Raises:
        RunError: The file is missing or has other columns; the message names the line.
    """
    try:
        header, *rows = read_csv(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} could not be read: {error}. Write it again with finetune evaluate."
        ) from error
    if header not in ([*_COLUMNS, *_RANKS], [*_SEVERAL_COLUMNS, *_RANKS]):
        raise RunError(
            f"{path} does not have the columns of predictions.csv. "
            "Write it again with finetune evaluate."
        )
    several = header[3] == "labels"
    return [_parse(path, number, row, several) for number, row in enumerate(rows, start=2)]


def _parse(path: Path, line: int, row: Sequence[str], several: bool) -> Prediction:
    try:
        names = [unguard(cell) for cell in row[:4]]
        if not can_be_path(names[0]):
            raise ValueError("no file can have this path")
        ranks = row[len(_COLUMNS) :]
        ranked = tuple(
            (unguard(label), float(share))
            for label, share in zip(ranks[::2], ranks[1::2], strict=True)
            if share
        )
        label_set = None
        if several:
            label_set = LabelSet(labels=split_labels(unguard(row[4])), probability=float(row[5]))
        return Prediction(
            path=names[0],
            digest=names[1],
            part=names[2],
            label=names[3],
            ranked=ranked,
            label_set=label_set,
        )
    except (IndexError, ValueError) as error:
        raise RunError(
            f"{path}, line {line}: {error}. Write it again with finetune evaluate."
        ) from error

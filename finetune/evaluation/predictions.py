"""``predictions.csv``: what was said of every photo, beside the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from finetune.errors import RunError
from finetune.evaluation.probabilities import check, softmax
from finetune.evaluation.spreadsheet import guard, read_csv, unguard, write_csv

RANKED = 5
"""How many labels of each photo are kept."""

_COLUMNS = ("path", "digest", "part", "label", "predicted", "probability", "correct")
_RANKS = tuple(f"{what}_{k}" for k in range(1, RANKED + 1) for what in ("label", "probability"))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was said of one photo.

    Attributes:
        path: As in the collection, relative to its root.
        digest: Of the file's content.
        part: train, validation, test, or another collection's name.
        label: The truth.
        ranked: At most five (label, probability), likeliest first.
    """

    path: str
    digest: str
    part: str
    label: str
    ranked: tuple[tuple[str, float], ...]

    @property
    def predicted(self) -> str:
        """The likeliest label."""
        return self.ranked[0][0]

    @property
    def probability(self) -> float:
        """The probability of the likeliest label."""
        return self.ranked[0][1]

    @property
    def correct(self) -> bool:
        """Whether the likeliest label is the truth."""
        return self.predicted == self.label


@dataclass(frozen=True, kw_only=True)
class EvaluatedPhoto:
    """Which photo a row of logits belongs to."""

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


def write_predictions(path: Path, rows: Iterable[Prediction]) -> Path:
    """Writes predictions as CSV for spreadsheets and for `read_predictions`.

    Raises:
        StorageError: The file could not be written; an older one is intact.
    """

    def cells(row: Prediction) -> list[str]:
        ranks = [cell for label, share in row.ranked for cell in (guard(label), repr(share))]
        ranks += [""] * (len(_RANKS) - len(ranks))
        names = (row.path, row.digest, row.part, row.label, row.predicted)
        shown = [guard(text) for text in names]
        return [*shown, repr(row.probability), str(row.correct).lower(), *ranks]

    return write_csv(path, [[*_COLUMNS, *_RANKS], *map(cells, rows)])


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
    if header != [*_COLUMNS, *_RANKS]:
        raise RunError(
            f"{path} does not have the columns of predictions.csv. "
            "Write it again with finetune evaluate."
        )
    return [_parse(path, number, row) for number, row in enumerate(rows, start=2)]


def _parse(path: Path, line: int, row: Sequence[str]) -> Prediction:
    try:
        names = [unguard(cell) for cell in row[:4]]
        ranks = row[len(_COLUMNS) :]
        ranked = tuple(
            (unguard(label), float(share))
            for label, share in zip(ranks[::2], ranks[1::2], strict=True)
            if share
        )
        return Prediction(
            path=names[0], digest=names[1], part=names[2], label=names[3], ranked=ranked
        )
    except (IndexError, ValueError) as error:
        raise RunError(
            f"{path}, line {line}: {error}. Write it again with finetune evaluate."
        ) from error

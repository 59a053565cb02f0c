"""The photos that a run was made from, as far as they are still where they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.errors import DecodeError
from finetune.photos.preprocessing import Preprocessing
from finetune.photos.split.split import read_split
from finetune.prediction.pixels import working_square
from finetune.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class SquaredPhoto:
    """A photo and its working square.

    Attributes:
        path: Its file.
        square: ``(S, S, 3) uint8``.
    """

    path: Path
    square: NDArray[np.uint8]


def photos_of_run(run: RunFolder) -> tuple[list[Path], list[Path]]:
    """Returns a run's held-out photos and its training photos, as far as they are still there.

    Raises:
        RunError: The run does not say where they were.
    """
    root = Path(run.read(run.config_file).get("photos", "."))
    held_out: list[Path] = []
    training: list[Path] = []
    for row in read_split(run.split_file):
        path = root / row.path
        if path.is_file():
            (training if row.part == "train" else held_out).append(path)
    return held_out or training, training


def squared(
    paths: Sequence[Path], count: int, preprocessing: Preprocessing
) -> Iterator[SquaredPhoto]:
    """Yields `count` photos spread evenly over `paths`, so that every label's folder has some.

    A photo that cannot be opened is left out.
    """
    if not paths or not count:
        return
    for index in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).round()):
        path = paths[int(index)]
        try:
            yield SquaredPhoto(path=path, square=working_square(path, preprocessing))
        except DecodeError:
            continue

"""Photos sorted into one folder per predicted label; a journal allows undoing all of it."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from finetune.errors import StorageError
from finetune.files import HIDDEN_FOLDER, safe_name
from finetune.photos.file_mover import MoveJournal, MoveResult, Transfer, free_path
from finetune.prediction.predictions import PhotoPrediction

FOLDERS = {"unsure": "_unsure", "unknown": "_unknown"}
"""Folders of photos that are not sure, by status."""


class Sorter:
    """Puts photos into a folder per label, one at a time.

    A photo with several labels goes into the folder of each, which is how training finds them
    again; a photo that is moved goes into the folder of its most likely label.

    Args:
        folder: Folder for the labels' folders; created when missing.
        transfer: ``copy``, ``link`` (a symbolic link to the photo) or ``move``.

    Raises:
        CollectionError: The journal of an earlier sorting is damaged.
        StorageError: The folder cannot be written.
    """

    def __init__(self, folder: Path, transfer: Transfer = "copy") -> None:
        self.folder = folder
        self.transfer = transfer
        self.counts: dict[str, int] = {}
        self._journal = _journal_of(folder)
        self._sorted = {
            move.source for move in self._journal.read() if os.path.lexists(folder / move.target)
        }
        self._journal.prepare()

    def put(self, prediction: PhotoPrediction) -> Path | None:
        """Puts one photo into the folder of its label and returns its new path.

        Returns None, and does nothing, for a photo that could not be opened, has no path, or was
        sorted before.

        Raises:
            StorageError: The photo cannot be copied, linked or moved there.
        """
        if prediction.photo is None or prediction.label is None:
            return None
        source = os.path.abspath(prediction.photo)  # noqa: PTH100 - a link must stay a link
        if source in self._sorted:
            return None
        labels = list(prediction.labels or [prediction.label])
        if prediction.status in FOLDERS:
            labels = [FOLDERS[prediction.status]]
        if self.transfer == "move":
            del labels[1:]
        targets = [self._put(source, label) for label in labels]
        self._sorted.add(source)
        return targets[0]

    def _put(self, source: str, label: str) -> Path:
        folder = PurePosixPath(*(safe_name(part) for part in label.split("/") if part))
        target = free_path(self.folder / folder / safe_name(Path(source).name))
        self._journal.transfer(source, target.relative_to(self.folder).as_posix(), self.transfer)
        self.counts[label] = self.counts.get(label, 0) + 1
        return target


def undo_sorting(folder: Path) -> MoveResult:
    """Moves photos back to where they were and removes copies and links that are unchanged.

    Raises:
        CollectionError: The journal is damaged or has a path outside of `folder`.
        StorageError: There is nothing to undo there, or a file cannot be moved back.
    """
    journal = _journal_of(folder)
    if not journal.read():
        raise StorageError(f"There is nothing to undo in {folder}: nothing was sorted into it.")
    return journal.undo()


def _journal_of(folder: Path) -> MoveJournal:
    return MoveJournal(folder / HIDDEN_FOLDER / "sorted.jsonl", target_root=folder)

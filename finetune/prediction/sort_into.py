"""Photos sorted into one folder per predicted label; a journal allows undoing all of it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from finetune.errors import StorageError
from finetune.files import HIDDEN_FOLDER, safe_folders, safe_name
from finetune.photos.file_mover import (
    Move,
    MoveJournal,
    MoveResult,
    Transfer,
    free_path,
    is_behind_link,
    same_content,
)
from finetune.prediction.predictions import PhotoPrediction

FOLDERS = {"unsure": "_unsure", "unknown": "_unknown"}
"""Folders of photos that are not sure, by status."""


class Sorter:
    """Puts photos into a folder per label, one at a time.

    A photo with several labels goes into the folder of each, which is how training finds them
    again; a photo that is moved goes into the folder of its most likely label.

    Attributes:
        counts: Number of photos put into the folder of each label.
        skipped: Photos that were sorted before.
        kept: Photos that were not moved, because a folder on their path is a link.

    Args:
        folder: Folder for the labels' folders; created when missing.
        transfer: ``copy``, ``link`` (a symbolic link to the photo) or ``move``.
        labels: Labels that photos can have; those whose safe folder names are equal get a number.
        sources: Files and folders that the photos were found in. A photo below one of them is not
            moved out of a folder that is a link.

    Raises:
        CollectionError: The journal of an earlier sorting is damaged.
        StorageError: The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        transfer: Transfer = "copy",
        *,
        labels: Sequence[str] = (),
        sources: Sequence[str | Path] = (),
    ) -> None:
        self.folder = folder
        self.transfer = transfer
        self.counts: dict[str, int] = {}
        self.skipped: list[str] = []
        self.kept: list[str] = []
        self.folders = safe_folders(labels)
        self._sources = [Path(os.path.abspath(source)) for source in sources]  # noqa: PTH100
        self._journal = _journal_of(folder)
        self._before: defaultdict[str, list[Move]] = defaultdict(list)
        for move in self._journal.read():
            if os.path.lexists(folder / move.target):
                self._before[move.source].append(move)
        self._journal.prepare()

    def put(self, prediction: PhotoPrediction) -> Path | None:
        """Puts one photo into the folder of its label and returns its new path.

        Returns None, and does nothing, for a photo that could not be opened, has no path, was
        sorted before, or must not be moved. Another photo that has the path of one sorted before is
        sorted too.

        Raises:
            StorageError: The photo cannot be copied, linked or moved there.
        """
        if prediction.photo is None or prediction.label is None:
            return None
        source = os.path.abspath(prediction.photo)  # noqa: PTH100 - a link must stay a link
        before = self._before.get(source, ())
        is_gone = before and not os.path.lexists(source)
        if is_gone or any(self._is_sorted(move, Path(source)) for move in before):
            self.skipped.append(prediction.photo)
            return None
        if self.transfer == "move" and any(
            is_behind_link(Path(source), root) for root in self._sources
        ):
            self.kept.append(prediction.photo)
            return None
        for move in before:
            if move.transfer == "link":  # it leads to the new photo from the old one's label
                (self.folder / move.target).unlink()
        labels = list(prediction.labels or [prediction.label])
        if prediction.ancestor is not None:
            labels = [prediction.ancestor.label]
        elif prediction.status in FOLDERS:
            labels = [FOLDERS[prediction.status]]
        if self.transfer == "move":
            del labels[1:]
        moves = [self._put(source, label) for label in labels]
        self._before[source] = moves
        return self.folder / moves[0].target

    def _put(self, source: str, label: str) -> Move:
        folder = self.folders.get(label) or safe_folders([label])[label]
        target = free_path(self.folder / folder / safe_name(Path(source).name))
        self.counts[label] = self.counts.get(label, 0) + 1
        return self._journal.transfer(
            source, target.relative_to(self.folder).as_posix(), self.transfer
        )

    def _is_sorted(self, move: Move, source: Path) -> bool:
        """Returns whether a file is the photo that an earlier step sorted, by its content."""
        target = self.folder / move.target
        marks = (move.size, move.mtime_ns)
        unchanged = move.size is None or _marks(source) == marks
        if move.transfer == "link":
            return unchanged
        if source.is_symlink() and target.is_symlink():
            return os.path.realpath(source) == os.path.realpath(target)
        if same_content(source, target):
            return True
        # A copy that a person edited since is no longer like its original.
        return move.transfer == "copy" and unchanged and _marks(target) != marks


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


def _marks(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _journal_of(folder: Path) -> MoveJournal:
    return MoveJournal(folder / HIDDEN_FOLDER / "sorted.jsonl", target_root=folder)

"""Photos into one folder a label, with a journal by which all of it can be undone.

The journal, ``.finetune/sorted.jsonl`` in the target folder, has a line before anything is done, so
that whatever a kill leaves behind is known to it. Nothing is ever overwritten.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, TextIO

from finetune.errors import StorageError
from finetune.files import HIDDEN_FOLDER, replacing, safe_name, storage_errors
from finetune.prediction.predictions import PhotoPrediction

Transfer = Literal["copy", "link", "move"]

UNSURE = "_unsure"
"""Folder of the photos whose answer is "none of these"."""


@dataclass(frozen=True, kw_only=True)
class Undone:
    """What undoing came to.

    Attributes:
        photos: Photos that were moved back, or copies and links that were removed.
        kept: Files that were changed or put elsewhere since, and left alone, each with the reason.
    """

    photos: int
    kept: tuple[tuple[Path, str], ...]


class Sorter:
    """Puts photos into a folder a label, one at a time.

    A photo of several labels goes into the folder of each, which is how a training finds them
    again; one that is moved goes into that of the likeliest.

    Args:
        folder: Where the labels' folders go; made when missing.
        transfer: ``copy``, ``link`` (a symbolic link to the photo) or ``move``.

    Raises:
        StorageError: The folder cannot be written.
    """

    def __init__(self, folder: Path, transfer: Transfer = "copy") -> None:
        self.folder = folder
        self.transfer = transfer
        self.counts: dict[str, int] = {}
        journal = _journal_of(folder)
        self._sorted = {
            entry["source"] for entry in _read(journal) if os.path.lexists(folder / entry["target"])
        }
        with storage_errors(journal):
            journal.parent.mkdir(parents=True, exist_ok=True)
            _end_cut_line(journal)
            self._file: TextIO = journal.open("a", encoding="utf-8", errors="surrogateescape")

    def __enter__(self) -> Sorter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def put(self, answer: PhotoPrediction) -> Path | None:
        """Puts one photo where its answer says, and returns where that is.

        A photo that could not be opened, that came without a path, or that was sorted before is
        left alone: None.

        Raises:
            StorageError: The photo cannot be copied, linked or moved there.
        """
        if answer.photo is None or answer.label is None:
            return None
        source = Path(os.path.abspath(answer.photo))  # noqa: PTH100 - a link must stay a link
        if str(source) in self._sorted:
            return None
        labels = [UNSURE] if answer.unknown else list(answer.labels or [answer.label])
        if self.transfer == "move":
            del labels[1:]
        targets = [self._put(source, label) for label in labels]
        self._sorted.add(str(source))
        return targets[0]

    def _put(self, source: Path, label: str) -> Path:
        folder = PurePosixPath(*(safe_name(part) for part in label.split("/") if part))
        target = _free(self.folder / folder / safe_name(source.name))
        self._transfer(source, target)
        self.counts[label] = self.counts.get(label, 0) + 1
        return target

    def _transfer(self, source: Path, target: Path) -> None:
        with storage_errors(target):
            entry = {
                "transfer": self.transfer,
                "source": str(source),
                "target": target.relative_to(self.folder).as_posix(),
                **_mark_of(source),
            }
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            if self.transfer == "move":
                # A lost line here would be a lost way back.
                os.fsync(self._file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            match self.transfer:
                case "copy":
                    _copy(source, target)
                case "link":
                    target.symlink_to(source)
                case "move":
                    _move(source, target)


def undo_sorting(folder: Path) -> Undone:
    """Takes back what `Sorter` did in a folder: the last first, so that names fall free in turn.

    Moved photos go back to where they were; copies and links are removed where they are unchanged.
    Folders that are left empty are removed.

    Raises:
        StorageError: There is nothing to undo there, or a file cannot be moved back.
    """
    journal = _journal_of(folder)
    entries = list(_read(journal))
    if not entries:
        raise StorageError(f"There is nothing to undo in {folder}: nothing was sorted into it.")
    done = 0
    kept: list[tuple[Path, str]] = []
    for entry in reversed(entries):
        target, source = folder / entry["target"], Path(entry["source"])
        if not os.path.lexists(target):
            continue
        reason = _reason_to_keep(entry, target, source)
        if reason is not None:
            kept.append((target, reason))
            continue
        with storage_errors(source):
            if entry["transfer"] == "move":
                source.parent.mkdir(parents=True, exist_ok=True)
                source.unlink(missing_ok=True)
                _move(target, source)
            else:
                target.unlink()
        done += 1
        _remove_empty(target.parent, folder)
    with storage_errors(journal):
        journal.unlink()
    _remove_empty(journal.parent, folder)
    with contextlib.suppress(OSError):
        folder.rmdir()
    return Undone(photos=done, kept=tuple(kept))


def _reason_to_keep(entry: dict[str, Any], target: Path, source: Path) -> str | None:
    if entry["transfer"] == "link":
        linked = target.is_symlink() and str(target.readlink()) == entry["source"]
        return None if linked else "it is no longer the link that was made"
    unchanged = _mark_of(target) == {key: entry[key] for key in ("size", "mtime_ns")}
    if entry["transfer"] == "copy":
        return None if unchanged else "it was changed since"
    # A kill between the two halves of a move to another disk leaves both files.
    taken = os.path.lexists(source) and not (unchanged and _mark_of(source) == _mark_of(target))
    return f"{source} is taken" if taken else None


def _copy(source: Path, target: Path) -> None:
    # Under its own name the copy is there only when it is whole.
    with replacing(target) as part:
        shutil.copy2(source, part)


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target)
        source.unlink()


def _mark_of(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _journal_of(folder: Path) -> Path:
    return folder / HIDDEN_FOLDER / "sorted.jsonl"


def _read(journal: Path) -> Iterator[dict[str, Any]]:
    if not journal.is_file():
        return
    with journal.open(encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            # A kill may leave half a line; what it announces was then not begun.
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _end_cut_line(journal: Path) -> None:
    if journal.is_file() and journal.stat().st_size:
        with journal.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _free(target: Path) -> Path:
    free, number = target, 2
    while os.path.lexists(free):
        free = target.with_name(f"{target.stem} ({number}){target.suffix}")
        number += 1
    return free


def _remove_empty(folder: Path, upto: Path) -> None:
    """Removes a folder and those above it, below `upto`, as far as they are empty."""
    while folder != upto and folder.is_relative_to(upto):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent

"""Prediction table that several processes fill, each a part of its own.

The parts lie in ``TABLE.parts`` beside the table. A process holds the lock of its part while it
predicts; the last to end finds all locks free and a row for every photo, and merges the parts into
the table, in the order of the photos. So no process waits for another, and after a kill of any the
same command, with any number of processes, goes on from the rows that are there.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.files import replacing, storage_errors
from finetune.formatting import visible
from finetune.prediction.table import PredictionTable, read_rows
from finetune.processes import Share
from finetune.spreadsheets import unguard

OpenTable = Callable[[Path, Sequence[Path]], PredictionTable]
"""Opens the table at a path; photos of the other tables count as done."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Rows that were added to a table.

    Attributes:
        rows: Number of rows.
        failed: Those of photos that could not be opened.
    """

    rows: int
    failed: int


def has_parts(path: Path) -> bool:
    """Returns whether parts of a table are left that no process has merged."""
    return any(_parts(path))


@contextlib.contextmanager
def open_part(path: Path, share: Share, open_table: OpenTable) -> Iterator[PredictionTable]:
    """Yields this process's part of a table.

    Args:
        path: The table.
        share: This process's share.
        open_table: Opens the part.

    Raises:
        ConfigError: Another process fills the same part, or a file is no such table.
    """
    part = _folder(path) / f"{share.rank + 1}-of-{share.count}.csv"
    with contextlib.ExitStack() as stack:
        with _locked(path, "merge"):
            _end_killed_merge(path)
            try:
                stack.enter_context(_locked(path, part.stem, timeout=0))
            except Timeout as error:
                raise ConfigError(
                    f"Another process is writing {part}. Wait until it is done, or name another "
                    "--csv."
                ) from error
            # From here on it has a part, whose lock keeps the others from merging.
            part.touch()
            tables = [path] if path.exists() else []
            others = [*tables, *(other for other in _parts(path) if other != part)]
        yield stack.enter_context(open_table(part, others))


def merge_parts(path: Path, photos: Sequence[Path]) -> Merged | None:
    """Merges the parts of a table if all are complete; returns None if a process still works.

    Rows are in the order of the photos, after those that the table had; rows of other photos come
    last. If the merge is killed, it is done again, or was complete.

    Args:
        path: The table.
        photos: All photos, of all processes.

    Raises:
        StorageError: The table cannot be written; the parts are intact.
    """
    with _locked(path, "merge"), contextlib.ExitStack() as held:
        parts = _parts(path)
        try:
            for part in parts:
                held.enter_context(_locked(path, part.stem, timeout=0))
        except Timeout:
            return None
        merged = None
        if parts:  # else the process that ended last has merged them
            rows = _Rows.read(path, parts, photos)
            if rows.missing:
                return None
            with replacing(path) as new:
                rows.write(path, parts, new)
                (_folder(path) / _MERGED).write_text(str(new.stat().st_size))
            _remove_parts(path)
            merged = Merged(rows=len(rows.order), failed=rows.failed)
        with contextlib.suppress(OSError):
            # While it is held: who waits for it sees that it is gone, and makes another.
            (_folder(path) / "merge.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _folder(path).rmdir()
    return merged


_MERGED = "merged"
"""File with the length of the merged table, written before that replaces the table."""


def _end_killed_merge(path: Path) -> None:
    """Removes the parts of a merge that was killed after the table was there."""
    try:
        length = int((_folder(path) / _MERGED).read_text())
        is_merged = path.stat().st_size >= length
    except (OSError, ValueError):
        return
    if is_merged:
        _remove_parts(path)


def _folder(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _parts(path: Path) -> list[Path]:
    return sorted(_folder(path).glob("*-of-*.csv"))


@contextlib.contextmanager
def _locked(path: Path, name: str, *, timeout: float = -1) -> Iterator[None]:
    """Holds a lock in the folder of the parts; raises Timeout."""
    folder = _folder(path)
    lock = FileLock(folder / f"{name}.lock", timeout=timeout)
    while True:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
            break
        except FileNotFoundError:
            continue  # the process that merged the parts has just removed the folder
        except Timeout:
            raise
        except OSError:
            with storage_errors(folder):
                raise
    try:
        yield
    finally:
        lock.release()


def _remove_parts(path: Path) -> None:
    """Removes the parts with their locks, then the note that they are merged."""
    folder = _folder(path)
    with storage_errors(folder):
        for part in _parts(path):
            part.unlink(missing_ok=True)
            part.with_suffix(".lock").unlink(missing_ok=True)
        (folder / _MERGED).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Places of the rows of all parts.

    Attributes:
        order: ``(R, 3) int64``: part, first byte and length of each row, in the final order.
        failed: Number of rows of photos that could not be opened.
        missing: Whether a photo has no row.
    """

    order: NDArray[np.int64]
    failed: int
    missing: bool

    @classmethod
    def read(cls, table: Path, parts: Sequence[Path], photos: Sequence[Path]) -> _Rows:
        """Returns the rows of the parts, in the order of the photos."""
        wanted, again = _places(photos)
        missing = {name: 1 + len(again.get(name, ())) for name in wanted}
        if table.exists():
            for _, row in read_rows(table):
                _count_down(missing, row)
        turns: Counter[str] = Counter()
        # Four numbers a row; tuples would take four times the memory.
        found = array("q")
        failed = 0
        for number, part in enumerate(parts):
            start = 0
            for content, row in read_rows(part):
                if start and row:
                    name = unguard(row[0])
                    _count_down(missing, row)
                    place = wanted.get(name, len(photos))
                    if name in again:
                        turns[name] += 1
                        place = [place, *again[name]][min(turns[name] - 1, len(again[name]))]
                    found.extend((place, number, start, len(content)))
                    failed += row[1] == "failed"
                start += len(content)
        rows = np.frombuffer(found, np.int64).reshape(-1, 4)
        order = rows[np.argsort(rows[:, 0], kind="stable"), 1:]
        return cls(order=order, failed=failed, missing=bool(missing))

    def write(self, table: Path, parts: Sequence[Path], new: Path) -> None:
        """Writes the rows of the table, if there is one, and those of the parts after them."""
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(part.open("rb")) for part in parts]
            target = stack.enter_context(new.open("wb"))
            if table.exists():
                for content, _ in read_rows(table):
                    target.write(content)
            else:
                # A process that was killed at once has left no header.
                headers = (content for part in parts for content, _ in read_rows(part))
                target.write(next(headers, b""))
            for part, start, length in self.order.tolist():
                opened[part].seek(start)
                target.write(opened[part].read(length))
            target.flush()
            os.fsync(target.fileno())


def _places(photos: Sequence[Path]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Returns the place of each name, and the further places of those that are named again."""
    wanted: dict[str, int] = {}
    again: dict[str, list[int]] = {}
    for place, photo in enumerate(photos):
        name = visible(str(photo))
        if wanted.setdefault(name, place) != place:
            again.setdefault(name, []).append(place)
    return wanted, again


def _count_down(missing: dict[str, int], row: Sequence[str]) -> None:
    name = unguard(row[0]) if row else ""
    if name in missing:
        missing[name] -= 1
        if missing[name] == 0:
            del missing[name]

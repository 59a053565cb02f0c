"""CSV file of predictions, appended row by row and resumable after a kill."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from finetune.errors import ConfigError
from finetune.files import storage_errors
from finetune.formatting import visible
from finetune.photos.labels import join_labels
from finetune.photos.taxonomy import Taxonomy
from finetune.prediction.predictions import PhotoPrediction
from finetune.spreadsheets import guard, unguard

_CHUNK = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class PredictionTable:
    """CSV file with one row a photo.

    An existing file is resumed: a partial last row is cut off, and `missing` skips the photos that
    have a row, unless the file of that name is newer than the table. Each row is written before the
    next prediction, so that a kill loses none.

    Args:
        path: The file.
        run: Name of the run; a file of another run is an error.
        top: Number of labels per row.
        several: Whether a photo may have several labels; adds a column ``labels`` with the
            predicted ones, joined by ``|``.
        taxonomy: Tree of the labels; adds a column for each level above them, with the answer at
            that level where there is one.
        by_burst: Adds columns with the number of frames of the photo's burst, and the best of them.

    Raises:
        ConfigError: The file has another format, or predictions of another run.
        StorageError: It cannot be written.

    Example:
        >>> with PredictionTable(Path("predictions.csv"), run="garden", top=3) as table:
        ...     for prediction in predictor.predict_stream(table.missing(photos)):
        ...         table.add(prediction)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: Path,
        *,
        run: str,
        top: int,
        several: bool = False,
        taxonomy: Taxonomy | None = None,
        by_burst: bool = False,
    ) -> None:
        self.path = path
        self.run = run
        self.top = top
        self.done: Counter[str] = Counter()
        self.changed = 0
        self._several = several
        self._taxonomy = taxonomy
        header = ["photo", "status", *(["labels"] if several else [])]
        header += [guard(name) for name in (taxonomy.levels[:-1] if taxonomy else ())]
        header += ["label", "probability"]
        for rank in range(2, top + 1):
            header += [f"label_{rank}", f"probability_{rank}"]
        self._by_burst = by_burst
        header += ["burst_frames", "burst_best"] if by_burst else []
        self._header = [*header, "error", "run"]
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._written_ns = path.stat().st_mtime_ns if path.exists() else 0
            self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        try:
            self._resume()
        except BaseException:
            with contextlib.suppress(OSError):  # what a full disk did not take
                self._file.close()
            raise

    def __enter__(self) -> PredictionTable:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def missing(self, photos: Iterable[Path]) -> Iterator[Path]:
        """Yields the photos without a row; a photo given twice needs two rows.

        Those that changed since the last row was written are yielded too, and counted as `changed`:
        cameras use their file names again.
        """
        left = Counter(self.done)
        for photo in photos:
            name = visible(str(photo))
            if left[name] > 0:
                left[name] -= 1
                if not self._is_newer(photo):
                    continue
                self.changed += 1
            yield photo

    def _is_newer(self, photo: Path) -> bool:
        try:
            status = photo.stat()
        except OSError:
            return False
        # A copied file keeps its time of change; that of its entry in the folder is new.
        return max(status.st_mtime_ns, status.st_ctime_ns) > self._written_ns

    def add(self, prediction: PhotoPrediction) -> None:
        """Appends one row.

        Raises:
            StorageError: The disk is full, or the file can no longer be written.
        """
        cells = [guard(visible(prediction.photo or "")), prediction.status]
        if self._several:
            cells.append(guard(join_labels(prediction.labels or ())))
        if self._taxonomy is not None:
            cells += map(guard, self._nodes(self._taxonomy, prediction))
        for item in prediction.ranked[: self.top]:
            cells += [guard(item.label), repr(item.probability)]
        cells += [""] * (len(self._header) - 2 - 2 * self._by_burst - len(cells))
        if self._by_burst:
            burst = prediction.burst
            cells += [str(burst.frames), guard(visible(burst.best))] if burst else ["1", cells[0]]
        self._append(_line_of([*cells, guard(visible(prediction.error or "")), guard(self.run)]))

    def _nodes(self, taxonomy: Taxonomy, prediction: PhotoPrediction) -> list[str]:
        """Returns the answer at each level above the labels, from the top; empty without one."""
        found: tuple[str, ...] = ()
        if prediction.ancestor is not None:
            level = taxonomy.levels.index(prediction.ancestor.level)
            found = taxonomy.lineage(level, prediction.ancestor.label)
        elif prediction.status == "sure" and prediction.label is not None:
            found = taxonomy.lineage(len(taxonomy.levels) - 1, prediction.label)[:-1]
        return [*found, *[""] * (len(taxonomy.levels) - 1 - len(found))]

    def close(self) -> None:
        """Flushes the file to disk and closes it."""
        if not self._file.closed:
            with storage_errors(self.path):
                try:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                finally:
                    with contextlib.suppress(OSError):
                        self._file.close()

    def _append(self, line: bytes) -> None:
        with storage_errors(self.path):
            self._file.write(line)
            self._file.flush()

    def _resume(self) -> None:
        complete = _length_of_complete_rows(self._file)
        self._file.seek(0)
        if complete:
            if next(self._rows(), []) != self._header:
                raise ConfigError(self._foreign_file_error())
        elif not self._first_line().startswith(self._file.read(_CHUNK)):
            raise ConfigError(self._foreign_file_error())
        self._file.truncate(complete)
        self._file.seek(complete)
        if not complete:
            self._append(self._first_line())
            return
        rows = self._rows()
        next(rows)
        for row in rows:
            run = unguard(row[-1])
            if run != self.run:
                raise ConfigError(
                    f"--csv {self.path} holds predictions of the run {run}, not {self.run}. "
                    "Name another file, or delete that one."
                )
            self.done[unguard(row[0])] += 1

    def _rows(self) -> Iterator[list[str]]:
        with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from csv.reader(file)

    def _first_line(self) -> bytes:
        return _BYTE_ORDER_MARK + _line_of(self._header)

    def _foreign_file_error(self) -> str:
        return (
            f"--csv {self.path} exists already and is not a table of predictions with --top "
            f"{self.top}. Name another file."
        )


def _line_of(cells: list[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _length_of_complete_rows(file: BinaryIO) -> int:
    """Returns the length of the file up to the last line end outside quotes, in bytes."""
    complete = position = 0
    quotes = 0
    file.seek(0)
    while chunk := file.read(_CHUNK):
        for line in chunk.splitlines(keepends=True):
            quotes += line.count(b'"')
            position += len(line)
            if line.endswith(b"\n") and quotes % 2 == 0:
                complete = position
    return complete

"""CSV file of predictions, appended row by row and resumable after a kill."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Done:
    """Number of rows of each photo in a table, and when it was written."""

    rows: Counter[str]
    written_ns: int


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
        others: Tables of other processes; photos with a row in one of these are done as well.

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
        others: Sequence[Path] = (),
    ) -> None:
        self.path = path
        self.run = run
        self.top = top
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
            written_ns = path.stat().st_mtime_ns if path.exists() else 0
            self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        try:
            rows = self._read(path)
            self._resume()
            self._done = [_Done(rows, written_ns), *map(self._done_elsewhere, others)]
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
        left = [(Counter(done.rows), done.written_ns) for done in self._done]
        for photo in photos:
            name = visible(str(photo))
            for rows, written_ns in left:
                if rows[name] > 0:
                    rows[name] -= 1
                    if not _is_newer(photo, written_ns):
                        break
                    self.changed += 1
            else:
                yield photo

    @property
    def rows(self) -> int:
        """Number of rows that were there before."""
        return sum(done.rows.total() for done in self._done)

    def add(self, prediction: PhotoPrediction) -> None:
        """Appends one row; see `add_all`."""
        self.add_all([prediction])

    def add_all(self, predictions: Sequence[PhotoPrediction]) -> None:
        """Appends the rows of a batch in one write, so that a kill seldom parts them.

        Raises:
            StorageError: The disk is full, or the file can no longer be written.
        """
        self._append(b"".join(map(self._line, predictions)))

    def _line(self, prediction: PhotoPrediction) -> bytes:
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
        return _line_of([*cells, guard(visible(prediction.error or "")), guard(self.run)])

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
        """Cuts off a partial last row, or writes the header of a new file."""
        complete = _length_of_complete_rows(self._file)
        self._file.seek(0)
        if not complete and not self._first_line().startswith(self._file.read(_CHUNK)):
            raise ConfigError(self._foreign_file_error(self.path))
        self._file.truncate(complete)
        self._file.seek(complete)
        if not complete:
            self._append(self._first_line())

    def _done_elsewhere(self, path: Path) -> _Done:
        with storage_errors(path):
            return _Done(self._read(path), path.stat().st_mtime_ns)

    def _read(self, path: Path) -> Counter[str]:
        """Returns the number of complete rows of each photo."""
        names: Counter[str] = Counter()
        for number, (_, row) in enumerate(read_rows(path)):
            if number == 0 and row != self._header:
                raise ConfigError(self._foreign_file_error(path))
            if number == 0 or not row:
                continue
            run = unguard(row[-1])
            if run != self.run:
                raise ConfigError(
                    f"--csv {path} holds predictions of the run {run}, not {self.run}. "
                    "Name another file, or delete that one."
                )
            names[unguard(row[0])] += 1
        return names

    def _first_line(self) -> bytes:
        return _BYTE_ORDER_MARK + _line_of(self._header)

    def _foreign_file_error(self, path: Path) -> str:
        return (
            f"--csv {path} exists already and is not a table of predictions with --top "
            f"{self.top}. Name another file."
        )


def _line_of(cells: list[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_rows(path: Path) -> Iterator[tuple[bytes, list[str]]]:
    """Yields each complete row of a table, header included, as its bytes and as its cells."""
    with path.open("rb") as file:
        for line in _lines(file):
            text = line.decode("utf-8-sig", "surrogateescape")
            yield line, next(csv.reader(io.StringIO(text, newline="")), [])


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yields the bytes of each row that has its line end; line ends in quotes are part of it."""
    held: list[bytes] = []
    quotes = 0
    for line in file:
        held.append(line)
        quotes += line.count(b'"')
        if line.endswith(b"\n") and quotes % 2 == 0:
            yield b"".join(held)
            held, quotes = [], 0


def _length_of_complete_rows(file: BinaryIO) -> int:
    """Returns the length of the file up to the last line end outside quotes, in bytes."""
    file.seek(0)
    return sum(map(len, _lines(file)))


def _is_newer(photo: Path, written_ns: int) -> bool:
    try:
        status = photo.stat()
    except OSError:
        return False
    # A copied file keeps its time of change; that of its entry in the folder is new.
    return max(status.st_mtime_ns, status.st_ctime_ns) > written_ns

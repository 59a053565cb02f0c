"""An open catalog file: shared by threads, safe beside other processes, with undo."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from finetune.photos import journal, schema


class Store:
    """A connection under a lock, with the journal of what people did.

    Args:
        path: The SQLite file; made when missing.

    Raises:
        CatalogError: The file is no catalog, is damaged, is in use, or has a newer schema.
        OSError: The folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = schema.connect(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def undo(self) -> str | None:
        """Takes back the latest thing that a person did; returns what it was, or None."""
        with self._write() as connection:
            return journal.undo(connection)

    def redo(self) -> str | None:
        """Does again what was taken back last; returns what it was, or None."""
        with self._write() as connection:
            return journal.redo(connection)

    def history(self, limit: int = 100) -> tuple[journal.Action, ...]:
        """Returns what people did, newest first."""
        with self._lock, schema.translated(self.path):
            return journal.history(self._connection, limit)

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, schema.translated(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with (
            self._lock,
            schema.translated(self.path),
            schema.transaction(self._connection),
        ):
            yield self._connection

    @contextlib.contextmanager
    def _act(self, what: str) -> Iterator[journal.Recorder]:
        with self._write() as connection:
            recorder = journal.Recorder(connection)
            yield recorder
            recorder.commit(what)

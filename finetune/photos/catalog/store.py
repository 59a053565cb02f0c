"""SQLite store of a catalog: migrations, transactions, locks and readable errors."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import CatalogError, StorageError

APPLICATION_ID = 0x66743031
"""Marks an SQLite file as a catalog of this program: "ft01"."""

BUSY_TIMEOUT_SECONDS = 30.0

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE photo (
        digest TEXT PRIMARY KEY, width INTEGER NOT NULL, height INTEGER NOT NULL,
        format TEXT NOT NULL, taken_at TEXT, camera TEXT, hashes BLOB,
        brightness REAL, contrast REAL, sharpness REAL, analysis INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE file (
        path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest TEXT,
        status TEXT NOT NULL CHECK (status IN ('ok', 'bad', 'unread')), reason TEXT,
        reader TEXT NOT NULL, first_seen TEXT NOT NULL, present INTEGER NOT NULL DEFAULT 1
    ) WITHOUT ROWID;
    CREATE INDEX file_by_digest ON file (digest);
    CREATE TABLE label (
        digest TEXT NOT NULL, label TEXT NOT NULL, source TEXT NOT NULL, confidence REAL,
        said_at TEXT NOT NULL, PRIMARY KEY (digest, label, source)
    ) WITHOUT ROWID;
    CREATE TABLE crop (
        digest TEXT PRIMARY KEY, centre_x REAL NOT NULL, centre_y REAL NOT NULL,
        side REAL NOT NULL, source TEXT NOT NULL, said_at TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE membership (
        digest TEXT PRIMARY KEY, name TEXT NOT NULL, source TEXT NOT NULL, said_at TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE decision (
        digest TEXT NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL, source TEXT NOT NULL,
        said_at TEXT NOT NULL, PRIMARY KEY (digest, kind)
    ) WITHOUT ROWID;
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY AUTOINCREMENT, said_at TEXT NOT NULL, what TEXT NOT NULL,
        changes TEXT NOT NULL, undone INTEGER NOT NULL DEFAULT 0
    );
    """,
    # American spelling, in the table and in the rows that undo remembers.
    """
    ALTER TABLE crop RENAME COLUMN centre_x TO center_x;
    ALTER TABLE crop RENAME COLUMN centre_y TO center_y;
    UPDATE journal SET changes = replace(replace(changes, '"centre_x"', '"center_x"'),
        '"centre_y"', '"center_y"');
    """,
    """
    ALTER TABLE label RENAME COLUMN said_at TO recorded_at;
    ALTER TABLE crop RENAME COLUMN said_at TO recorded_at;
    ALTER TABLE membership RENAME COLUMN said_at TO recorded_at;
    ALTER TABLE decision RENAME COLUMN said_at TO recorded_at;
    ALTER TABLE journal RENAME COLUMN said_at TO recorded_at;
    UPDATE journal SET changes = replace(changes, '"said_at":', '"recorded_at":');
    """,
    # Annotators undo their own actions.
    """
    ALTER TABLE journal ADD COLUMN annotator TEXT;
    """,
    """
    ALTER TABLE photo ADD COLUMN value_range TEXT;
    """,
    # Order, pins and colors of labels.
    """
    CREATE TABLE label_style (
        label TEXT PRIMARY KEY, position INTEGER, pinned INTEGER NOT NULL, hue INTEGER,
        source TEXT NOT NULL, recorded_at TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
)
"""One script per schema version. Never edit a released script; append another one."""


def connect(path: Path, *, timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> sqlite3.Connection:
    """Returns a connection to a catalog, created or migrated when needed.

    The connection is in autocommit mode, uses a write-ahead log, waits for other processes, and
    has each commit on disk before it returns. Several threads may share it under a lock.

    Raises:
        CatalogError: The file is no catalog, is damaged, is in use, or has a newer schema.
        StorageError: The disk is full.
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with translated(path):
        try:
            connection = sqlite3.connect(
                path, timeout=timeout_seconds, isolation_level=None, check_same_thread=False
            )
        except sqlite3.OperationalError as error:
            raise PermissionError(13, "cannot be opened for writing", str(path)) from error
        try:
            _use_write_ahead_log(connection, timeout_seconds)
            connection.execute("PRAGMA synchronous = FULL")
            _migrate(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _use_write_ahead_log(connection: sqlite3.Connection, timeout_seconds: float) -> None:
    """Switches to a write-ahead log; waits for other processes that do so at the same time."""
    # SQLite's own timeout does not cover this: two processes that both turn a read lock into a
    # write lock would wait for each other, so one of them fails at once.
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits all writes of the block as one transaction, or none of them after an exception."""
    # IMMEDIATE takes the write lock at once: a deferred one can fail half-way, without waiting.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into ones that state the next step."""
    try:
        yield
    except UnicodeDecodeError as error:  # the message of an error names damaged bytes
        raise damaged(path, "text that is not UTF-8") from error
    except sqlite3.DatabaseError as error:
        text = str(error).lower()
        if "readonly" in text or "unable to open" in text:
            raise PermissionError(13, "cannot be opened for writing", str(path)) from error
        if "full" in text:
            raise StorageError(
                f"Could not write {path}: the disk is full. Free some space and run the same "
                "command again. Older files are intact."
            ) from error
        if "locked" in text:
            raise CatalogError(
                f"The catalog {path} is in use by another process. Wait until it is done, or stop "
                "it, and run the same command again."
            ) from error
        if "disk i/o" in text:
            raise StorageError(
                f"Could not read or write {path}: the disk is full, or a network drive has failed. "
                "Free some space, or choose a local file with --catalog, and run the same command "
                "again. What was saved before is intact."
            ) from error
        if any(words in text for words in _DAMAGE):
            raise damaged(path, str(error)) from error
        raise


_DAMAGE = (
    "malformed",
    "not a database",
    "could not decode",
    "no such table",
    "no such column",
    "unsupported file format",
    "has no column",
    "sql logic error",
)
"""Words in SQLite's errors about a file whose bytes have changed."""


def damaged(path: Path, what: str) -> CatalogError:
    """Returns the error of a damaged catalog, with the next step."""
    return CatalogError(
        f"{path} is damaged or is not a catalog ({what}). Labels, groups and crops set by hand can "
        "be saved with: finetune scan PHOTOS --repair"
    )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _version(connection, path) == len(MIGRATIONS):
        return
    with transaction(connection):
        # Read again under the lock: another process may have just done it.
        for version in range(_version(connection, path), len(MIGRATIONS)):
            for statement in MIGRATIONS[version].split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if owner != APPLICATION_ID and tables:
        raise CatalogError(
            f"{path} is an SQLite file of another program, not a catalog. "
            "Choose another file with --catalog."
        )
    if version > len(MIGRATIONS):
        raise CatalogError(
            f"The catalog {path} was written by a newer finetune (schema {version}; this one "
            f"reads up to {len(MIGRATIONS)}). Update finetune, or choose another catalog with "
            "--catalog."
        )
    return version


class Store:
    """Connection of a catalog. May be shared by threads, and by processes on one file.

    Args:
        path: The SQLite file; created when missing.

    Raises:
        CatalogError: The file is no catalog, is damaged, is in use, or has a newer schema.
        OSError: The folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = connect(path)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Returns the rows of a query."""
        with self._lock, translated(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Runs all reads of the block on one snapshot of the catalog."""
        with self._lock, translated(self.path):
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Commits all changes of the block as one transaction, or none after an exception."""
        with self._lock, translated(self.path), transaction(self._connection):
            yield self._connection

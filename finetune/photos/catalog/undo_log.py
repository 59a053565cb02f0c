"""Undo and redo of annotation actions; the journal keeps the rows that each action changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Value = str | float | int | None
Row = Mapping[str, Value]

KEYS: Mapping[str, tuple[str, ...]] = {
    "label": ("digest", "label", "source"),
    "crop": ("digest",),
    "membership": ("digest",),
    "decision": ("digest", "kind"),
    "label_style": ("label",),
}
"""Tables of annotations, with their primary keys."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """One journaled action.

    Attributes:
        number: Grows with time.
        recorded_at: UTC in ISO form.
        what: Description: ``label 3 photos 'heron'``.
    """

    number: int
    recorded_at: str
    what: str
    undone: bool


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """Undone or redone action, with the photos that it changed."""

    what: str
    digests: tuple[str, ...]


class StaleError(Exception):
    """Another action changed the photos after they were shown; nothing was written."""

    def __init__(self, digests: Sequence[str]) -> None:
        super().__init__(f"{len(digests)} photos have changed since")
        self.digests = tuple(digests)


class Recorder:
    """Changes rows inside an open transaction and records their previous values."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._changes: list[tuple[str, Row | None, Row | None]] = []

    def put(self, table: str, row: Row) -> None:
        """Inserts a row, or replaces the one with its key."""
        before = _find(self._connection, table, row)
        _write(self._connection, table, row)
        self._changes.append((table, before, row))

    def remove(self, table: str, key: Row) -> None:
        """Deletes the row with this key, if any."""
        before = _find(self._connection, table, key)
        if before is not None:
            _delete(self._connection, table, key)
            self._changes.append((table, before, None))

    def commit(self, what: str, annotator: str | None = None) -> None:
        """Adds the action to the journal; the annotator's undone ones can no longer be redone."""
        changes = [change for change in self._changes if not _same(change[1], change[2])]
        if not changes:
            return
        self._connection.execute(
            "DELETE FROM journal WHERE undone = 1 AND annotator IS ?", (annotator,)
        )
        self._connection.execute(
            "INSERT INTO journal (recorded_at, what, changes, annotator) VALUES (?, ?, ?, ?)",
            (now(), what, json.dumps(changes, ensure_ascii=False), annotator),
        )


def latest(connection: sqlite3.Connection, annotator: str | None) -> tuple[int, int]:
    """Returns the numbers of an annotator's actions that undo and redo would replay; 0 for none."""
    undo, redo = connection.execute(
        "SELECT max(CASE undone WHEN 0 THEN id END), min(CASE undone WHEN 1 THEN id END) "
        "FROM journal WHERE annotator IS ?",
        (annotator,),
    ).fetchone()
    return undo or 0, redo or 0


def replay(
    connection: sqlite3.Connection,
    *,
    backward: bool,
    number: int | None,
    annotator: str | None = None,
) -> Replayed | None:
    """Undoes the latest action, or redoes the one undone last, inside an open transaction.

    Args:
        connection: The catalog.
        backward: Whether to undo.
        number: The action that is expected; None takes any.
        annotator: Whose actions are replayed; None: those without an annotator.

    Returns:
        The action, or None without one.

    Raises:
        StaleError: The action to replay is not the expected one, or another annotator has changed
            one of its rows since.
    """
    following = latest(connection, annotator)[0 if backward else 1]
    if number is not None and (not number or number != following):
        raise StaleError(())
    if not following:
        return None
    what, text = connection.execute(
        "SELECT what, changes FROM journal WHERE id = ?", (following,)
    ).fetchone()
    changes = json.loads(text)
    (others,) = connection.execute(
        "SELECT count(*) FROM journal WHERE id > ? AND annotator IS NOT ?", (following, annotator)
    ).fetchone()
    for table, before, after in reversed(changes) if backward else changes:
        target, other = (before, after) if backward else (after, before)
        if others and not _same(_find(connection, table, other or target), other):
            raise StaleError(_digests([(table, before, after)]))
        if target is None:
            _delete(connection, table, other)
        else:
            _write(connection, table, target)
    connection.execute("UPDATE journal SET undone = ? WHERE id = ?", (int(backward), following))
    return Replayed(what=str(what), digests=_digests(changes))


def history(
    connection: sqlite3.Connection, limit: int, annotator: str | None = None
) -> tuple[Action, ...]:
    """Returns an annotator's latest actions, newest first."""
    rows = connection.execute(
        "SELECT id, recorded_at, what, undone FROM journal WHERE annotator IS ? "
        "ORDER BY id DESC LIMIT ?",
        (annotator, limit),
    )
    return tuple(
        Action(number=number, recorded_at=recorded_at, what=what, undone=bool(undone))
        for number, recorded_at, what, undone in rows
    )


def now() -> str:
    """Returns the time in UTC as the catalog writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _digests(changes: Sequence[tuple[str, Row | None, Row | None]]) -> tuple[str, ...]:
    """Returns the digests of the photos that changes are about."""
    rows = [after or before or {} for _, before, after in changes]
    return tuple(sorted({str(row["digest"]) for row in rows if "digest" in row}))


def _same(before: Row | None, after: Row | None) -> bool:
    """Returns whether two rows are equal except for their time."""
    if before is None or after is None:
        return before is after
    return {**before, "recorded_at": None} == {**after, "recorded_at": None}


# Table and column names come from KEYS and from our own rows, never from user input.
def _find(connection: sqlite3.Connection, table: str, row: Row) -> dict[str, Any] | None:
    where, values = _where(table, row)
    cursor = connection.execute(f"SELECT * FROM {table} WHERE {where}", values)
    found = cursor.fetchone()
    if found is None:
        return None
    return dict(zip((column[0] for column in cursor.description), found, strict=True))


def _write(connection: sqlite3.Connection, table: str, row: Row) -> None:
    if table not in KEYS:
        raise ValueError(f"{table} is not journaled")
    marks = ", ".join("?" * len(row))
    connection.execute(
        f"INSERT OR REPLACE INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
    )


def _delete(connection: sqlite3.Connection, table: str, row: Row) -> None:
    where, values = _where(table, row)
    connection.execute(f"DELETE FROM {table} WHERE {where}", values)


def _where(table: str, row: Row) -> tuple[str, tuple[Value, ...]]:
    keys = KEYS[table]
    return " AND ".join(f"{key} = ?" for key in keys), tuple(row[key] for key in keys)

"""Undo and redo of what a person said: each action with the rows that it changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
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
}
"""The tables that a person's words go to, with their primary keys."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing that a person did.

    Attributes:
        number: Grows with time.
        said_at: UTC in ISO form.
        what: In words: ``label 3 photos 'heron'``.
        undone: Whether it has been taken back.
    """

    number: int
    said_at: str
    what: str
    undone: bool


class Recorder:
    """Changes rows inside an open transaction and remembers how they were before."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._changes: list[tuple[str, Row | None, Row | None]] = []

    def put(self, table: str, row: Row) -> None:
        """Inserts a row, or replaces the one with its key."""
        before = _find(self._connection, table, row)
        _write(self._connection, table, row)
        self._changes.append((table, before, row))

    def remove(self, table: str, key: Row) -> None:
        """Deletes the row with this key, where there is one."""
        before = _find(self._connection, table, key)
        if before is not None:
            _delete(self._connection, table, key)
            self._changes.append((table, before, None))

    def commit(self, what: str) -> None:
        """Adds the action to the journal; what had been undone can no longer be redone."""
        changes = [change for change in self._changes if not _same(change[1], change[2])]
        if not changes:
            return
        self._connection.execute("DELETE FROM journal WHERE undone = 1")
        self._connection.execute(
            "INSERT INTO journal (said_at, what, changes) VALUES (?, ?, ?)",
            (now(), what, json.dumps(changes, ensure_ascii=False)),
        )


def undo(connection: sqlite3.Connection) -> str | None:
    """Takes back the latest action, inside an open transaction; returns what it was, or None."""
    return _replay(
        connection, "SELECT id, what, changes FROM journal WHERE undone = 0 ORDER BY id DESC", True
    )


def redo(connection: sqlite3.Connection) -> str | None:
    """Repeats the action that was taken back last; returns what it was, or None."""
    return _replay(
        connection, "SELECT id, what, changes FROM journal WHERE undone = 1 ORDER BY id", False
    )


def history(connection: sqlite3.Connection, limit: int) -> tuple[Action, ...]:
    """Returns the latest actions, newest first."""
    rows = connection.execute(
        "SELECT id, said_at, what, undone FROM journal ORDER BY id DESC LIMIT ?", (limit,)
    )
    return tuple(
        Action(number=number, said_at=said_at, what=what, undone=bool(undone))
        for number, said_at, what, undone in rows
    )


def now() -> str:
    """Returns the time in UTC as the catalog writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _replay(connection: sqlite3.Connection, query: str, backwards: bool) -> str | None:
    entry = connection.execute(query + " LIMIT 1").fetchone()
    if entry is None:
        return None
    number, what, text = entry
    changes = json.loads(text)
    for table, before, after in reversed(changes) if backwards else changes:
        wanted, other = (before, after) if backwards else (after, before)
        if wanted is None:
            _delete(connection, table, other)
        else:
            _write(connection, table, wanted)
    connection.execute("UPDATE journal SET undone = ? WHERE id = ?", (int(backwards), number))
    return str(what)


def _same(before: Row | None, after: Row | None) -> bool:
    """Returns whether a change said nothing new; saying it again later is no change."""
    if before is None or after is None:
        return before is after
    return {**before, "said_at": None} == {**after, "said_at": None}


# Table and column names come from KEYS and from our own rows, never from a person.
def _find(connection: sqlite3.Connection, table: str, row: Row) -> dict[str, Any] | None:
    where, values = _where(table, row)
    cursor = connection.execute(f"SELECT * FROM {table} WHERE {where}", values)
    found = cursor.fetchone()
    if found is None:
        return None
    return dict(zip((column[0] for column in cursor.description), found, strict=True))


def _write(connection: sqlite3.Connection, table: str, row: Row) -> None:
    if table not in KEYS:
        raise ValueError(f"{table} is not journalled")
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

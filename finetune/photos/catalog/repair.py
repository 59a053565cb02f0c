"""Daily backup of a catalog's annotations, and repair of a damaged catalog."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune.errors import CatalogError, StorageError
from finetune.files import replacing
from finetune.photos.catalog.store import connect, damaged
from finetune.photos.catalog.undo_log import KEYS
from finetune.photos.crops import Crop

logger = logging.getLogger(__name__)

BACKUP_SECONDS = 24 * 3600.0

_OLD_COLUMNS = {"said_at": "recorded_at", "centre_x": "center_x", "centre_y": "center_y"}
"""Columns of earlier schemas by their present names."""

_DAMAGE = (sqlite3.Error, UnicodeDecodeError)
"""Errors of a damaged file; the message of one may be no UTF-8."""

_Key = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Result of a repair.

    Attributes:
        saved: Number of annotations in the new catalog, by table.
        from_backup: How many of them were read from the backup.
        moved_to: Copy of the damaged file.
    """

    saved: Mapping[str, int]
    from_backup: int
    moved_to: Path


def backup_path(catalog: Path) -> Path:
    """Returns the path of a catalog's backup, beside it."""
    return catalog.with_name(f"{catalog.stem}-backup{catalog.suffix}")


def back_up_daily(catalog: Path) -> None:
    """Backs up the annotations of a catalog, if there are any and the backup is a day old.

    Raises:
        CatalogError: The catalog is damaged; the backup stays as it is.
    """
    target = backup_path(catalog)
    with contextlib.suppress(OSError):
        if time.time() - target.stat().st_mtime < BACKUP_SECONDS:
            return
    try:
        with contextlib.closing(sqlite3.connect(catalog, timeout=1.0)) as source:
            if not source.execute("SELECT 1 FROM journal LIMIT 1").fetchone():
                return
            ((found, *_), *_) = source.execute("PRAGMA quick_check(1)").fetchall()
            if found != "ok":
                raise damaged(catalog, str(found).splitlines()[-1])
            with replacing(target) as part, contextlib.closing(sqlite3.connect(part)) as copy:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
                # Measurements are made again by a scan.
                copy.execute("DELETE FROM photo")
                copy.execute("DELETE FROM file")
                copy.commit()
                copy.execute("VACUUM")
    except sqlite3.OperationalError as error:  # locked by another process, or a read-only disk
        logger.debug("No backup of %s: %s", catalog, error)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise damaged(catalog, str(error)) from error
    except StorageError as error:
        logger.debug("No backup of %s: %s", catalog, error)


def repair(catalog: Path) -> Repair | None:
    """Replaces a damaged catalog by one with all annotations that can still be read.

    Rows of a table that cannot be read to its end are completed from the backup. The damaged file
    is copied first; a scan makes the measurements again.

    Returns:
        What was saved; None if the catalog is not damaged.

    Raises:
        CatalogError: There is no catalog.
        StorageError: The new file cannot be written; the old one is intact.
    """
    if not catalog.is_file():
        raise CatalogError(f"There is no catalog {catalog} to repair.")
    if _is_intact(catalog):
        return None
    saved: dict[str, dict[_Key, dict[str, Any]]] = {}
    from_backup = 0
    for table in (*KEYS, "journal"):
        rows, complete = _readable(catalog, table)
        if not complete and backup_path(catalog).is_file():
            before, _ = _readable(backup_path(catalog), table)
            if table != "journal":
                from_backup += len(before.keys() - rows.keys())
            rows = before | rows
        saved[table] = rows
    stamp = f"{datetime.now():%Y-%m-%d-%H%M%S}"
    moved = catalog.with_name(f"{catalog.stem}-damaged-{stamp}{catalog.suffix}")
    counts: dict[str, int] = {}
    with replacing(catalog) as part:
        part.unlink()
        with contextlib.closing(connect(part)) as connection:
            connection.execute("BEGIN")
            for table, rows in saved.items():
                known = [item[1] for item in connection.execute(f"PRAGMA table_info({table})")]
                for row in rows.values():
                    # The names of columns can be damaged too.
                    names = [name for name in known if name in row]
                    places = ", ".join("?" * len(names))
                    connection.execute(
                        f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({places})",
                        [row[name] for name in names],
                    )
                if table != "journal":
                    ((counts[table],),) = connection.execute(f"SELECT count(*) FROM {table}")
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy2(catalog, moved)
        for suffix in ("-wal", "-shm"):
            log = catalog.with_name(catalog.name + suffix)
            if log.exists():
                os.replace(log, moved.with_name(moved.name + suffix))
    return Repair(saved=counts, from_backup=from_backup, moved_to=moved)


def _is_intact(catalog: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(catalog)) as connection:
            whole = connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"
            connection.execute("SELECT * FROM photo").fetchall()
            connection.execute("SELECT * FROM file").fetchall()
    except _DAMAGE:
        return False
    return whole and all(_readable(catalog, table)[1] for table in (*KEYS, "journal"))


def _readable(catalog: Path, table: str) -> tuple[dict[_Key, dict[str, Any]], bool]:
    """Returns the valid rows of a table by key, and whether these are all of it."""
    key = KEYS.get(table, ("id",))
    rows: dict[_Key, dict[str, Any]] = {}
    complete = True
    # From both ends: reading stops at the first damaged page.
    for direction in ("ASC", "DESC") if _has_table(catalog, table) else ():
        order = ", ".join(f"{name} {direction}" for name in key)
        found, whole = _valid_rows(catalog, table, f"SELECT * FROM {table} ORDER BY {order}")
        rows |= {tuple(row[name] for name in key): row for row in found}
        if whole:
            break
        complete = False
    return rows, complete


def _has_table(catalog: Path, table: str) -> bool:
    """Returns whether a catalog's schema has a table; earlier ones have fewer."""
    query = "SELECT count(*) FROM sqlite_master WHERE name = ? AND type = 'table'"
    try:
        with contextlib.closing(sqlite3.connect(catalog)) as connection:
            (count,) = connection.execute(query, (table,)).fetchone()
    except _DAMAGE:
        return True
    return bool(count) or table != "label_style"


def _valid_rows(catalog: Path, table: str, query: str) -> tuple[list[dict[str, Any]], bool]:
    rows: list[dict[str, Any]] = []
    whole = True
    with contextlib.suppress(*_DAMAGE):
        with contextlib.closing(sqlite3.connect(catalog)) as connection:
            connection.text_factory = bytes
            for row in _rows(connection, query):
                values = {name: _text(value) for name, value in row.items()}
                if _is_valid(table, values):
                    rows.append(values)
                else:
                    whole = False
        return rows, whole
    return rows, False


def _rows(connection: sqlite3.Connection, query: str) -> Iterator[dict[str, Any]]:
    cursor = connection.execute(query)
    names = [_OLD_COLUMNS.get(item[0], item[0]) for item in cursor.description]
    for row in cursor:
        yield dict(zip(names, row, strict=True))


def _text(value: Any) -> Any:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def _is_valid(table: str, row: Mapping[str, Any]) -> bool:
    """Returns whether a row has the types of its table; texts must be UTF-8."""
    try:
        for value in row.values():
            if isinstance(value, str):
                value.encode()
        if table == "journal":
            json.loads(row["changes"])
            return isinstance(row["id"], int)
        if table == "crop":
            Crop(center_x=row["center_x"], center_y=row["center_y"], side=row["side"])
        if table == "label_style":
            return isinstance(row["label"], str)
        int(row["digest"], 16)
    except (ValueError, TypeError, KeyError):
        return False
    texts = ("label", "name", "kind", "value", "source", "recorded_at")
    return all(isinstance(row[name], str) for name in texts if name in row)

"""Catalogs of the shards of a scan: each process reads its share of the files into one of its own.

They lie in ``shards`` beside the catalog. The next scan without a shard takes what they hold into
the catalog and removes them, except those whose process still works.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from finetune.errors import CatalogError, ConfigError
from finetune.files import storage_errors
from finetune.photos.catalog.catalog import Catalog
from finetune.processes import Share

_ROWS = 10_000
"""Rows of a transaction."""


def parse_shard(text: str) -> Share:
    """Returns the share of ``I/N``, such as ``1/8`` to ``8/8``.

    Raises:
        ConfigError: It is no such share.

    Example:
        >>> parse_shard("2/8")
        Share(rank=1, count=8)
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--shard {text} must be I/N with I from 1 to N, such as 2/8.")
    return Share(rank=int(number) - 1, count=int(count))


def in_shard(path: str, share: Share) -> bool:
    """Returns whether a file is in a share, by its path alone: new files move no other."""
    return zlib.crc32(path.encode("utf-8", "surrogateescape")) % share.count == share.rank


@contextlib.contextmanager
def open_shard(catalog: Path, share: Share) -> Iterator[Catalog]:
    """Yields the catalog of a shard, which no other process takes meanwhile.

    Args:
        catalog: The collection's catalog.
        share: The shard.

    Raises:
        CatalogError: Another process scans the same shard, or the file is damaged.
        StorageError: The folder cannot be written.
    """
    file = _folder(catalog) / f"{share.rank + 1}-of-{share.count}.sqlite3"
    lock = FileLock(file.with_suffix(".lock"), timeout=0)
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise CatalogError(
                f"Another process scans shard {share.rank + 1}/{share.count}. Wait until it is "
                "done, or scan another shard."
            ) from error
    try:
        with Catalog(file) as opened:
            yield opened
    finally:
        lock.release()


def merge_shards(catalog: Catalog) -> dict[str, int]:
    """Takes the shards of ended processes into a catalog.

    Returns:
        The files taken, by path, with the time in nanoseconds at which their shard was written.
    """
    merged: dict[str, int] = {}
    for file in sorted(_folder(catalog.path).glob("*-of-*.sqlite3")):
        lock = FileLock(file.with_suffix(".lock"), timeout=0)
        with contextlib.suppress(Timeout), lock:
            # Another scan may have merged it while this one looked.
            if file.exists():
                written_ns = file.stat().st_mtime_ns
                merged |= dict.fromkeys(_merge(catalog, file), written_ns)
                # The log of an SQLite file belongs to it, so it goes first.
                for suffix in ("-wal", "-shm", ""):
                    file.with_name(file.name + suffix).unlink(missing_ok=True)
                file.with_suffix(".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _folder(catalog.path).rmdir()
    return merged


def _folder(catalog: Path) -> Path:
    return catalog.with_name("shards")


def _merge(catalog: Catalog, file: Path) -> list[str]:
    with Catalog(file) as shard:
        files = list(shard.files().values())
        photos = shard.photos()
    for start in range(0, len(photos), _ROWS):
        catalog.record([], photos[start : start + _ROWS])
    for start in range(0, len(files), _ROWS):
        catalog.record(files[start : start + _ROWS], [])
    return [one.path for one in files]

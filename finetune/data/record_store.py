"""Append-only file of fixed-size records with keys; safe to delete.

It holds decoded working-size pixels and features. Records are read with `pread`, not through a
memory map: mapped pages count as memory of the process, 2 GB for 10,000 photos.

``records.bin`` has the records, ``index.bin`` for each its key (16 bytes), the CRC-32 of the key
and the record, and the CRC-32 of the entry and its place. A record that fails its checksum counts
as missing: it is made again and appended, and of two entries with one key the later counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import DTypeLike, NDArray

from finetune.errors import StorageError

KEY_BYTES = 16
ENTRY = struct.Struct(f"<{KEY_BYTES}sII")
"""Entry of the index: key, checksum of the record, checksum of the entry."""

FLUSH_EVERY = 64
"""Number of records buffered before they are written under the lock."""

logger = logging.getLogger(__name__)


def record_key(*parts: object) -> bytes:
    """Returns a 16-byte key: blake2b of the joined text of `parts`."""
    text = "\x1f".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


class RecordStore:
    """Records of one shape and dtype in a folder, shared by any number of processes and threads.

    The data of a record is written before its entry, so that a killed process leaves no entry
    without data; partial data is overwritten by the next record.

    Args:
        folder: Folder of ``records.bin`` and ``index.bin``; created with the first record.
        shape: Shape of one record.
        dtype: Type of its numbers.
        limit_bytes: Maximum size of records.bin; further records are not stored.
    """

    def __init__(
        self, folder: Path, *, shape: tuple[int, ...], dtype: DTypeLike, limit_bytes: float
    ) -> None:
        self.folder = folder
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.record_bytes = int(np.prod(shape)) * self.dtype.itemsize
        self._limit = int(limit_bytes // self.record_bytes) if limit_bytes < float("inf") else None
        self._slots: dict[bytes, tuple[int, int]] = {}
        self._count = 0
        self._reported = False
        self._waiting: dict[bytes, NDArray[Any]] = {}
        self._guard = threading.Lock()
        self._read_handle: int | None = None
        self._lock = FileLock(folder / "lock")
        if self._keys_without_checksums.is_file():
            logger.warning(
                "The cache %s of an earlier version has no checksums and is built again.", folder
            )
        self._load_index()
        self.full = self._limit is not None and self._count >= self._limit

    def __contains__(self, key: bytes) -> bool:
        return key in self._slots or key in self._waiting

    def __len__(self) -> int:
        return len(self._slots) + len(self._waiting)

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def put(self, key: bytes, record: NDArray[Any]) -> None:
        """Stores a record, unless its key exists or the store is full."""
        if record.shape != self.shape or record.dtype != self.dtype:
            raise ValueError(f"a record is {self.shape} {self.dtype}, not {record.shape}")
        with self._guard:
            if self.full or key in self:
                return
            # Copied: a worker may reuse its buffer before the batch is written.
            self._waiting[key] = np.array(record, order="C")
            if len(self._waiting) >= FLUSH_EVERY:
                self._flush()

    def flush(self) -> None:
        """Writes buffered records to disk, where other processes see them."""
        with self._guard:
            self._flush()

    def refresh(self) -> None:
        """Loads the keys that other processes have added since the last refresh."""
        with self._guard:
            self._load_index()

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        with self._guard:
            if self._read_handle is not None:
                os.close(self._read_handle)
                self._read_handle = None

    def read(self, keys: Sequence[bytes], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Returns records as one array ``(len(keys), *shape)``.

        Args:
            keys: Keys in the store; see `drop_damaged`.
            out: C-contiguous output array; None: a new one.

        Raises:
            KeyError: A key is not in the store.
            StorageError: A record has been damaged since.
        """
        if out is None:
            out = np.empty((len(keys), *self.shape), self.dtype)
        for row, key in enumerate(keys):
            known = key in self
            if not self.read_into(key, out[row : row + 1]):
                if not known:
                    raise KeyError(key)
                raise StorageError(
                    f"The cache {self.folder} has just been damaged. Run the same command again, "
                    "which makes the record anew, and check that disk."
                )
        return out

    def read_into(self, key: bytes, out: NDArray[Any]) -> bool:
        """Reads a record into ``(1, *shape)``; returns whether the store has it, undamaged."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            out[0] = waiting
            return True
        entry = self._slots.get(key)
        if entry is None:
            return False
        slot, checksum = entry
        data = out.reshape(-1).view(np.uint8).data
        if self._read_slot(slot, data) and zlib.crc32(data, zlib.crc32(key)) == checksum:
            return True
        with self._guard:
            self._slots.pop(key, None)
        self._report_damage()
        return False

    def drop_damaged(self, keys: Sequence[bytes]) -> None:
        """Checks records, so that `in` is False for the damaged ones."""
        buffer = np.empty((1, *self.shape), self.dtype)
        for key in keys:
            self.read_into(key, buffer)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the picklable state, without open files and locks."""
        self.flush()
        state = self.__dict__.copy()
        del state["_guard"], state["_lock"]
        state["_read_handle"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._guard = threading.Lock()
        self._lock = FileLock(self.folder / "lock")

    @property
    def _keys_without_checksums(self) -> Path:
        return self.folder / "keys.bin"

    def _report_damage(self) -> None:
        if not self._reported:
            self._reported = True
            logger.warning(
                "The cache %s has damaged records; these are made again from the photos.",
                self.folder,
            )

    def _read_slot(self, slot: int, into: memoryview) -> bool:
        """Returns whether a complete record was read."""
        offset = slot * self.record_bytes
        try:
            if self._read_handle is None:
                flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
                self._read_handle = os.open(self.folder / "records.bin", flags)
            if hasattr(os, "preadv"):
                return os.preadv(self._read_handle, [into], offset) == self.record_bytes
            with self._guard:  # Windows has no positioned read; a lock keeps seek and read together
                os.lseek(self._read_handle, offset, os.SEEK_SET)
                data = os.read(self._read_handle, self.record_bytes)
        except OSError:  # a missing file, a bad sector
            return False
        into[: len(data)] = data
        return len(data) == self.record_bytes

    def _load_index(self) -> None:
        """Loads the entries that other processes have appended."""
        index = self.folder / "index.bin"
        if not index.is_file():
            return
        with index.open("rb") as file:
            file.seek(self._count * ENTRY.size)
            content = file.read()
        complete = len(content) // ENTRY.size * ENTRY.size
        for key, checksum, check in ENTRY.iter_unpack(content[:complete]):
            if check == _check_of(key, checksum, self._count):
                self._slots[key] = (self._count, checksum)
            else:
                self._report_damage()
            self._count += 1

    def _flush(self) -> None:
        if not self._waiting:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._append()
        except OSError as error:
            # A cache that cannot grow costs time, not the training.
            self.full = True
            logger.warning(
                "The cache %s cannot grow (%s); photos that it lacks are decoded each time.",
                self.folder,
                (error.strerror or "error").lower(),
            )
        self._waiting.clear()

    def _append(self) -> None:
        if self._keys_without_checksums.is_file():
            (self.folder / "records.bin").unlink(missing_ok=True)
            self._keys_without_checksums.unlink()
        self._load_index()
        fresh = [key for key in self._waiting if key not in self._slots]
        if self._limit is not None and self._count + len(fresh) > self._limit:
            fresh = fresh[: max(0, self._limit - self._count)]
            if not self.full:
                logger.warning(
                    "The cache %s has reached its limit; further photos are decoded each time. "
                    "Raise it with --cache-gb.",
                    self.folder,
                )
            self.full = True
        if not fresh:
            return
        entries = {}
        with _opened(self.folder / "records.bin") as file:
            os.lseek(file, self._count * self.record_bytes, os.SEEK_SET)
            for slot, key in enumerate(fresh, start=self._count):
                data = self._waiting[key].reshape(-1).view(np.uint8).data
                _write_all(file, data)
                entries[key] = (slot, zlib.crc32(data, zlib.crc32(key)))
            os.fsync(file)
        with _opened(self.folder / "index.bin") as file:
            # A partial entry of a killed process is overwritten.
            os.lseek(file, self._count * ENTRY.size, os.SEEK_SET)
            packed = b"".join(
                ENTRY.pack(key, checksum, _check_of(key, checksum, slot))
                for key, (slot, checksum) in entries.items()
            )
            _write_all(file, memoryview(packed))
            os.fsync(file)
        self._slots |= entries
        self._count += len(entries)


def _check_of(key: bytes, checksum: int, slot: int) -> int:
    """Returns the checksum of an entry at its place, so that swapped entries count as damaged."""
    return zlib.crc32(struct.pack("<16sIQ", key, checksum, slot))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def _write_all(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]

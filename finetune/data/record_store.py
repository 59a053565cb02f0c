"""Append-only file of fixed-size records with keys; safe to delete.

It holds decoded working-size pixels and features. Records are read with `pread`, not through a
memory map: mapped pages count as memory of the process, 2 GB for 10,000 photos.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import DTypeLike, NDArray

KEY_BYTES = 16
FLUSH_EVERY = 64
"""Number of records buffered before they are written under the lock."""

logger = logging.getLogger(__name__)


def record_key(*parts: object) -> bytes:
    """Returns a 16-byte key: blake2b of the joined text of `parts`."""
    text = "\x1f".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


class RecordStore:
    """Records of one shape and dtype in a folder, shared by any number of processes and threads.

    The data of a record is written before its key, so that a killed process leaves no key without
    data; partial data is overwritten by the next record.

    Args:
        folder: Folder of ``records.bin`` and ``keys.bin``; created with the first record.
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
        self._slots: dict[bytes, int] = {}
        self._count = 0
        self._waiting: dict[bytes, NDArray[Any]] = {}
        self._guard = threading.Lock()
        self._read_handle: int | None = None
        self._lock = FileLock(folder / "lock")
        self._load_keys()
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
            self._load_keys()

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
            keys: Keys in the store.
            out: C-contiguous output array; None: a new one.

        Raises:
            KeyError: A key is not in the store.
        """
        if out is None:
            out = np.empty((len(keys), *self.shape), self.dtype)
        flat = out.reshape(len(keys), -1).view(np.uint8) if len(keys) else out
        for row, key in enumerate(keys):
            waiting = self._waiting.get(key)
            if waiting is not None:
                out[row] = waiting
            else:
                self._read_slot(self._slots[key], memoryview(flat[row]))
        return out

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

    def _read_slot(self, slot: int, into: memoryview) -> None:
        if self._read_handle is None:
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
            self._read_handle = os.open(self.folder / "records.bin", flags)
        offset = slot * self.record_bytes
        if hasattr(os, "preadv"):
            got = os.preadv(self._read_handle, [into], offset)
        else:  # Windows has no positioned read; a lock keeps seek and read together.
            with self._guard:
                os.lseek(self._read_handle, offset, os.SEEK_SET)
                data = os.read(self._read_handle, self.record_bytes)
            into[: len(data)] = data
            got = len(data)
        if got != self.record_bytes:
            raise OSError(errno.EIO, f"{self.folder} is damaged; it may be deleted")

    def _load_keys(self) -> None:
        """Loads the keys that other processes have appended."""
        keys = self.folder / "keys.bin"
        if not keys.is_file():
            return
        with keys.open("rb") as file:
            file.seek(self._count * KEY_BYTES)
            content = file.read()
        for start in range(0, len(content) - KEY_BYTES + 1, KEY_BYTES):
            self._slots.setdefault(content[start : start + KEY_BYTES], self._count)
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
        self._load_keys()
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
        with _opened(self.folder / "records.bin") as file:
            os.lseek(file, self._count * self.record_bytes, os.SEEK_SET)
            for key in fresh:
                _write_all(file, self._waiting[key].reshape(-1).view(np.uint8).data)
            os.fsync(file)
        with _opened(self.folder / "keys.bin") as file:
            # A partial key of a killed process is overwritten.
            os.lseek(file, self._count * KEY_BYTES, os.SEEK_SET)
            _write_all(file, memoryview(b"".join(fresh)))
            os.fsync(file)
        for key in fresh:
            self._slots[key] = self._count
            self._count += 1


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

"""Decoding in worker processes of the formats whose decoders crash more easily.

A crash in libtiff, libwebp, libheif or another decoder ends its worker, not a server or a
prediction of many photos. JPEG and PNG are decoded in this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from finetune.errors import DecodeError
from finetune.photos.decode.decoder import (
    MAX_PIXELS,
    decode_photo,
    is_hostile_file,
    is_hostile_format,
    take_turns_by,
)
from finetune.photos.decode.pool import PHOTO_SECONDS, usable_cores, worker_command

MODULE = "finetune.photos.decode.isolated"


def decode_isolated(
    source: Path | bytes, *, min_side_pixels: int | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Returns the ``(H, W, 3) uint8`` RGB pixels of a photo, upright.

    Safe to call from several threads. Arguments and errors are those of `decode_photo`; a photo
    that crashes its decoder or takes over `PHOTO_SECONDS` is a DecodeError too.
    """
    hostile = (
        is_hostile_format(source[:4]) if isinstance(source, bytes) else is_hostile_file(source)
    )
    if not hostile or not sys.executable:
        return decode_photo(source, min_side_pixels=min_side_pixels, max_pixels=max_pixels)
    return _workers.decode(source, min_side_pixels, max_pixels)


class _Worker:
    """Process that decodes one photo after another."""

    def __init__(self, turns: Path) -> None:
        self._process = subprocess.Popen(
            [*worker_command(MODULE), str(turns)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def decode(
        self, source: Path | bytes, min_side_pixels: int | None, max_pixels: int
    ) -> NDArray[np.uint8] | str:
        """Returns the pixels, or the reason why there are none; EOFError if the process died."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # both are pipes
        assert stdout is not None
        content = source if isinstance(source, bytes) else b""
        path = None if isinstance(source, bytes) else os.path.abspath(source)  # noqa: PTH100 - no UTF-8
        question = [path, len(content), min_side_pixels, max_pixels]
        clock = threading.Timer(PHOTO_SECONDS, self._process.kill)
        clock.daemon = True
        clock.start()
        try:
            stdin.write(json.dumps(question).encode() + b"\n" + content)
            stdin.flush()
            line = stdout.readline()
            if not line.endswith(b"\n"):
                raise EOFError
            answer = json.loads(line)
            if isinstance(answer, str):
                return answer
            pixels = np.empty(answer, dtype=np.uint8)
            rest = memoryview(pixels.reshape(-1).data)
            while rest:
                got = stdout.readinto(rest)  # type: ignore[attr-defined] # BufferedReader has it
                if not got:
                    raise EOFError
                rest = rest[got:]
            return pixels
        except OSError as error:
            raise EOFError from error
        finally:
            clock.cancel()

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # unsent bytes to a dead process
                    pipe.close()


class _Workers:
    """The processes of this one, at most one a core; started when they are needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(usable_cores())
        self._idle: list[_Worker] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def decode(
        self, source: Path | bytes, min_side_pixels: int | None, max_pixels: int
    ) -> NDArray[np.uint8]:
        """Returns the pixels of a photo, decoded by an idle or a new process."""
        path = None if isinstance(source, bytes) else source
        with self._places:
            try:
                worker = self._taken()
            except OSError:  # processes cannot be started here
                return decode_photo(source, min_side_pixels=min_side_pixels, max_pixels=max_pixels)
            try:
                answer = worker.decode(source, min_side_pixels, max_pixels)
            except EOFError:
                worker.end()
                raise DecodeError(path, "crashed its decoder, or took too long") from None
            except BaseException:
                worker.end()  # an interrupt left an answer unread
                raise
            with self._lock:
                self._idle.append(worker)
        if isinstance(answer, str):
            raise DecodeError(path, answer)
        return answer

    def end(self) -> None:
        """Ends the idle processes."""
        with self._lock:
            idle, self._idle = self._idle, []
            folder, self._folder = self._folder, None
        for worker in idle:
            worker.end()
        if folder is not None:
            folder.cleanup()

    def _taken(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(
                    prefix="finetune-", ignore_cleanup_errors=True
                )
            turns = Path(self._folder.name) / "large-photo.lock"
        return _Worker(turns)


_workers = _Workers()
atexit.register(_workers.end)


def main() -> None:
    """Decodes the photos that stdin names or holds, until it ends."""
    # A terminal interrupts all its processes; the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(1), "wb")
    # Output printed by libraries must not mix with the pixels.
    os.dup2(2, 1)
    take_turns_by(FileLock(sys.argv[-1]))
    while line := sys.stdin.buffer.readline():
        path, length, min_side_pixels, max_pixels = json.loads(line)
        source = sys.stdin.buffer.read(length) if path is None else Path(path)
        _answer(output, source, min_side_pixels, max_pixels)


def _answer(
    output: BinaryIO, source: Path | bytes, min_side_pixels: int | None, max_pixels: int
) -> None:
    try:
        pixels = decode_photo(source, min_side_pixels=min_side_pixels, max_pixels=max_pixels)
    except DecodeError as error:
        output.write(json.dumps(error.reason).encode() + b"\n")
    else:
        output.write(json.dumps(pixels.shape).encode() + b"\n")
        output.write(np.ascontiguousarray(pixels).data)
    output.flush()

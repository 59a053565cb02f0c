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
from numpy.typing import NDArray

from finetune.errors import DecodeError
from finetune.photos.decode import pool
from finetune.photos.decode.decoder import (
    MAX_PIXELS,
    decode_photo,
    is_hostile_file,
    is_hostile_format,
    take_turns_by,
)
from finetune.photos.decode.pool import (
    CRASHED,
    READY,
    WAITING,
    PhotoClock,
    Turns,
    read_pixels,
    usable_cores,
    worker_command,
)

MODULE = "finetune.photos.decode.isolated"


def decode_isolated(
    source: Path | bytes, *, min_side_pixels: int | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Returns the ``(H, W, 3) uint8`` RGB pixels of a photo, upright.

    Safe to call from several threads. Arguments and errors are those of `decode_photo`; a photo
    that crashes its decoder or takes over `pool.PHOTO_SECONDS` is a DecodeError too.
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
        self.timed_out = False
        self._process = subprocess.Popen(
            [*worker_command(MODULE), str(turns)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._clock = PhotoClock(self._process.pid)

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
        done = threading.Event()
        threading.Thread(target=self._watch, args=[done], daemon=True).start()
        self._clock.run(True)
        try:
            stdin.write(json.dumps(question).encode() + b"\n" + content)
            stdin.flush()
            line = stdout.readline()
            while line in (WAITING, READY):
                self._clock.run(line == READY)
                line = stdout.readline()
            if not line.endswith(b"\n"):
                raise EOFError
            answer = json.loads(line)
            return answer if isinstance(answer, str) else read_pixels(stdout, answer)
        except OSError as error:
            raise EOFError from error
        finally:
            done.set()

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(0.5):
            if self._clock.is_over():
                self.timed_out = True
                self._process.kill()
                return

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
                reason = f"took over {pool.PHOTO_SECONDS:g} s" if worker.timed_out else CRASHED
                raise DecodeError(path, reason) from None
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
    take_turns_by(Turns(Path(sys.argv[-1]), output))
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

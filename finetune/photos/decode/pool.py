"""Pool that analyzes photos in worker processes, or in threads if photos are few."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import psutil
from filelock import FileLock
from numpy.typing import NDArray

from finetune.photos.analyze import Analysis, NeededOutput, ResizeSettings, Task, analyze
from finetune.photos.collection import PhotoMetadata
from finetune.photos.crops import Crop
from finetune.photos.decode.decoder import is_hostile_file, take_turns_by

FEW_PHOTOS = 64
"""Below this number of photos, starting processes takes longer than it saves."""

_AHEAD = 2
"""Tasks queued for each worker, so that it never idles."""

PHOTO_SECONDS = 60.0
"""Processor time that one photo may take in a worker process."""

BUSY_FACTOR = 5
"""Ratio of the elapsed time to `PHOTO_SECONDS` at which a photo is given up in any case; on a
machine that is busy with other programs, decoding takes several times its processor time."""

CRASHED = "crashed the decoder"

_TRIES = 2
"""Crashes of a worker after which its photo is skipped; one may be due to the system."""

logger = logging.getLogger(__name__)


def analyze_all(
    tasks: Sequence[Task], preprocessing: ResizeSettings | None, *, workers: int | None = None
) -> Generator[tuple[Task, Analysis]]:
    """Yields each task with its analysis, in order of completion.

    A photo that crashes its process or exceeds `PHOTO_SECONDS` becomes ``unread``. Few photos are
    read by threads, but for those of formats other than JPEG and PNG, whose decoders crash more
    easily. Large photos are decoded one at a time. Closing the iterator, or an exception at its
    consumer, stops the workers.

    Args:
        tasks: The files to read.
        preprocessing: Of the images for the cache; None makes no images.
        workers: Number of processes; None means one per usable core.
    """
    count = min(workers or usable_cores(), len(tasks))
    with tempfile.TemporaryDirectory(prefix="finetune-", ignore_cleanup_errors=True) as folder:
        pool = _Pool(tasks, preprocessing, Path(folder) / "large-photo.lock")
        threads = [
            threading.Thread(target=pool.serve, name=f"photos-{number}", daemon=True)
            for number in range(count)
        ]
        threads.append(threading.Thread(target=pool.watch, name="photos-clock", daemon=True))
        for thread in threads:
            thread.start()
        try:
            for _ in range(len(tasks)):
                yield pool.next_result()
        finally:
            pool.stop()
            for thread in threads:
                thread.join()


def usable_cores() -> int:
    """Returns the number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_command(module: str = __name__) -> list[str]:
    """Returns the command line of a worker process: the same Python with the same modules.

    Args:
        module: Its function ``main`` is run.
    """
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        f"from {module} import main; main()"
    )
    return [sys.executable, "-c", code, json.dumps(sys.path)]


class _NoWorkersError(Exception):
    """Worker processes cannot be started here."""


class PhotoClock:
    """Elapsed and processor time that a worker process has spent on its photo.

    Args:
        process: Number of the process.
    """

    def __init__(self, process: int) -> None:
        self._usage = psutil.Process(process)
        self._begun: tuple[float, float] | None = None  # elapsed and processor seconds

    def run(self, running: bool) -> None:
        """Starts at zero, or stops."""
        self._begun = (time.monotonic(), self._processor_seconds()) if running else None

    def is_over(self) -> bool:
        """Returns whether the photo exceeds `PHOTO_SECONDS`."""
        begun = self._begun
        if begun is None:
            return False
        elapsed = time.monotonic() - begun[0]
        return elapsed > PHOTO_SECONDS and (
            elapsed > BUSY_FACTOR * PHOTO_SECONDS
            or self._processor_seconds() - begun[1] > PHOTO_SECONDS
        )

    def _processor_seconds(self) -> float:
        try:
            used = self._usage.cpu_times()
        except psutil.Error:  # it has just died
            return 0.0
        return float(used.user + used.system)


class _Worker:
    """Worker process."""

    def __init__(self, preprocessing: ResizeSettings | None, turns: Path) -> None:
        self.timed_out = False
        try:
            self._process = subprocess.Popen(
                worker_command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._clock = PhotoClock(self._process.pid)
        except (OSError, psutil.Error) as error:
            raise _NoWorkersError from error
        self._stdin: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        self._stdout: IO[bytes] = self._process.stdout  # type: ignore[assignment]
        settings = None if preprocessing is None else dataclasses.asdict(preprocessing)
        self._send(json.dumps([settings, str(turns)]).encode() + b"\n")
        if self._stdout.readline() != READY:
            self.kill()
            raise _NoWorkersError

    def submit(self, task: Task) -> None:
        """Sends the process a task; `receive` notices a dead process."""
        self._send(task_to_json(task))

    def receive(self) -> Analysis:
        """Returns the result of the oldest task; raises EOFError if the process has died."""
        self._clock.run(True)
        try:
            # typeshed has two kinds of IO
            return read_analysis(self._stdout, self._clock.run)  # type: ignore[arg-type]
        finally:
            self._clock.run(False)

    def check_clock(self) -> None:
        """Kills the process if the photo that it is reading exceeds the time limit."""
        if self._clock.is_over():
            self.timed_out = True
            self._process.kill()

    def kill(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.wait()
        self._stdout.close()
        with contextlib.suppress(OSError):  # unsent bytes to a dead process
            self._stdin.close()

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._stdin.write(data)
            self._stdin.flush()


class _Pool:
    """State shared by the threads: the remaining tasks and the unread results."""

    def __init__(
        self, tasks: Sequence[Task], preprocessing: ResizeSettings | None, turns: Path
    ) -> None:
        processes, threads = _divide(tasks)
        self._tasks = iter(processes)
        self._light_tasks = iter(threads)
        self._spec = preprocessing
        self._turns = turns
        self._use_processes = bool(sys.executable)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        # Bounded, so that images cannot fill the memory while the disk is slow.
        self._results: queue.Queue[tuple[Task, Analysis] | BaseException] = queue.Queue(maxsize=64)
        self._workers: set[_Worker] = set()

    def next_result(self) -> tuple[Task, Analysis]:
        """Returns the next result; can be interrupted."""
        while True:
            try:
                # Windows delivers an interrupt only between waits.
                result = self._results.get(timeout=0.5)
            except queue.Empty:
                continue
            if isinstance(result, BaseException):
                raise result
            return result

    def stop(self) -> None:
        """Stops all work at once."""
        self._stopped.set()
        with self._lock:
            workers = tuple(self._workers)
        for worker in workers:
            worker.kill()

    def watch(self) -> None:
        """Stops workers that exceed the time limit; the body of a thread."""
        while not self._stopped.wait(0.5):
            with self._lock:
                workers = tuple(self._workers)
            for worker in workers:
                worker.check_clock()

    def serve(self) -> None:
        """Runs tasks until none is left; the body of each thread."""
        try:
            while (task := self._take(light=True)) is not None:
                self._put((task, analyze(task, self._spec)))
            if self._use_processes:
                try:
                    self._serve_by_process()
                except _NoWorkersError:
                    self._warn_unavailable()
            self._serve_here()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for results
            self._put(error)

    def _serve_here(self) -> None:
        while (task := self._take()) is not None:
            self._put((task, analyze(task, self._spec)))

    def _serve_by_process(self) -> None:
        open_tasks: deque[Task] = deque()
        deaths = 0
        worker: _Worker | None = None
        try:
            while not self._stopped.is_set():
                while len(open_tasks) < _AHEAD:
                    task = self._take()
                    if task is None:
                        break
                    open_tasks.append(task)
                    if worker is not None:
                        worker.submit(task)
                if not open_tasks:
                    return
                if worker is None:
                    worker = self._start(open_tasks)
                try:
                    analysis = worker.receive()
                except (EOFError, ValueError, OSError):
                    # Results come in the order of the tasks: the oldest one was being read.
                    self._end(worker)
                    reason = CRASHED
                    if worker.timed_out:
                        reason, deaths = f"took over {PHOTO_SECONDS:g} s", _TRIES
                    worker = None
                    deaths += 1
                    if deaths < _TRIES:
                        continue
                    analysis = Analysis(status="unread", reason=reason)
                deaths = 0
                self._put((open_tasks.popleft(), analysis))
        finally:
            if worker is not None:
                self._end(worker)

    def _start(self, open_tasks: deque[Task]) -> _Worker:
        try:
            worker = _Worker(self._spec, self._turns)
        except _NoWorkersError:
            with self._lock:
                self._tasks = itertools.chain(tuple(open_tasks), self._tasks)
            raise
        with self._lock:
            self._workers.add(worker)
        for task in open_tasks:
            worker.submit(task)
        return worker

    def _end(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.kill()

    def _take(self, *, light: bool = False) -> Task | None:
        with self._lock:
            tasks = self._light_tasks if light else self._tasks
            return None if self._stopped.is_set() else next(tasks, None)

    def _put(self, result: tuple[Task, Analysis] | BaseException) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._results.put(result, timeout=0.5)
                return

    def _warn_unavailable(self) -> None:
        with self._lock:
            first, self._use_processes = self._use_processes, False
        if first:
            logger.warning("Worker processes cannot be started; photos are read by threads alone.")


def _divide(tasks: Sequence[Task]) -> tuple[Sequence[Task], Sequence[Task]]:
    """Returns the tasks for processes and those for threads."""
    if len(tasks) >= FEW_PHOTOS:
        return tasks, ()
    hostile = [task for task in tasks if is_hostile_file(task.path)]
    kept = {id(task) for task in hostile}
    return hostile, [task for task in tasks if id(task) not in kept]


READY = b"ready\n"
WAITING = b"waiting\n"
"""Written by a worker before it waits for its turn to decode a large photo; then `READY`."""


class Turns:
    """Turns of the worker processes at large photos, announced to the parent."""

    def __init__(self, lock: Path, output: BinaryIO) -> None:
        self._lock = FileLock(lock)
        self._output = output

    def __enter__(self) -> None:
        self._write(WAITING)
        self._lock.acquire()
        self._write(READY)

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _write(self, line: bytes) -> None:
        self._output.write(line)
        self._output.flush()


class WorkerError(RuntimeError):
    """Bug in a worker process."""


def main() -> None:
    """Runs tasks from stdin until it ends."""
    # A terminal interrupts all its processes; the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(1), "wb")
    # Output printed by libraries must not mix with the results.
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    preprocessing, turns = json.loads(questions.readline() or "[null, null]")
    if turns is not None:
        take_turns_by(Turns(Path(turns), output))
    settings = None if preprocessing is None else ResizeSettings(**preprocessing)
    output.write(READY)
    output.flush()
    for line in questions:
        try:
            analysis = analyze(task_from_json(line), settings)
        except Exception:  # noqa: BLE001 - a bug, raised again in the parent
            output.write(json.dumps(traceback.format_exc()).encode() + b"\n")
        else:
            write_analysis(output, analysis)
        output.flush()


def task_to_json(task: Task) -> bytes:
    """Returns a task as one line of JSON."""
    known = {
        digest: [needed.needs_image, None if needed.crop is None else needed.crop.to_dict()]
        for digest, needed in task.known.items()
    }
    return json.dumps([task.path, known]).encode() + b"\n"


def task_from_json(line: bytes) -> Task:
    """Returns the task in a line of JSON."""
    path, known = json.loads(line)
    return Task(
        path=path,
        known={
            digest: NeededOutput(
                needs_image=needs_image, crop=None if crop is None else Crop.from_dict(crop)
            )
            for digest, (needs_image, crop) in known.items()
        },
    )


def write_analysis(file: BinaryIO, analysis: Analysis) -> None:
    """Writes an analysis: one line of JSON, then the bytes of its image."""
    metadata: dict[str, Any] | None = None
    if analysis.metadata is not None:
        metadata = dataclasses.asdict(analysis.metadata)
        metadata["hashes"] = metadata["hashes"].hex() if metadata["hashes"] is not None else None
    side = 0 if analysis.image is None else analysis.image.shape[0]
    crop = None if analysis.crop is None else analysis.crop.to_dict()
    head = [analysis.status, analysis.reason, analysis.digest, metadata, crop, side]
    file.write(json.dumps(head).encode() + b"\n")
    if analysis.image is not None:
        file.write(np.ascontiguousarray(analysis.image).data)


def read_analysis(
    file: BinaryIO, run_clock: Callable[[bool], None] = lambda running: None
) -> Analysis:
    """Returns the next analysis.

    Args:
        file: Output of a worker process.
        run_clock: Called with False when the worker waits for its turn, then with True.

    Raises:
        EOFError: The worker process has died.
        WorkerError: There is a bug in the analysis; the message has its traceback.
    """
    line = file.readline()
    while line in (WAITING, READY):
        run_clock(line == READY)
        line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    if isinstance(head, str):
        raise WorkerError(f"in a worker process:\n{head}")
    status, reason, digest, metadata, crop, side = head
    image = read_pixels(file, (side, side, 3)) if side else None
    if metadata is not None and metadata["hashes"] is not None:
        metadata["hashes"] = bytes.fromhex(metadata["hashes"])
    return Analysis(
        status=status,
        reason=reason,
        digest=digest,
        metadata=None if metadata is None else PhotoMetadata(**metadata),
        crop=None if crop is None else Crop.from_dict(crop),
        image=image,
    )


def read_pixels(file: IO[bytes], shape: Sequence[int]) -> NDArray[np.uint8]:
    """Returns the next pixels of a worker's output; raises EOFError if the worker has died."""
    pixels = np.empty(shape, dtype=np.uint8)
    rest = memoryview(pixels.reshape(-1).data)
    while rest:
        got = file.readinto(rest)  # type: ignore[attr-defined] # BufferedReader has it
        if not got:
            raise EOFError
        rest = rest[got:]
    return pixels

"""A process that reads photos, spoken to over its standard input and output.

One line of JSON asks, one line of JSON answers, followed by the square's bytes where there is one.
A plain subprocess instead of ``multiprocessing``: it imports nothing of the program that started
it, needs no guard in a person's script, and when a photo kills it, the end of its output says which
photo that was.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import traceback
from typing import Any, BinaryIO

import numpy as np

from finetune.photos.analyze import Analysis, SquareSpec, Task, Wanted, analyze
from finetune.photos.crops import Crop
from finetune.photos.metadata import PhotoMetadata

READY = b"ready\n"


class WorkerError(RuntimeError):
    """A bug that showed in a worker process."""


def main() -> None:
    """Answers tasks until its input ends."""
    # An interrupt goes to every process of a terminal; the one that asks decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # What a library prints must not end up among the answers.
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    preprocessing = json.loads(questions.readline() or "null")
    square = None if preprocessing is None else SquareSpec(**preprocessing)
    answers.write(READY)
    answers.flush()
    for line in questions:
        try:
            analysis = analyze(task_from_json(line), square)
        except Exception:  # noqa: BLE001 - a bug, which the process that asked is to raise
            answers.write(json.dumps(traceback.format_exc()).encode() + b"\n")
        else:
            write_analysis(answers, analysis)
        answers.flush()


def task_to_json(task: Task) -> bytes:
    """Returns a task as one line of JSON."""
    known = {
        digest: [wanted.square, None if wanted.crop is None else wanted.crop.to_dict()]
        for digest, wanted in task.known.items()
    }
    return json.dumps([task.path, known]).encode() + b"\n"


def task_from_json(line: bytes) -> Task:
    """Returns the task in a line of JSON."""
    path, known = json.loads(line)
    return Task(
        path=path,
        known={
            digest: Wanted(square=square, crop=None if crop is None else Crop.from_dict(crop))
            for digest, (square, crop) in known.items()
        },
    )


def write_analysis(file: BinaryIO, analysis: Analysis) -> None:
    """Writes an answer: its length's worth of JSON on one line, then the square's bytes."""
    facts: dict[str, Any] | None = None
    if analysis.facts is not None:
        facts = dataclasses.asdict(analysis.facts)
        facts["hashes"] = facts["hashes"].hex() if facts["hashes"] is not None else None
    side = 0 if analysis.square is None else analysis.square.shape[0]
    crop = None if analysis.crop is None else analysis.crop.to_dict()
    head = [analysis.status, analysis.reason, analysis.digest, facts, crop, side]
    file.write(json.dumps(head).encode() + b"\n")
    if analysis.square is not None:
        file.write(np.ascontiguousarray(analysis.square).data)


def read_analysis(file: BinaryIO) -> Analysis:
    """Returns the next answer.

    Raises:
        EOFError: The process that should have written it has died.
        WorkerError: There is a bug in the analysis; the message has its traceback.
    """
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    if isinstance(head, str):
        raise WorkerError(f"in a process that reads photos:\n{head}")
    status, reason, digest, facts, crop, side = head
    square = None
    if side:
        square = np.empty((side, side, 3), dtype=np.uint8)
        rest = memoryview(square.reshape(-1).data)
        while rest:
            got = file.readinto(rest)  # type: ignore[attr-defined] # BufferedReader has it
            if not got:
                raise EOFError
            rest = rest[got:]
    if facts is not None and facts["hashes"] is not None:
        facts["hashes"] = bytes.fromhex(facts["hashes"])
    return Analysis(
        status=status,
        reason=reason,
        digest=digest,
        facts=None if facts is None else PhotoMetadata(**facts),
        crop=None if crop is None else Crop.from_dict(crop),
        square=square,
    )

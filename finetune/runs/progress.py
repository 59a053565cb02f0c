"""How far a training is, read from its run folder by somebody who is not training it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.errors import RunError
from finetune.runs.folder import RUNS_FOLDER, RunFolder

State = Literal["running", "interrupted", "finished"]

STARTING_SECONDS = 20.0
"""Time after its folder was made in which a training may not have begun to hold it."""

POLL_SECONDS = 1.0

RECENT = 3
"""Epochs whose mean duration stands for those to come."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is.

    Attributes:
        run: Its folder.
        state: Whether a process is training it, was stopped, or is done.
        model: Name of the network.
        mode: What trains.
        epochs: How many were planned.
        rows: What log.jsonl says of each epoch that is done.
        seconds_left: Until the last epoch at the rate of the latest; None before the first, and
            when nobody trains.
    """

    run: RunFolder
    state: State
    model: str
    mode: str
    epochs: int
    rows: tuple[Mapping[str, Any], ...]
    seconds_left: float | None


def read_progress(run: RunFolder, *, now: float | None = None) -> Progress:
    """Returns how far a run is.

    Args:
        run: Its folder.
        now: Seconds since 1970; None: the clock's.

    Raises:
        RunError: Its config.json cannot be read.
    """
    now = time.time() if now is None else now
    # Whether it is held is asked first: a training that ends in between is then finished.
    held = run.is_held
    description = run.read(run.config_file)
    rows = tuple(row for row in run.read_log() if "epoch" in row and "train_loss" in row)
    training = description.get("settings", {}).get("training", {})
    epochs = int(training.get("epochs") or (rows[-1]["epochs"] if rows else 0))
    if description.get("finished"):
        state: State = "finished"
    elif held or (not rows and now - _changed(run.config_file) < STARTING_SECONDS):
        state = "running"
    else:
        state = "interrupted"
    left = None
    if state == "running" and rows:
        recent = [float(row["seconds"]) for row in rows[-RECENT:]]
        todo = max(0, epochs - int(rows[-1]["epoch"]))
        gone = max(0.0, now - _changed(run.log_file))
        left = max(0.0, todo * sum(recent) / len(recent) - gone)
    return Progress(
        run=run,
        state=state,
        model=str(description.get("model", "")),
        mode=str(training.get("mode") or ""),
        epochs=epochs,
        rows=rows,
        seconds_left=left,
    )


def follow_progress(
    run: RunFolder, *, wait: Callable[[float], None] = time.sleep
) -> Iterator[Progress]:
    """Yields how far a run is, again and again, and at last when nobody trains it any more."""
    while True:
        progress = read_progress(run)
        yield progress
        if progress.state != "running":
            return
        wait(POLL_SECONDS)


def newest_run(runs: Path = RUNS_FOLDER) -> RunFolder:
    """Returns the run in which something happened last, finished or not.

    Raises:
        RunError: There is none.
    """
    found = [RunFolder(file.parent) for file in runs.glob("*/config.json")]
    if not found:
        raise RunError(
            f"There is no run in {runs.absolute()}. Start one with: finetune train PHOTOS, or name "
            "one: finetune watch RUN"
        )
    return max(found, key=lambda run: max(_changed(run.config_file), _changed(run.log_file)))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0

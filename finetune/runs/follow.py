"""Progress of a training, read from its run folder by another process."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from finetune.errors import RunError
from finetune.files import storage_errors
from finetune.models.factory import rebuild
from finetune.photos.preprocessing import Preprocessing
from finetune.runs.evaluate import Evaluation, EvaluationRequest, evaluate_trained
from finetune.runs.folder import RUNS_FOLDER, RunFolder
from finetune.runs.loading import TrainedRun, model_args, open_trained
from finetune.tasks.factory import task_of_config

State = Literal["running", "interrupted", "finished"]

STARTING_SECONDS = 20.0
"""Seconds after its creation in which a run may not be locked yet."""

POLL_SECONDS = 1.0

HISTORY = "history.jsonl"
"""File in the folder of an evaluation with a line for each epoch that was followed."""

RECENT_EPOCHS = 3
"""Epochs whose mean duration predicts the time left."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a training.

    Attributes:
        state: Whether a process is training the run now, has stopped early, or has finished.
        mode: ``head``, ``full`` or ``gradual``.
        rows: Rows of log.jsonl, one per finished epoch.
        seconds_left: Estimated from the latest epochs; None before the first epoch and unless
            running.
    """

    run: RunFolder
    state: State
    model: str
    mode: str
    epochs: int
    rows: tuple[Mapping[str, Any], ...]
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class BestEpoch:
    """Evaluation of the best epoch so far; `epoch` counts from 1."""

    epoch: int
    evaluation: Evaluation


def read_progress(run: RunFolder, *, now: float | None = None) -> Progress:
    """Returns the progress of a run.

    Raises:
        RunError: config.json cannot be read.
    """
    now = time.time() if now is None else now
    # Read before config.json, so that a training that ends in between counts as finished.
    held = run.is_held
    description = run.read(run.config_file)
    rows = tuple(row for row in run.read_log() if "epoch" in row and "train_loss" in row)
    training = description.get("settings", {}).get("training", {})
    epochs = int(training.get("epochs") or (rows[-1]["epochs"] if rows else 0))
    if description.get("finished"):
        state: State = "finished"
    elif held or (not rows and now - _modified(run.config_file) < STARTING_SECONDS):
        state = "running"
    else:
        state = "interrupted"
    left = None
    if state == "running" and rows:
        recent = [float(row["seconds"]) for row in rows[-RECENT_EPOCHS:]]
        todo = max(0, epochs - int(rows[-1]["epoch"]))
        gone = max(0.0, now - _modified(run.log_file))
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


def follow_run(
    run: RunFolder,
    request: EvaluationRequest | None = None,
    *,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Progress | BestEpoch]:
    """Yields the progress of a run at every poll, and an evaluation of each new best epoch.

    Epochs that are superseded during an evaluation are skipped. Iteration ends when no process is
    training the run anymore. A finished run is evaluated once more where its final weights differ
    from those that were evaluated last.

    Raises:
        RunError: The run cannot be read.
    """
    seen = 0
    shown: Mapping[str, torch.Tensor] | None = None
    while True:
        progress = read_progress(run)
        yield progress
        if request is not None:
            if progress.state == "finished":
                trained = open_trained(run, device=request.device)
                if shown is None or not _equal(shown, trained.module.state_dict()):
                    epoch = trained.description["best_epoch"]
                    yield _evaluated(epoch, trained, request)
            elif (found := open_best_epoch(run, seen=seen, device=request.device)) is not None:
                seen, trained = found
                shown = trained.module.state_dict()
                yield _evaluated(seen, trained, request)
        if progress.state != "running":
            return
        wait(POLL_SECONDS)


def _evaluated(epoch: int, trained: TrainedRun, request: EvaluationRequest) -> BestEpoch:
    """Returns the evaluation of an epoch, and adds it to the history in its folder."""
    evaluation = evaluate_trained(trained, request)
    if evaluation.folder is None:
        return BestEpoch(epoch=epoch, evaluation=evaluation)
    figures = {
        f"{part}/{name}": float(value)
        for part, values in evaluation.metrics.items()
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    history = evaluation.folder / HISTORY
    with storage_errors(history), history.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"epoch": epoch, **figures}) + "\n")
    if importlib.util.find_spec("tensorboard") is not None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(evaluation.folder / "tensorboard")) as writer:
            for name, figure in figures.items():
                writer.add_scalar(f"evaluation/{name}", figure, epoch)
    return BestEpoch(epoch=epoch, evaluation=evaluation)


def open_best_epoch(run: RunFolder, *, seen: int, device: str) -> tuple[int, TrainedRun] | None:
    """Returns (epoch, network) of the best epoch so far; None without one, or if it is `seen`."""
    try:
        with safe_open(run.best_checkpoint, framework="pt") as file:
            epoch = int(file.metadata()["epoch"])
        if epoch == seen:
            return None
        state = load_file(run.best_checkpoint)
    except (OSError, SafetensorError):
        # Not written yet, or removed by a training that has just ended.
        return None
    description = run.read(run.config_file)
    labels = tuple(run.read(run.labels_file))
    preprocessing = Preprocessing.from_dict(run.read(run.preprocessing_file))
    module = rebuild(description["model"], len(labels), preprocessing.size, state, model_args(run))
    module = module.to(device).eval().to(memory_format=torch.channels_last)
    trained = TrainedRun(
        folder=run,
        module=module,
        preprocessing=preprocessing,
        labels=labels,
        temperature=1.0,
        unknown=None,
        sure=None,
        description=description,
        task=task_of_config(description),
    )
    return epoch, trained


def newest_run(runs: Path = RUNS_FOLDER) -> RunFolder:
    """Returns the run that was modified last, finished or not.

    Raises:
        RunError: There is no run.
    """
    found = [RunFolder(file.parent) for file in runs.glob("*/config.json")]
    if not found:
        raise RunError(
            f"There is no run in {runs.absolute()}. Start one with: finetune train PHOTOS, or name "
            "one: finetune watch RUN"
        )
    return max(found, key=lambda run: max(_modified(run.config_file), _modified(run.log_file)))


def _equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0

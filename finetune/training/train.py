"""Trains a classifier on a folder of photos, and resumes interrupted trainings."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import select
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.config import TrainConfig
from finetune.errors import StorageError
from finetune.files import write_json, write_text
from finetune.models.heads import has_linear_head
from finetune.models.threads import cpu_threads
from finetune.runs.folder import RUNS_FOLDER, RunFolder, headline_part, open_run
from finetune.runs.model_card import write_model_card
from finetune.training.checkpoints import read_position, save_tensors
from finetune.training.device import make_accelerator
from finetune.training.events import Callback, Event, Note, ignore
from finetune.training.final_weights import read_network
from finetune.training.finetune import train_on_photos
from finetune.training.linear_probe.features import fill_features_only
from finetune.training.linear_probe.probe import train_on_features
from finetune.training.prepare import NewRun, Overrides, Splitter, prepare
from finetune.training.prepared import Prepared
from finetune.training.resolve import uses_cached_features
from finetune.training.results import TrainingOutput, write_results
from finetune.training.tracking import tracked
from finetune.training.validation import Metric
from finetune.training.warm_start import ParentRun


def train(
    photos: Path | str,
    config: TrainConfig | None = None,
    *,
    run: str | RunFolder | None = None,
    runs: Path = RUNS_FOLDER,
    callback: Callback = ignore,
    split: Splitter | None = None,
    parent: ParentRun | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> RunResult:
    """Trains a classifier on the photos in a folder and returns the run.

    Args:
        photos: A folder with one folder of photos a label, or ``train/ val/ test/`` of such.
        config: Settings; the defaults suit the machine and the collection.
        run: Name of the run, or a path, or an empty run folder; None: date, model and mode.
        runs: Folder of named runs.
        callback: Receives events; see `finetune.training.events`.
        split: Splits the collection instead of its own folders or the settings.
        parent: Finished run to start from, with a config from `warm_start.inherit`.
        metrics: Own metrics by name, each a function of logits ``(N, labels)`` and targets ``(N,)``
            of the validation photos; they are in `EpochDone.metrics` and ``log.jsonl``.

    Raises:
        FinetuneError: Photos, settings, weights, device or disk do not allow the training.

    Example:
        >>> from finetune import train
        >>> result = train("photos")  # doctest: +SKIP
        >>> result.headline["top1"]  # doctest: +SKIP
        0.97
    """
    started = datetime.datetime.now()
    with prepare(
        Path(photos),
        config,
        parent=parent,
        run=NewRun(run=run, runs=runs),
        callback=callback,
        overrides=Overrides(split=split, metrics=metrics or {}),
    ) as prepared:
        try:
            return execute(prepared, started)
        except StorageError as error:
            if isinstance(run, RunFolder) or not prepared.world.is_main:
                raise
            raise _keep_checkpoint(prepared.run, error) from error


def _keep_checkpoint(run: RunFolder, error: StorageError) -> StorageError:
    """Returns the error of a new run that could not be written; one without epochs is removed."""
    if not run.last_checkpoint.is_file():
        shutil.rmtree(run.path, ignore_errors=True)
        return error
    next_step = f"resume the training with: finetune train --resume {run.path}"
    return StorageError(str(error).replace("run the same command again", next_step))


def resume(
    run: Path | str,
    *,
    photos: Path | str | None = None,
    callback: Callback = ignore,
    split: Splitter | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> RunResult:
    """Resumes an interrupted run; the result is that of an uninterrupted training.

    Args:
        run: Folder of the run.
        photos: Where its photos are now, if they were moved.
        callback: As in `train`.
        split: As in `train`.
        metrics: As in `train`.

    Raises:
        RunError: The folder is no run, the run is finished, or its photos have changed.
    """
    started = datetime.datetime.now()
    overrides = Overrides(split=split, metrics=metrics or {})
    folder = open_run(Path(run))
    moved_to = None if photos is None else Path(photos)
    with prepare(moved_to, resume=folder, callback=callback, overrides=overrides) as prepared:
        return execute(prepared, started)


ALWAYS = (signal.SIGINT, signal.SIGTERM)

SIGNALS = (*ALWAYS, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""Signals that interrupt a training; a closed terminal sends SIGHUP, which Windows lacks."""


def discard_closed_output(files: Sequence[int] = (1, 2)) -> None:
    """Lets further output disappear where the terminal or the reader of a pipe is gone.

    Otherwise each message would raise an error, and end the training before it is saved.
    """
    if not hasattr(select, "poll"):
        return
    for file in files:
        poll = select.poll()
        poll.register(file, 0)
        try:
            gone = any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
        except OSError:
            continue
        if gone:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, file)
            os.close(null)


@contextmanager
def interruption(on_first: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether Ctrl-C, SIGTERM or SIGHUP was received.

    The first signal sets it and calls `on_first`; a second one raises KeyboardInterrupt. Outside
    the main thread, where Python receives no signals, it stays False.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return

    def handle(number: int, frame: FrameType | None) -> None:
        discard_closed_output()
        if received.is_set():
            raise KeyboardInterrupt
        received.set()
        on_first()

    before = {
        number: signal.signal(number, handle)
        for number in SIGNALS
        # nohup lets a program ignore SIGHUP; it must go on doing so.
        if number in ALWAYS or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield received.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Result of a training.

    Attributes:
        metrics: As in metrics.json, by part.
        best_epoch: From 1.
        seconds: Duration of the call.
        interrupted: Whether it stopped before the last epoch.
        logits: ``(N, labels)`` of the validation and test photos (or those of the folds), in the
            order of their paths.
    """

    run: RunFolder
    metrics: dict[str, Any]
    best_epoch: int
    seconds: float
    interrupted: bool
    logits: Mapping[str, NDArray[np.float32]]

    @property
    def headline(self) -> dict[str, Any]:
        """Metrics of the test photos; without any, of the folds or of the validation photos."""
        found: dict[str, Any] = self.metrics[headline_part(self.metrics)]
        return found


def execute(prepared: Prepared, started: datetime.datetime) -> RunResult:
    """Trains and writes the results; all processes return the same result."""
    if not prepared.world.is_main:
        _train_as_worker(prepared)
        result: RunResult = prepared.world.broadcast(None)
        return result
    run = prepared.run
    with run.held():
        _drop_unfinished_epochs(run)
        notes: list[str] = []
        output, metrics = _train_and_write(_collecting_notes(prepared, notes))
        if output.finished:
            keep_networks(run, from_head=output.from_head)
        seconds = (datetime.datetime.now() - started).total_seconds()
        description = run.read(run.config_file)
        description |= output.summary()
        description["notes"] = [*description.get("notes", []), *notes]
        description["seconds"] = round(description.get("seconds", 0.0) + seconds, 3)
        write_json(run.config_file, description)
        write_model_card(run)
    if output.finished:
        # A finished run has nothing to resume.
        shutil.rmtree(run.last_checkpoint.parent, ignore_errors=True)
    result = RunResult(
        run=run,
        metrics=metrics,
        best_epoch=output.position.best_epoch,
        seconds=seconds,
        interrupted=not output.finished,
        logits=output.logits,
    )
    prepared.world.broadcast(result)
    return result


def _collecting_notes(prepared: Prepared, texts: list[str]) -> Prepared:
    """Returns the training with a callback that also appends notes to `texts`."""

    def callback(event: Event) -> None:
        if isinstance(event, Note):
            texts.append(event.text)
        prepared.callback(event)

    return dataclasses.replace(prepared, callback=callback)


def _train_as_worker(prepared: Prepared) -> None:
    """Trains as a process other than the main one."""
    accelerator = make_accelerator(prepared.config.machine)
    devices = range(torch.cuda.device_count())
    with (
        cpu_threads(prepared.config.machine.threads),
        interruption(lambda: None) as stop,
        torch.random.fork_rng(devices=devices),
    ):
        torch.manual_seed(prepared.config.machine.seed + prepared.world.rank)
        if uses_cached_features(
            prepared.config, linear_head=has_linear_head(prepared.loaded.module)
        ):
            fill_features_only(prepared, accelerator)
        else:
            train_on_photos(prepared, accelerator, stop)


def _train_and_write(prepared: Prepared) -> tuple[TrainingOutput, dict[str, Any]]:
    """Trains and writes the results; returns the outcome and its metrics."""
    accelerator = make_accelerator(prepared.config.machine)
    warning = "Interrupted: finishing what is under way. Ctrl-C again ends at once."
    by_features = uses_cached_features(
        prepared.config, linear_head=has_linear_head(prepared.loaded.module)
    )
    train_on = train_on_features if by_features else train_on_photos
    with (
        cpu_threads(prepared.config.machine.threads),
        interruption(lambda: prepared.callback(Note(text=warning))) as stop,
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        tracked(prepared, accelerator.device, by_features=by_features) as logged,
    ):
        torch.manual_seed(prepared.config.machine.seed)
        output = train_on(logged, accelerator, stop)
        return output, write_results(
            prepared.run, prepared.loaded.name, prepared.data_split, output
        )


def keep_networks(run: RunFolder, *, from_head: bool) -> None:
    """Keeps the best epoch's network, and that of the head it started from, in the run."""
    kept = [(run.best_checkpoint, run.best_file)]
    if from_head:
        kept.append((run.start_checkpoint, run.head_file))
    for checkpoint, file in kept:
        if checkpoint.is_file():
            save_tensors(file, read_network(checkpoint), {})


def _drop_unfinished_epochs(run: RunFolder) -> None:
    """Removes epochs from the log that the checkpoint to resume from does not include."""
    if not run.log_file.is_file():
        return
    done = 0
    if run.last_checkpoint.is_file():
        done = read_position(run.last_checkpoint).epoch
    kept = [event for event in run.read_log() if event.get("epoch", 0) <= done]
    lines = [json.dumps(event, ensure_ascii=False) + "\n" for event in kept]
    write_text(run.log_file, "".join(lines))

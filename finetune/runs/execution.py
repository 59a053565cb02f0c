"""Carries a training out, and writes down what came of it."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.files import write_json, write_text
from finetune.models.heads import has_linear_head
from finetune.photos.collection import Part
from finetune.runs.defaults import on_features
from finetune.runs.folder import RunFolder
from finetune.runs.job import Job
from finetune.runs.model_card import write_model_card
from finetune.runs.on_features import help_with_features, train_on_features
from finetune.runs.on_photos import train_on_photos
from finetune.runs.outcome import Outcome
from finetune.runs.results import write_results
from finetune.runs.tracking import tracked
from finetune.training.events import Note
from finetune.training.interrupt import interruption
from finetune.training.machine import make_accelerator
from finetune.training.state import read_position


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a training came to.

    Attributes:
        run: The run's folder.
        metrics: As in metrics.json: one object a part.
        best_epoch: The epoch whose weights were kept, from 1.
        seconds: From the start of the call to its end.
        interrupted: Whether it was stopped before its last epoch.
        logits: ``(N, labels)`` of the validation and test photos, in the order of their paths.
    """

    run: RunFolder
    metrics: dict[str, Any]
    best_epoch: int
    seconds: float
    interrupted: bool
    logits: Mapping[Part, NDArray[np.float32]]


def execute(job: Job, started: datetime.datetime) -> RunResult:
    """Trains, writes what came of it in the main process, and tells the others."""
    if not job.team.is_main:
        _help(job)
        result: RunResult = job.team.agree(None)
        return result
    run = job.run
    with run.held():
        _forget_unfinished_epochs(run)
        outcome, metrics = _outcome(job)
        seconds = (datetime.datetime.now() - started).total_seconds()
        description = run.read(run.config_file)
        description |= outcome.summary()
        description["seconds"] = round(description.get("seconds", 0.0) + seconds, 3)
        write_json(run.config_file, description)
        write_model_card(run)
    if outcome.finished:
        # The best weights are the model now, and a finished run has nothing to resume.
        shutil.rmtree(run.last_checkpoint.parent, ignore_errors=True)
    result = RunResult(
        run=run,
        metrics=metrics,
        best_epoch=outcome.position.best_epoch,
        seconds=seconds,
        interrupted=not outcome.finished,
        logits=outcome.logits,
    )
    job.team.agree(result)
    return result


def _help(job: Job) -> None:
    """Does another process's part of what the main one does in `_outcome`."""
    accelerator = make_accelerator(job.config.machine)
    devices = range(torch.cuda.device_count())
    with interruption(lambda: None) as stop, torch.random.fork_rng(devices=devices):
        torch.manual_seed(job.config.machine.seed + job.team.rank)
        if on_features(job.config, linear_head=has_linear_head(job.loaded.module)):
            help_with_features(job, accelerator)
        else:
            train_on_photos(job, accelerator, stop)


def _outcome(job: Job) -> tuple[Outcome, dict[str, Any]]:
    """Trains and writes what came of it; returns that and its figures."""
    accelerator = make_accelerator(job.config.machine)
    warning = "Interrupted: finishing this step and saving. Ctrl-C again ends at once."
    by_features = on_features(job.config, linear_head=has_linear_head(job.loaded.module))
    train_on = train_on_features if by_features else train_on_photos
    with (
        interruption(lambda: job.listen(Note(text=warning))) as stop,
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        tracked(job, accelerator.device, by_features=by_features) as shown,
    ):
        torch.manual_seed(job.config.machine.seed)
        outcome = train_on(shown, accelerator, stop)
        return outcome, write_results(job.run, job.loaded.name, job.parts, outcome)


def _forget_unfinished_epochs(run: RunFolder) -> None:
    """Takes epochs off the log that the checkpoint to resume from has not seen the end of."""
    if not run.log_file.is_file():
        return
    done = 0
    if run.last_checkpoint.is_file():
        done = read_position(run.last_checkpoint).epoch
    kept = [event for event in run.read_log() if event.get("epoch", 0) <= done]
    lines = [json.dumps(event, ensure_ascii=False) + "\n" for event in kept]
    write_text(run.log_file, "".join(lines))

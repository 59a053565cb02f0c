"""Trains a classifier on a folder of photos, and resumes interrupted trainings."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

from finetune.config import TrainConfig
from finetune.runs.folder import RUNS_FOLDER, RunFolder, open_run
from finetune.training.events import Callback, ignore
from finetune.training.prepare import NewRun, Overrides, Splitter, prepare
from finetune.training.runner import RunResult, execute
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
        run: Name of the run, or a path, or a folder that is ready for it; None takes date, model
            and mode.
        runs: Where named runs go.
        callback: Receives events; see `finetune.training.events`.
        split: Splits the collection instead of its own folders or the settings.
        parent: A finished run to go on from, with a config that `warm_start.inherit` returns.
        metrics: Own figures by name, each a function of logits ``(N, labels)`` and targets ``(N,)``
            of the validation photos; they are in `EpochDone.metrics` and ``log.jsonl``.

    Raises:
        FinetuneError: Photos, settings, weights, device or disk do not allow it; says why.

    Example:
        >>> from finetune import train
        >>> result = train("photos")  # doctest: +SKIP
        >>> result.metrics["validation"]["top1"]  # doctest: +SKIP
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
        return execute(prepared, started)


def resume(
    run: Path | str,
    *,
    callback: Callback = ignore,
    split: Splitter | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> RunResult:
    """Resumes an interrupted run; the result is as if it had never stopped.

    Args:
        run: Its folder.
        callback: As for `train`.
        split: What `train` was given, if it was.
        metrics: Likewise.

    Raises:
        RunError: It is no run, it is finished, or its photos have changed.
    """
    started = datetime.datetime.now()
    overrides = Overrides(split=split, metrics=metrics or {})
    folder = open_run(Path(run))
    with prepare(None, resume=folder, callback=callback, overrides=overrides) as prepared:
        return execute(prepared, started)

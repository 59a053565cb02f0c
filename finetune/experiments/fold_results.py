"""What the folds of a cross-validation came to, each alone and all together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from finetune.errors import RunError
from finetune.evaluation.confusion import confusion_matrix, write_confusion_csv
from finetune.evaluation.intervals import Interval, mean_interval
from finetune.evaluation.predictions import (
    EvaluatedPhoto,
    Prediction,
    read_predictions,
    write_predictions,
)
from finetune.files import write_json
from finetune.photos.labels import label_index
from finetune.photos.split.split import SplitRow, read_split
from finetune.runs.folder import RunFolder
from finetune.tasks.task import MultiLabel, SingleLabel, Task, main_score, task_of
from finetune.training.checkpoints import save_tensors

PART = "folds"
"""Name in metrics.json and predictions.csv of the photos that were held out in some fold."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One fold.

    Attributes:
        number: From 1.
        photos: How many were held out.
        score: Share of right answers to them; of several labels a photo, mean average precision.
        balanced_accuracy: Mean recall over labels; None of several labels a photo.
        log_loss: In nats.
        best_epoch: Chosen on a share of the other folds.
        seconds: Of its training, evaluation included.
    """

    number: int
    photos: int
    score: float
    balanced_accuracy: float | None
    log_loss: float | None
    best_epoch: int
    seconds: float

    @property
    def multi_label(self) -> bool:
        """Whether a photo may have several labels."""
        return self.balanced_accuracy is None


@dataclass(frozen=True, kw_only=True)
class FoldFigures:
    """The folds' scores in three numbers.

    Attributes:
        mean: Of the folds' scores, each fold counting the same.
        spread: Standard deviation (``K - 1``).
        interval: Student's t interval of `mean`, 95 %.
    """

    mean: float
    spread: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """All held-out photos together.

    Attributes:
        labels: In class order.
        logits: ``(N, C) float32`` by networks that did not see the photo.
        targets: ``(N,) int64``, or ``(N, C) float32`` of several labels a photo.
        metrics: With each fold's own calibration, fitted without the photos it is judged by.
        predictions: The same photo by photo.
    """

    labels: tuple[str, ...]
    logits: NDArray[np.float32]
    targets: NDArray[Any]
    metrics: Mapping[str, Any]
    predictions: tuple[Prediction, ...]


def keep_held_out(run: RunFolder, logits: NDArray[np.float32]) -> None:
    """Keeps a fold's logits of its held-out photos; with this file a fold counts as done."""
    save_tensors(_logits_file(run), {"logits": torch.from_numpy(np.ascontiguousarray(logits))}, {})


def has_held_out(run: RunFolder) -> bool:
    """Returns whether a fold is done."""
    return _logits_file(run).is_file()


def fold_of_run(run: RunFolder, number: int) -> Fold:
    """Returns the figures of a fold that is done."""
    metrics = run.read(run.metrics_file)["test"]
    description = run.read(run.config_file)
    return Fold(
        number=number,
        photos=metrics["photos"],
        score=main_score(metrics) or 0.0,
        balanced_accuracy=metrics.get("balanced_accuracy"),
        log_loss=metrics.get("log_loss"),
        best_epoch=description["best_epoch"],
        seconds=description["seconds"],
    )


def fold_figures(folds: Sequence[Fold]) -> FoldFigures:
    """Returns mean, spread and interval of two folds or more."""
    scores = [fold.score for fold in folds]
    mean = statistics.fmean(scores)
    return FoldFigures(
        mean=mean,
        spread=statistics.stdev(scores),
        interval=mean_interval(scores) or (mean, mean),
    )


def pool(runs: Sequence[RunFolder]) -> Pooled:
    """Returns all held-out photos of folds that are done, in the order of their paths.

    Raises:
        RunError: The record of a fold is damaged.
    """
    labels = tuple(runs[0].read(runs[0].labels_file))
    found = [_held_out(run, labels) for run in runs]
    predictions = [row for fold in found for row in fold.predictions(labels)]
    order = np.argsort([row.path for row in predictions], kind="stable")
    logits = np.concatenate([fold.logits for fold in found])[order]
    calibrated = np.concatenate([fold.logits / fold.task.temperature for fold in found])[order]
    targets = np.concatenate([fold.targets for fold in found])[order]
    task = _pooled_task([fold.task for fold in found])
    metrics = task.metrics(calibrated, targets, labels)
    if "uncalibrated" in metrics:
        # Of the logits as they were before each fold's own temperature.
        metrics["uncalibrated"] = task.metrics(logits, targets, labels)["uncalibrated"]
    return Pooled(
        labels=labels,
        logits=logits,
        targets=targets,
        metrics=metrics,
        predictions=tuple(predictions[i] for i in order),
    )


def write_pooled(folder: RunFolder, pooled: Pooled) -> None:
    """Writes predictions, metrics and confusion matrix of all held-out photos."""
    write_predictions(folder.predictions_file, pooled.predictions)
    write_json(folder.metrics_file, {PART: pooled.metrics})
    _write_confusion(folder, pooled)


def write_final(folder: RunFolder, pooled: Pooled, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the final network the folds' figures beside its own, and returns its metrics.

    Its validation photos have chosen its epoch; the folds' photos had no say in anything, so that
    theirs are the figures that count. The confusion matrix is theirs, too.
    """
    own = folder.read(folder.metrics_file)
    rows = [row for row in read_predictions(folder.predictions_file) if row.part != PART]
    metrics: dict[str, Any] = own | {PART: pooled.metrics}
    write_predictions(folder.predictions_file, [*rows, *pooled.predictions])
    write_json(folder.metrics_file, metrics)
    _write_confusion(folder, pooled)
    write_json(folder.config_file, folder.read(folder.config_file) | {PART: figures})
    return metrics


@dataclass(frozen=True, kw_only=True)
class _HeldOut:
    rows: tuple[SplitRow, ...]
    logits: NDArray[np.float32]
    targets: NDArray[Any]
    task: Task

    def predictions(self, labels: Sequence[str]) -> list[Prediction]:
        photos = [EvaluatedPhoto(path=r.path, digest=r.digest, part=PART) for r in self.rows]
        return self.task.predictions(photos, self.logits, self.targets, labels)


def _held_out(run: RunFolder, labels: tuple[str, ...]) -> _HeldOut:
    rows = tuple(row for row in read_split(run.split_file) if row.part == "test")
    rows = tuple(sorted(rows, key=lambda row: row.path))
    try:
        logits = load_file(_logits_file(run))["logits"]
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"{_logits_file(run)} is damaged: {error}.") from error
    if logits.shape != (len(rows), len(labels)):
        raise RunError(f"{_logits_file(run)} does not fit {run.split_file}.")
    task = task_of(run.read(run.calibration_file), labels)
    return _HeldOut(rows=rows, logits=logits, targets=_targets(rows, labels, task), task=task)


def _targets(rows: Sequence[SplitRow], labels: Sequence[str], task: Task) -> NDArray[Any]:
    index = label_index(labels)
    if not task.multi_label:
        return np.array([index[row.labels[0]] for row in rows], dtype=np.int64)
    positive = np.zeros((len(rows), len(labels)), dtype=np.float32)
    for number, row in enumerate(rows):
        positive[number, [index[label] for label in row.labels]] = 1
    return positive


def _pooled_task(tasks: Sequence[Task]) -> Task:
    """Returns what judges logits that each fold's temperature has divided already."""
    several = [task for task in tasks if isinstance(task, MultiLabel)]
    if not several:
        return SingleLabel()
    # A label needs one threshold for all: the one in the middle of the folds'.
    limits = np.median([task.thresholds for task in several if task.thresholds], axis=0)
    return MultiLabel(thresholds=tuple(float(limit) for limit in limits))


def _write_confusion(folder: RunFolder, pooled: Pooled) -> None:
    if pooled.targets.ndim > 1:
        return
    matrix = confusion_matrix(pooled.targets, pooled.logits.argmax(1), len(pooled.labels))
    write_confusion_csv(folder.confusion_file, matrix, pooled.labels)


def _logits_file(run: RunFolder) -> Path:
    return run.path / "held_out.safetensors"

"""Results of a cross-validation: each fold's metrics, and those of all held-out photos together."""

from __future__ import annotations

import dataclasses
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

from finetune.data.samples import Sample, targets_of_samples
from finetune.errors import RunError
from finetune.evaluation.confusion import write_confusion_csv
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
from finetune.tasks.base import Task
from finetune.tasks.factory import main_score, task_of, task_of_metrics
from finetune.tasks.multi_label import MultiLabel
from finetune.tasks.single_label import SingleLabel
from finetune.training.checkpoints import save_tensors

PART = "folds"
"""Name of the pooled held-out photos in metrics.json and predictions.csv."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Result of one fold.

    Attributes:
        number: From 1.
        best_epoch: Selected on a share of the other folds.
    """

    number: int
    metrics: Mapping[str, Any]
    best_epoch: int
    seconds: float

    @property
    def photos(self) -> int:
        """Number of held-out photos."""
        return int(self.metrics["photos"])

    @property
    def score(self) -> float:
        """Top-1 accuracy, or mean average precision of several labels a photo."""
        return main_score(self.metrics) or 0.0

    @property
    def task(self) -> Task:
        """Uncalibrated task of the metrics."""
        return task_of_metrics(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """Returns the headline metrics as JSON values."""
        return {
            "number": self.number,
            "photos": self.photos,
            "score": self.score,
            "balanced_accuracy": self.metrics.get("balanced_accuracy"),
            "log_loss": self.metrics.get("log_loss"),
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class FoldStatistics:
    """Statistics of the folds' scores.

    Attributes:
        mean: Mean score, every fold with the same weight.
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
        logits: ``(N, C) float32`` of models that did not see the photo.
        targets: ``(N,) int64``, or ``(N, C) float32`` of several labels a photo.
        metrics: With each fold's own calibration, which its held-out photos had no part in.
        predictions: One per photo.
    """

    labels: tuple[str, ...]
    logits: NDArray[np.float32]
    targets: NDArray[Any]
    metrics: Mapping[str, Any]
    predictions: tuple[Prediction, ...]


def save_held_out(run: RunFolder, logits: NDArray[np.float32]) -> None:
    """Writes a fold's logits of its held-out photos; the file marks the fold as finished."""
    save_tensors(_logits_file(run), {"logits": torch.from_numpy(np.ascontiguousarray(logits))}, {})


def has_held_out(run: RunFolder) -> bool:
    """Returns whether a fold has finished."""
    return _logits_file(run).is_file()


def fold_of_run(run: RunFolder, number: int) -> Fold:
    """Returns the result of a finished fold."""
    description = run.read(run.config_file)
    return Fold(
        number=number,
        metrics=run.read(run.metrics_file)["test"],
        best_epoch=description["best_epoch"],
        seconds=description["seconds"],
    )


def fold_statistics(folds: Sequence[Fold]) -> FoldStatistics:
    """Returns the statistics of two folds or more."""
    scores = [fold.score for fold in folds]
    mean = statistics.fmean(scores)
    return FoldStatistics(
        mean=mean,
        spread=statistics.stdev(scores),
        interval=mean_interval(scores) or (mean, mean),
    )


def pool(runs: Sequence[RunFolder]) -> Pooled:
    """Returns the held-out photos of finished folds, sorted by path.

    Raises:
        RunError: The files of a fold are damaged.
    """
    labels = tuple(runs[0].read(runs[0].labels_file))
    found = [_read_held_out(run, labels) for run in runs]
    predictions = [row for fold in found for row in fold.predictions(labels)]
    order = np.argsort([row.path for row in predictions], kind="stable")
    logits = np.concatenate([fold.logits for fold in found])[order]
    calibrated = np.concatenate([fold.logits / fold.task.temperature for fold in found])[order]
    targets = np.concatenate([fold.targets for fold in found])[order]
    task = _pooled_task([fold.task for fold in found])
    metrics = task.metrics(calibrated, targets, labels)
    if "uncalibrated" in metrics:
        # Of the logits before each fold's own temperature.
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
    matrix = task_of_metrics(pooled.metrics).confusion(pooled.logits, pooled.targets)
    if matrix is not None:
        write_confusion_csv(folder.confusion_file, matrix, pooled.labels)


def write_final(folder: RunFolder, pooled: Pooled, folds: Sequence[Fold]) -> dict[str, Any]:
    """Adds the results of the folds to the final model's run and returns its metrics.

    The final model's validation photos selected its epoch; the held-out photos selected nothing,
    so the confusion matrix is theirs.
    """
    rows = [row for row in read_predictions(folder.predictions_file) if row.part != PART]
    metrics: dict[str, Any] = folder.read(folder.metrics_file) | {PART: pooled.metrics}
    write_predictions(folder.predictions_file, [*rows, *pooled.predictions])
    write_json(folder.metrics_file, metrics)
    matrix = task_of_metrics(pooled.metrics).confusion(pooled.logits, pooled.targets)
    if matrix is not None:
        write_confusion_csv(folder.confusion_file, matrix, pooled.labels)
    summary = {
        "count": len(folds),
        "scores": [fold.score for fold in folds],
        **dataclasses.asdict(fold_statistics(folds)),
    }
    write_json(folder.config_file, folder.read(folder.config_file) | {PART: summary})
    return metrics


@dataclass(frozen=True, kw_only=True)
class _HeldOut:
    """Held-out photos of one fold, sorted by path."""

    rows: tuple[SplitRow, ...]
    logits: NDArray[np.float32]
    targets: NDArray[Any]
    task: Task

    def predictions(self, labels: Sequence[str]) -> list[Prediction]:
        photos = [EvaluatedPhoto(path=r.path, digest=r.digest, part=PART) for r in self.rows]
        return self.task.predictions(photos, self.logits, self.targets, labels)


def _read_held_out(run: RunFolder, labels: tuple[str, ...]) -> _HeldOut:
    rows = tuple(row for row in read_split(run.split_file) if row.part == "test")
    rows = tuple(sorted(rows, key=lambda row: row.path))
    try:
        logits = load_file(_logits_file(run))["logits"]
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"{_logits_file(run)} is damaged: {error}.") from error
    if logits.shape != (len(rows), len(labels)):
        raise RunError(f"{_logits_file(run)} does not match {run.split_file}.")
    task = task_of(run.read(run.calibration_file), labels)
    return _HeldOut(rows=rows, logits=logits, targets=_targets(rows, labels, task), task=task)


def _targets(rows: Sequence[SplitRow], labels: Sequence[str], task: Task) -> NDArray[Any]:
    index = label_index(labels)
    samples = [
        Sample(
            path=row.path,
            digest=row.digest,
            crop=None,
            target=task.target(tuple(index[label] for label in row.labels)),
        )
        for row in rows
    ]
    return targets_of_samples(samples, task.target_width(labels))


def _pooled_task(tasks: Sequence[Task]) -> Task:
    """Returns the task for logits that each fold's temperature has divided already."""
    several = [task for task in tasks if isinstance(task, MultiLabel)]
    if not several:
        return SingleLabel()
    # A label needs one threshold for all folds: the median of theirs.
    limits = np.median([task.thresholds for task in several if task.thresholds], axis=0)
    return MultiLabel(thresholds=tuple(float(limit) for limit in limits))


def _logits_file(run: RunFolder) -> Path:
    return run.path / "held_out.safetensors"

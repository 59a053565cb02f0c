"""Results of a training: model, calibration, metrics and predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from finetune.errors import RunError
from finetune.evaluation.cross_fit import (
    CrossFit,
    HeldOutLogits,
    fit_detector,
    fit_precision,
)
from finetune.evaluation.feature_distance import FeatureDistance
from finetune.evaluation.hierarchy import Hierarchy, fit_hierarchy
from finetune.evaluation.intervals import cross_validated_interval
from finetune.evaluation.learning_curve import LearningCurve
from finetune.evaluation.probabilities import check
from finetune.files import storage_errors, write_json
from finetune.models.pair import pair_parts
from finetune.photos.preprocessing import Preprocessing
from finetune.runs.calibration import RunCalibration, write_distance
from finetune.runs.evaluate import write_evaluated
from finetune.runs.folder import RunFolder
from finetune.runs.timm_config import timm_config
from finetune.tasks.base import Task
from finetune.tasks.data_split import FOLDS_PART, DataSplit
from finetune.training.checkpoints import Position, save_tensors
from finetune.training.device import peak_memory
from finetune.training.linear_probe.heads import Shrinkage, Strength


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out logits and feature distance for the calibration.

    Attributes:
        outputs: Cross-fit logits of held-out photos and labels.
        distance: Distance of features from those of the training photos, or None.
        part: Name of the photos.
    """

    outputs: CrossFit
    distance: FeatureDistance | None
    part: str = "held-out"


@dataclass(frozen=True, kw_only=True)
class TrainingOutput:
    """Result of a training.

    Attributes:
        module: The network with its best weights, in eval mode and fp32.
        logits: ``(N, labels)`` of the validation and test photos, in their order.
        held_out: Outputs of heads trained without some photos and labels, if any.
        strength: Strength of a head that was fitted on cached features, or None.
        share: Weight interpolation factor between start (0) and best epoch (1), or None.
        left_out: Paths of held-out photos without logits: they vanished or changed.
        curve: Learning curve of a head on cached features, or None.
        from_head: Whether the full network started from a head on the frozen backbone.
    """

    module: nn.Module
    logits: dict[str, NDArray[np.float32]]
    position: Position
    finished: bool
    held_out: HeldOut | None = None
    strength: Strength | None = None
    share: float | None = None
    from_head: bool = False
    left_out: frozenset[str] = frozenset()
    curve: LearningCurve | None = None

    def summary(self) -> dict[str, Any]:
        """Returns its entries in config.json."""
        return {
            "finished": self.finished,
            "best_epoch": self.position.best_epoch,
            "epochs_done": self.position.epoch,
            "training_seconds": round(self.position.seconds, 3),
            "peak_memory_bytes": peak_memory(),
            **({} if self.strength is None else _strength_entry(self.strength)),
            **({} if self.share is None else {"share_of_training": self.share}),
        }


def _strength_entry(strength: Strength) -> dict[str, float]:
    """Returns the entry of config.json for the strength of a head."""
    if isinstance(strength, Shrinkage):
        return {"lda_shrinkage": strength.value}
    return {"l2_strength": strength}


def write_results(
    run: RunFolder, name: str, parts: DataSplit, output: TrainingOutput
) -> dict[str, Any]:
    """Writes model, calibration, predictions, confusion matrix and metrics; returns the metrics.

    Temperature and thresholds are fitted on cross-fit logits, if any (see
    `finetune.training.linear_probe.held_out`), else on the validation part; never on the test part.

    Raises:
        RunError: The training diverged: some logits are not finite.
        StorageError: A file could not be written.
    """
    for part, logits in output.logits.items():
        if not np.isfinite(logits).all():
            raise RunError(
                f"{run.path}: the training diverged (its outputs on {part} are not finite). "
                "Start again with a lower --lr."
            )
    parts = parts.without(output.left_out)
    save_tensors(run.model_file, output.module.state_dict(), {})
    _write_timm_folder(run, name, output.module, parts.labels)
    held_out = output.held_out
    part = "validation" if parts.folds is None else FOLDS_PART
    logits, true = output.logits[part], parts.targets(part)
    if held_out is None:
        task = parts.task.calibrated(logits, true)
        fitted_on, photos = part, len(logits)
        if task.detects_unknown:
            values, indices = check(logits, true)
            known = HeldOutLogits(logits=values, targets=indices, groups=parts.groups(part))
            held_out = HeldOut(outputs=CrossFit(known=known), distance=None)
    else:
        known = held_out.outputs.known
        task = parts.task.calibrated(known.logits, known.targets)
        fitted_on, photos = held_out.part, len(known.targets)
    content = {**task.to_dict(parts.labels), "fitted_on": fitted_on, "photos": photos}
    statuses = _statuses(run, task, held_out)
    hierarchy = _hierarchy(parts, statuses, held_out)
    write_json(
        run.calibration_file,
        {
            **content,
            "unknown": statuses.unknown.to_dict() if statuses.unknown else None,
            "sure": statuses.sure.to_dict() if statuses.sure else None,
            **({"hierarchy": hierarchy.to_dict()} if hierarchy else {}),
        },
    )
    calibration = dataclasses.replace(statuses, hierarchy=hierarchy)
    metrics = write_evaluated(run.path, calibration, parts.labels, parts.evaluated, output.logits)
    if parts.folds is not None:
        metrics[FOLDS_PART] = {"part": "cross-validated", **metrics[FOLDS_PART]}
        metrics[FOLDS_PART]["top1_interval"] = cross_validated_interval(
            int((logits.argmax(1) == true).sum()), len(true), folds=int(parts.folds.max()) + 1
        )
    if output.curve is not None:
        write_json(run.curve_file, output.curve.to_dict())
    write_json(run.metrics_file, metrics)
    return metrics


def _statuses(run: RunFolder, task: Task, held_out: HeldOut | None) -> RunCalibration:
    """Returns the calibration of sure and unknown photos; writes the distance."""
    if held_out is None:
        return RunCalibration(task=task, unknown=None, sure=None)
    detector = fit_detector(
        held_out.outputs, temperature=task.temperature, distance=held_out.distance
    )
    if held_out.distance is not None:
        write_distance(run, held_out.distance)
    curve = fit_precision(held_out.outputs.known, temperature=task.temperature, detector=detector)
    return RunCalibration(task=task, unknown=detector, sure=curve)


def _hierarchy(
    parts: DataSplit, calibration: RunCalibration, held_out: HeldOut | None
) -> Hierarchy | None:
    """Returns the tree of the labels with the precision of its levels, or None without one."""
    taxonomy, detector = parts.taxonomy(), calibration.unknown
    if taxonomy is None or held_out is None or detector is None or calibration.sure is None:
        return None
    known, task = held_out.outputs.known, calibration.task
    scores = detector.scores(known.logits, known.distances, temperature=task.temperature)
    return fit_hierarchy(
        taxonomy,
        task.probabilities(known.logits),
        known.targets,
        known.groups,
        labels=calibration.sure,
        unknown=detector.is_unknown(scores),
    )


def _write_timm_folder(run: RunFolder, name: str, module: Any, labels: tuple[str, ...]) -> None:
    """Writes a folder that timm can load: its config.json and the model file.

    timm alone has no pairs of networks.
    """
    if pair_parts(name):
        return
    preprocessing = Preprocessing.from_dict(run.read(run.preprocessing_file))
    content = timm_config(module, name, labels, preprocessing)
    write_json(run.timm_folder / "config.json", content)
    link_or_copy(run.model_file, run.timm_folder / run.model_file.name)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system has no hard links."""
    with storage_errors(target):
        target.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
        shutil.copyfile(source, target)

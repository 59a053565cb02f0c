"""Calibration of a run: its task, detector of unknown photos and precision curve; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from finetune.errors import RunError
from finetune.evaluation.feature_distance import FeatureDistance
from finetune.evaluation.hierarchy import Hierarchy
from finetune.evaluation.out_of_distribution import UnknownDetector
from finetune.evaluation.precision_curve import PrecisionCurve
from finetune.files import write_atomically
from finetune.runs.folder import RunFolder
from finetune.runs.validation import check_distance
from finetune.tasks.base import Task
from finetune.tasks.factory import task_of


@dataclass(frozen=True, kw_only=True)
class RunCalibration:
    """Content of calibration.json.

    Attributes:
        task: With temperature and thresholds.
        unknown: Detector of unknown photos, or None.
        sure: Precision by probability, or None.
        hierarchy: Tree of the labels, or None where they have none.
    """

    task: Task
    unknown: UnknownDetector | None
    sure: PrecisionCurve | None
    hierarchy: Hierarchy | None = None


def write_distance(run: RunFolder, distance: FeatureDistance) -> None:
    """Writes the distance of the detector; raises StorageError."""
    content = save(dict(distance.to_tensors()))
    write_atomically(run.distance_file, lambda file: file.write(content))


def read_calibration(run: RunFolder, labels: Sequence[str]) -> RunCalibration:
    """Returns the calibration of a run.

    Raises:
        RunError: calibration.json or the distance is missing or damaged.
    """
    content = run.read(run.calibration_file)
    try:
        task = task_of(content, labels)
    except KeyError as error:
        raise RunError(
            f"{run.calibration_file} has no threshold for the label {error} of "
            f"{run.labels_file.name}. Copy the complete run folder again."
        ) from error
    sure = PrecisionCurve.from_dict(content["sure"]) if content.get("sure") else None
    hierarchy = hierarchy_of(run, content, labels)
    unknown = content.get("unknown")
    if not unknown:
        return RunCalibration(task=task, unknown=None, sure=sure, hierarchy=hierarchy)
    distance = None
    if unknown["score"] == "odds_and_distance":
        try:
            distance = FeatureDistance.from_tensors(load_file(run.distance_file))
            check_distance(distance.to_tensors(), len(labels))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise RunError(
                f"{run.distance_file} is missing or damaged, and {run.path} needs it to detect "
                f"unknown photos ({error}). Copy the complete run folder again."
            ) from error
    return RunCalibration(
        task=task,
        unknown=UnknownDetector.from_dict(unknown, distance),
        sure=sure,
        hierarchy=hierarchy,
    )


def hierarchy_of(
    run: RunFolder, content: Mapping[str, Any], labels: Sequence[str]
) -> Hierarchy | None:
    """Returns the tree of labels in the content of calibration.json, or None.

    Raises:
        RunError: It is a tree of other labels.
    """
    if not content.get("hierarchy"):
        return None
    try:
        return Hierarchy.from_dict(content["hierarchy"], labels)
    except ValueError as error:
        raise RunError(
            f"{run.calibration_file}: {error}. Copy the complete run folder again."
        ) from error

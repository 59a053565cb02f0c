"""Detector of unknown photos and precision curve of a run, read and written without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from finetune.errors import RunError
from finetune.evaluation.feature_distance import FeatureDistance
from finetune.evaluation.out_of_distribution import UnknownDetector
from finetune.files import write_atomically
from finetune.runs.folder import RunFolder


def write_distance(run: RunFolder, distance: FeatureDistance) -> None:
    """Writes the distance; raises StorageError."""
    content = save(dict(distance.to_tensors()))
    write_atomically(run.distance_file, lambda file: file.write(content))


def read_unknown(run: RunFolder, calibration: Mapping[str, Any]) -> UnknownDetector | None:
    """Returns the detector of unknown photos of a run, or None.

    Raises:
        RunError: The distance is missing or damaged.
    """
    content = calibration.get("unknown")
    if not content:
        return None
    distance = None
    if content.get("mixture"):
        try:
            distance = FeatureDistance.from_tensors(load_file(run.distance_file))
        except (SafetensorError, OSError, KeyError) as error:
            raise RunError(
                f"{run.distance_file} is missing or damaged, and {run.path} needs it to detect "
                "unknown photos. Copy the complete run folder again."
            ) from error
    return UnknownDetector.from_dict(dict(content), distance)

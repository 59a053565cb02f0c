"""Engine protocol of trained networks, and their metadata (imports no torch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.feature_distance import FeatureDistance
from finetune.evaluation.hierarchy import Hierarchy
from finetune.evaluation.out_of_distribution import UnknownDetector
from finetune.evaluation.precision_curve import PrecisionCurve
from finetune.photos.preprocessing import Preprocessing
from finetune.runs.calibration import read_calibration
from finetune.runs.folder import RunFolder
from finetune.runs.validation import check
from finetune.tasks.base import Task
from finetune.tasks.factory import task_of
from finetune.tasks.single_label import SingleLabel

VERSION = 1
"""Version of the JSON of `ModelMetadata.to_dict` in exported files."""

PredictProba = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""Function from images ``(B, S, S, 3) uint8`` to calibrated probabilities ``(B, labels)``."""


class Engine(Protocol):
    """Network that predicts from any number of threads."""

    @property
    def metadata(self) -> ModelMetadata:
        """Labels, preprocessing and calibration."""
        ...

    @property
    def run(self) -> RunFolder | None:
        """The run it was opened from; None for an exported file."""
        ...

    @property
    def cores(self) -> int | None:
        """Batches computed at once by the engine of `per_thread`; None: on a GPU, one."""
        ...

    def per_thread(self) -> AbstractContextManager[Engine]:
        """Yields an engine of the same network for `cores` concurrent threads.

        Each batch is computed on the calling thread alone.
        """
        ...

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits ``(B, labels)`` of the center of images ``(B, S, S, 3) uint8``.

        S is the working size, or any size from the network's input size on.
        """
        ...

    def logits_and_features(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns logits, and features ``(B, F)``: the input of the linear head.

        Only for networks whose detector of unknown photos needs features.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """Labels, preprocessing and calibration of a trained network.

    Attributes:
        name: The run's name.
        model: timm's name of the architecture.
        labels: In class order.
        task: Calibrated task of its logits.
        unknown: Detector of unknown photos, or None where none was fitted.
        sure: Precision by probability; None where it was not measured.
        hierarchy: Tree of the labels, or None where they have none.
        crop_policy: Of `curation.crop_policy`; None: photos are cropped as in `preprocessing`.
    """

    name: str
    model: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    task: Task = SingleLabel()
    unknown: UnknownDetector | None = None
    sure: PrecisionCurve | None = None
    hierarchy: Hierarchy | None = None
    crop_policy: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; `from_dict` is its inverse."""
        return {
            "version": VERSION,
            "name": self.name,
            "model": self.model,
            "labels": list(self.labels),
            "preprocessing": self.preprocessing.to_dict() | {"crop_policy": self.crop_policy},
            **self.task.to_dict(self.labels),
            "unknown": self.unknown.to_dict() if self.unknown else None,
            "sure": self.sure.to_dict() if self.sure else None,
            "hierarchy": self.hierarchy.to_dict() if self.hierarchy else None,
        }

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], distance: FeatureDistance | None = None
    ) -> ModelMetadata:
        """Returns the metadata in a JSON object; raises KeyError, TypeError or ValueError.

        Args:
            content: As returned by `to_dict`.
            distance: Of the detector; stored apart, since it is large.
        """
        check("labels.json", content["labels"])
        check("preprocessing.json", content["preprocessing"])
        check("calibration.json", content)
        unknown, sure, tree = (content.get(key) for key in ("unknown", "sure", "hierarchy"))
        labels = tuple(content["labels"])
        return cls(
            name=str(content["name"]),
            model=str(content["model"]),
            labels=labels,
            preprocessing=Preprocessing.from_dict(content["preprocessing"]),
            task=task_of(content, labels),
            unknown=UnknownDetector.from_dict(unknown, distance) if unknown else None,
            sure=PrecisionCurve.from_dict(sure) if sure else None,
            hierarchy=Hierarchy.from_dict(tree, labels) if tree else None,
            crop_policy=content["preprocessing"].get("crop_policy"),
        )

    @classmethod
    def of_run(cls, run: RunFolder) -> ModelMetadata:
        """Returns the metadata of a run.

        Raises:
            RunError: A file of it is missing or damaged.
        """
        labels = tuple(run.read(run.labels_file))
        preprocessing = run.read(run.preprocessing_file)
        calibration = read_calibration(run, labels)
        return cls(
            name=run.name,
            model=run.read(run.config_file)["model"],
            labels=labels,
            preprocessing=Preprocessing.from_dict(preprocessing),
            task=calibration.task,
            unknown=calibration.unknown,
            sure=calibration.sure,
            hierarchy=calibration.hierarchy,
            crop_policy=preprocessing.get("crop_policy"),
        )

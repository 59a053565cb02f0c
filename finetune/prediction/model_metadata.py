"""What must be known of a network, beside its tensors, to ask it about photos. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.errors import RunError
from finetune.evaluation.mahalanobis import RelativeDistance
from finetune.evaluation.out_of_distribution import UnknownThreshold
from finetune.photos.preprocessing import Preprocessing
from finetune.runs.folder import RunFolder
from finetune.runs.unknown_threshold import read_unknown
from finetune.tasks.task import SingleLabel, Task, task_of

VERSION = 1
"""Of the JSON object that `ModelMetadata.to_dict` gives and exported files carry."""


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """Labels, pixels and calibration of a trained network.

    Attributes:
        name: The run's name.
        model: timm's name of the architecture.
        labels: In class order.
        preprocessing: What the network expects of its pixels.
        task: What its logits mean, calibrated.
        unknown: When to say "none of these", or None where nothing was fitted.
        crop_policy: How a photo's square is chosen, for `curation.policy`; None: by the spec's fit.
    """

    name: str
    model: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    task: Task = SingleLabel()
    unknown: UnknownThreshold | None = None
    crop_policy: Mapping[str, Any] | None = None

    @property
    def temperature(self) -> float:
        """What divides the logits before they become probabilities."""
        return self.task.temperature

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; `from_dict` is its inverse."""
        return {
            "version": VERSION,
            "name": self.name,
            "model": self.model,
            "labels": list(self.labels),
            "preprocessing": self.preprocessing.to_dict() | {"crop_policy": self.crop_policy},
            **self.task.to_dict(self.labels),
            "unknown": self.unknown.to_dict() if self.unknown else None,
        }

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], distance: RelativeDistance | None = None
    ) -> ModelMetadata:
        """Returns the facts in a JSON object; KeyError, TypeError, ValueError where it is none.

        Args:
            content: What `to_dict` gave.
            distance: Of the threshold for unknown photos; no part of the object, as it is large.
        """
        unknown = content.get("unknown")
        labels = tuple(str(label) for label in content["labels"])
        return cls(
            name=str(content["name"]),
            model=str(content["model"]),
            labels=labels,
            preprocessing=Preprocessing.from_dict(content["preprocessing"]),
            task=task_of(content, labels),
            unknown=UnknownThreshold.from_dict(unknown, distance) if unknown else None,
            crop_policy=content["preprocessing"].get("crop_policy"),
        )

    @classmethod
    def of_run(cls, run: RunFolder) -> ModelMetadata:
        """Returns the facts of a run.

        Raises:
            RunError: A file of it is missing or damaged.
        """
        calibration = run.read(run.calibration_file)
        unknown = read_unknown(run, calibration)
        try:
            return cls.from_dict(
                {
                    **calibration,
                    "name": run.name,
                    "model": run.read(run.config_file)["model"],
                    "labels": run.read(run.labels_file),
                    "preprocessing": run.read(run.preprocessing_file),
                },
                unknown.distance if unknown else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{run.path} is damaged: a file of it lacks {error}.") from error

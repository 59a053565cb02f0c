"""Networks of finished runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from finetune.errors import RunError
from finetune.evaluation.hierarchy import Hierarchy
from finetune.evaluation.out_of_distribution import UnknownDetector
from finetune.evaluation.precision_curve import PrecisionCurve
from finetune.models.factory import rebuild
from finetune.photos.preprocessing import Preprocessing
from finetune.runs.calibration import RunCalibration, read_calibration
from finetune.runs.folder import RunFolder
from finetune.tasks.base import Task
from finetune.tasks.single_label import SingleLabel


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """Opened run.

    Attributes:
        module: Its network, in eval mode and fp32, on its device.
        labels: In the order of its outputs.
        unknown: Detector of unknown photos, or None.
        sure: Precision by probability; None where it was not measured.
        hierarchy: Tree of the labels, or None where they have none.
    """

    folder: RunFolder
    module: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    temperature: float
    unknown: UnknownDetector | None
    sure: PrecisionCurve | None
    description: dict[str, Any]
    task: Task = SingleLabel()
    hierarchy: Hierarchy | None = None

    @property
    def calibration(self) -> RunCalibration:
        """Task, detector, and precision of its predictions."""
        return RunCalibration(
            task=self.task, unknown=self.unknown, sure=self.sure, hierarchy=self.hierarchy
        )


def load_network(
    folder: RunFolder,
    model: str,
    labels: int,
    preprocessing: Preprocessing,
    *,
    device: str | torch.device,
    weights: Path | None = None,
) -> nn.Module:
    """Returns a run's network from its tensors, in eval mode and fp32, on a device.

    `weights` are another file of the run than that of its model.

    Raises:
        RunError: The run has no model yet, or a damaged one.
        ModelError: Its weights do not fit its architecture.
    """
    file = weights or folder.model_file
    if not file.is_file():
        raise RunError(
            f"{folder.path} has no {file.name} yet. "
            f"If its training was interrupted: finetune train --resume {folder.path}"
        )
    try:
        module = rebuild(model, labels, preprocessing.size, file, model_args(folder))
    except (SafetensorError, OSError) as error:
        raise RunError(f"{file} is damaged: {error}.") from error
    module = module.to(device).eval()
    if torch.device(device).type != "mps":
        module = module.to(memory_format=torch.channels_last)
    return module


def model_args(folder: RunFolder) -> dict[str, Any]:
    """Returns the arguments of a run's network; empty for most."""
    return dict(folder.read(folder.config_file)["settings"].get("model_args") or {})


def open_trained(folder: RunFolder, *, device: str | torch.device = "cpu") -> TrainedRun:
    """Opens a run with its network, without executing any code of the run.

    Raises:
        RunError: A file of the run is missing or damaged.
    """
    description = folder.read(folder.config_file)
    labels = tuple(folder.read(folder.labels_file))
    preprocessing = Preprocessing.from_dict(folder.read(folder.preprocessing_file))
    calibration = read_calibration(folder, labels)
    return TrainedRun(
        folder=folder,
        module=load_network(
            folder, description["model"], len(labels), preprocessing, device=device
        ),
        preprocessing=preprocessing,
        labels=labels,
        temperature=calibration.task.temperature,
        unknown=calibration.unknown,
        sure=calibration.sure,
        description=description,
        task=calibration.task,
        hierarchy=calibration.hierarchy,
    )

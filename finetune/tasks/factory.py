"""Task of settings, of a run's files, and of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.config import LabelsConfig
from finetune.errors import ConfigError
from finetune.evaluation.thresholds import NEVER
from finetune.tasks import multi_label
from finetune.tasks.base import Task
from finetune.tasks.multi_label import MultiLabel
from finetune.tasks.single_label import SingleLabel


def task_for(labels: LabelsConfig) -> Task:
    """Returns the uncalibrated task of settings.

    Raises:
        ConfigError: A setting is for several labels only.
    """
    if labels.multi_label:
        return MultiLabel(precision=labels.label_precision)
    for flag, value in (
        ("--negatives", labels.negatives),
        ("--label-precision", labels.label_precision),
    ):
        if value is not None:
            raise ConfigError(f"{flag} {value} is for photos of several labels: add --multi-label.")
    return SingleLabel()


def task_of(content: Mapping[str, Any], labels: Sequence[str]) -> Task:
    """Returns the calibrated task of a calibration.json or an exported file.

    Args:
        content: Entries of `Task.to_dict`, among others.
        labels: C names in class order.

    Raises:
        KeyError, TypeError, ValueError: Entries are missing or malformed.
    """
    temperature = float(content["temperature"])
    if content.get("task") != multi_label.NAME:
        return SingleLabel(temperature=temperature)
    given = content["thresholds"]
    goal = content.get("thresholds_for")
    return MultiLabel(
        temperature=temperature,
        thresholds=tuple(NEVER if given[name] is None else float(given[name]) for name in labels),
        precision=float(goal["precision"]) if isinstance(goal, Mapping) else None,
    )


def task_of_config(config: Mapping[str, Any]) -> Task:
    """Returns the uncalibrated task of a config.json."""
    return MultiLabel() if config.get("task") == multi_label.NAME else SingleLabel()


def task_of_metrics(metrics: Mapping[str, Any]) -> Task:
    """Returns the uncalibrated task that the metrics of a part belong to."""
    return SingleLabel() if SingleLabel.score in metrics else MultiLabel()


def main_score(metrics: Mapping[str, Any]) -> float | None:
    """Returns the headline score of the metrics of a part.

    Raises:
        KeyError: There is none.
    """
    value = metrics[task_of_metrics(metrics).score]
    return None if value is None else float(value)

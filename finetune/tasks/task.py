"""Task of a run: one label a photo, or several.

A run has one `Task`. It says what the targets are, how logits become probabilities and answers, how
right these are, and what calibration.json and an exported file keep of it. Whoever needs to know
asks the task; nobody else tells the two kinds apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.calibration import fit_temperature, log_loss
from finetune.evaluation.metrics import average_precisions, defined_mean, evaluate_logits
from finetune.evaluation.multi_label_metrics import (
    check_multilabel,
    evaluate_multilabel,
    fit_sigmoid_temperature,
    multilabel_log_loss,
)
from finetune.evaluation.predictions import (
    EvaluatedPhoto,
    Prediction,
    make_multilabel_predictions,
    make_predictions,
)
from finetune.evaluation.probabilities import Floats, sigmoid, softmax
from finetune.evaluation.thresholds import NEVER, USUAL, fit_thresholds

MULTI_LABEL = "multi-label"
"""Value of ``task`` in config.json and calibration.json; absent for one label a photo."""


class Task(Protocol):
    """One label a photo, or several."""

    @property
    def temperature(self) -> float:
        """Temperature that divides the logits."""
        ...

    @property
    def multi_label(self) -> bool:
        """Whether a photo may have several labels, or none."""
        ...

    @property
    def score(self) -> str:
        """Name in metrics.json of the headline score."""
        ...

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Returns calibrated probabilities ``(N, C)`` of logits ``(N, C)``."""
        ...

    def judge(self, logits: ArrayLike, targets: ArrayLike) -> tuple[float, float]:
        """Returns loss in nats a photo and the `score` of logits; no calibration in either."""
        ...

    def calibrated(self, logits: ArrayLike, targets: ArrayLike) -> Task:
        """Returns this task, calibrated on the validation part."""
        ...

    def metrics(
        self, logits: ArrayLike, targets: ArrayLike, labels: Sequence[str]
    ) -> dict[str, Any]:
        """Returns all figures of a part, ready for metrics.json."""
        ...

    def predictions(
        self,
        photos: Sequence[EvaluatedPhoto],
        logits: ArrayLike,
        targets: ArrayLike,
        labels: Sequence[str],
    ) -> list[Prediction]:
        """Returns the rows of predictions.csv."""
        ...

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the content for calibration.json and exports; `task_of` is its inverse."""
        ...


@dataclass(frozen=True, kw_only=True)
class SingleLabel:
    """Each photo has one label; targets are ``(N,) int64``, probabilities a softmax.

    Attributes:
        temperature: Divides the logits.
    """

    multi_label: ClassVar[bool] = False
    score: ClassVar[str] = "top1"

    temperature: float = 1.0

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Returns ``softmax(logits / temperature)``."""
        return softmax(logits, temperature=self.temperature)

    def judge(self, logits: ArrayLike, targets: ArrayLike) -> tuple[float, float]:
        """Returns log loss in nats and accuracy."""
        values, truth = np.asarray(logits, np.float64), np.asarray(targets)
        return log_loss(values, truth), float((values.argmax(axis=1) == truth).mean())

    def calibrated(self, logits: ArrayLike, targets: ArrayLike) -> SingleLabel:
        """Returns the task with the temperature that suits these photos."""
        return dataclasses.replace(self, temperature=fit_temperature(logits, targets))

    def metrics(
        self, logits: ArrayLike, targets: ArrayLike, labels: Sequence[str]
    ) -> dict[str, Any]:
        """Returns what `finetune.evaluation.metrics.evaluate_logits` does."""
        return evaluate_logits(logits, targets, labels, temperature=self.temperature)

    def predictions(
        self,
        photos: Sequence[EvaluatedPhoto],
        logits: ArrayLike,
        targets: ArrayLike,
        labels: Sequence[str],
    ) -> list[Prediction]:
        """Returns a row a photo, with its likeliest labels."""
        return make_predictions(photos, logits, targets, labels, temperature=self.temperature)

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the temperature."""
        return {"temperature": self.temperature}


@dataclass(frozen=True, kw_only=True)
class MultiLabel:
    """A photo has any number of labels; targets are ``(N, C)`` of 0 and 1, probabilities sigmoids.

    Attributes:
        temperature: Divides the logits.
        thresholds: Probability from which on each label is predicted; None: 0.5 for all.
        precision: What thresholds are chosen for: so large a share of each label's answers should
            be right; None: the best F1.
    """

    multi_label: ClassVar[bool] = True
    # Needs no thresholds, which are fitted when training is over.
    score: ClassVar[str] = "mean_average_precision"

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    precision: float | None = None

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Returns ``sigmoid(logits / temperature)``."""
        return sigmoid(logits, temperature=self.temperature)

    def limits(self, labels: int, *, at_least: float = 0.0) -> Floats:
        """Returns the thresholds of C labels, ``(C,)``, none below `at_least`."""
        own = np.full(labels, USUAL) if self.thresholds is None else np.array(self.thresholds)
        limits: Floats = np.maximum(own, at_least)
        return limits

    def judge(self, logits: ArrayLike, targets: ArrayLike) -> tuple[float, float]:
        """Returns binary log loss in nats a photo and mAP; 0 where no label occurs."""
        values, positive = check_multilabel(logits, targets)
        mean = defined_mean(average_precisions(values, positive))
        return multilabel_log_loss(values, positive), 0.0 if mean is None else mean

    def calibrated(self, logits: ArrayLike, targets: ArrayLike) -> MultiLabel:
        """Returns the task with the temperature and thresholds that suit these photos."""
        temperature = fit_sigmoid_temperature(logits, targets)
        shares = sigmoid(logits, temperature=temperature)
        thresholds = fit_thresholds(shares, targets, precision=self.precision)
        return dataclasses.replace(self, temperature=temperature, thresholds=thresholds)

    def metrics(
        self, logits: ArrayLike, targets: ArrayLike, labels: Sequence[str]
    ) -> dict[str, Any]:
        """Returns what `finetune.evaluation.multi_label_metrics.evaluate_multilabel` does."""
        return evaluate_multilabel(
            logits,
            targets,
            labels,
            temperature=self.temperature,
            thresholds=self.limits(len(labels)).tolist(),
        )

    def predictions(
        self,
        photos: Sequence[EvaluatedPhoto],
        logits: ArrayLike,
        targets: ArrayLike,
        labels: Sequence[str],
    ) -> list[Prediction]:
        """Returns a row a photo with all predicted labels."""
        return make_multilabel_predictions(
            photos,
            logits,
            targets,
            labels,
            temperature=self.temperature,
            thresholds=self.limits(len(labels)).tolist(),
        )

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns temperature and thresholds by label; None for one that is never predicted."""
        limits = self.limits(len(labels)).tolist()
        return {
            "task": MULTI_LABEL,
            "temperature": self.temperature,
            "thresholds": {
                label: None if limit >= NEVER else limit
                for label, limit in zip(labels, limits, strict=True)
            },
            "thresholds_for": {"precision": self.precision} if self.precision else "f1",
        }


def task_of(content: Mapping[str, Any], labels: Sequence[str]) -> Task:
    """Returns the task of a calibration.json or an exported file.

    Args:
        content: What `Task.to_dict` gave, among other things.
        labels: C names in class order.

    Raises:
        KeyError, TypeError, ValueError: It tells of none.
    """
    temperature = float(content["temperature"])
    if content.get("task") != MULTI_LABEL:
        return SingleLabel(temperature=temperature)
    given = content["thresholds"]
    goal = content.get("thresholds_for")
    return MultiLabel(
        temperature=temperature,
        thresholds=tuple(NEVER if given[name] is None else float(given[name]) for name in labels),
        precision=float(goal["precision"]) if isinstance(goal, Mapping) else None,
    )


def uncalibrated_task(description: Mapping[str, Any]) -> Task:
    """Returns the uncalibrated task of a config.json."""
    return MultiLabel() if description.get("task") == MULTI_LABEL else SingleLabel()


def main_score(metrics: Mapping[str, Any]) -> float | None:
    """Returns the headline score: top-1 or mAP."""
    for task in (SingleLabel, MultiLabel):
        if task.score in metrics:
            value = metrics[task.score]
            return None if value is None else float(value)
    raise KeyError("neither top1 nor mean_average_precision")

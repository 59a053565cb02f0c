"""Validation: logits of the validation photos, their loss and scores."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.tasks.base import Objective

Metric = Callable[[NDArray[np.float32], NDArray[Any]], float]
"""Own metric: a function of logits ``(N, C) float32`` and targets that returns a number."""


@dataclass(frozen=True)
class Outputs:
    """Logits and targets of the validation photos, in the collection's order.

    Attributes:
        logits: ``(N, C) float32``.
        targets: ``(N,) int64``, or ``(N, C)`` where a photo may have several labels.
    """

    logits: NDArray[np.float32]
    targets: NDArray[Any]

    def without(self, lost: Collection[int]) -> Outputs:
        """Returns the outputs without the photos of some indices, which could not be read."""
        if not lost:
            return self
        known = np.setdiff1d(np.arange(len(self.logits)), list(lost))
        return Outputs(self.logits[known], self.targets[known])


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Outputs with their scores.

    Attributes:
        accuracy: Score by which epochs are ranked.
    """

    outputs: Outputs
    loss: float
    accuracy: float
    metrics: Mapping[str, float] = field(default_factory=dict)


SHARPNESS = tuple(2.0 ** (half / 2) for half in range(-7, 3))
"""Factors on the logits tried for the calibrated loss.

Probabilities are calibrated after training, so networks are compared by their calibrated loss. The
factor is at most 2: where all validation photos are right, any loss could be scaled to zero.
"""


def plain_loss(outputs: Outputs, objective: Objective) -> float:
    """Returns the loss of outputs without calibration."""
    return objective.score(torch.from_numpy(outputs.logits), torch.from_numpy(outputs.targets))[0]


def calibrated_loss(outputs: Outputs, objective: Objective) -> float:
    """Returns the lowest loss of outputs over the factors of `SHARPNESS`."""
    return min(loss for loss, _ in _tried(outputs, objective))


def calibrated_losses(outputs: Outputs, objective: Objective) -> NDArray[np.float64]:
    """Returns the losses ``(N,)`` of the photos whose mean is the `calibrated_loss`."""
    _, factor = min(_tried(outputs, objective))
    logits, targets = torch.from_numpy(outputs.logits), torch.from_numpy(outputs.targets)
    each = zip((logits * factor)[:, None], targets[:, None], strict=True)
    return np.array([objective.score(one, target)[0] for one, target in each])


def _tried(outputs: Outputs, objective: Objective) -> Iterator[tuple[float, float]]:
    """Yields loss and factor."""
    logits, targets = torch.from_numpy(outputs.logits), torch.from_numpy(outputs.targets)
    return ((objective.score(logits * factor, targets)[0], factor) for factor in SHARPNESS)


def score_outputs(
    outputs: Outputs, objective: Objective, metrics: Mapping[str, Metric] | None = None
) -> Validation:
    """Returns outputs with loss, accuracy and own metrics.

    Raises:
        ConfigError: A metric returned something that is no number.

    Example:
        >>> from finetune.tasks.single_label import SingleLabel
        >>> outputs = Outputs(np.array([[0.0, 2.0]], np.float32), np.array([1]))
        >>> metrics = {"photos": lambda logits, targets: len(targets)}
        >>> score_outputs(outputs, SingleLabel().objective(), metrics).metrics
        {'photos': 1.0}
    """
    loss, accuracy = objective.score(
        torch.from_numpy(outputs.logits), torch.from_numpy(outputs.targets)
    )
    own = {}
    for name, metric in (metrics or {}).items():
        value = metric(outputs.logits, outputs.targets)
        try:
            own[name] = float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"The metric '{name}' returned {type(value).__name__}; it must return one number."
            ) from error
    return Validation(outputs=outputs, loss=loss, accuracy=accuracy, metrics=own)

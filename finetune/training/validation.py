"""What a network says of the validation photos, and what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.tasks.objective import Objective

Metric = Callable[[NDArray[np.float32], NDArray[Any]], float]
"""A person's own figure: ``(logits (N, C) float32, targets)`` to a number."""


@dataclass(frozen=True)
class Answers:
    """Every validation photo exactly once, in the collection's order.

    Attributes:
        logits: ``(N, C) float32``.
        targets: ``(N,) int64``, or ``(N, C)`` where a photo may have several labels.
    """

    logits: NDArray[np.float32]
    targets: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Answers with their figures.

    Attributes:
        answers: What was judged.
        loss: In nats.
        accuracy: The figure by which epochs are ranked.
        metrics: A person's own figures by name.
    """

    answers: Answers
    loss: float
    accuracy: float
    metrics: Mapping[str, float] = field(default_factory=dict)


SHARPNESS = tuple(2.0 ** (half / 2) for half in range(-7, 3))
"""Factors on the logits with which networks are compared, up to 2.

A run's probabilities are calibrated afterwards, so that a network is worth what it is worth then.
No more than twice as sure: where validation is all right, every network would come to a loss of
nothing.
"""


def plain_loss(answers: Answers, objective: Objective) -> float:
    """Returns the loss of answers as they are."""
    return objective.judge(torch.from_numpy(answers.logits), torch.from_numpy(answers.targets))[0]


def calibrated_loss(answers: Answers, objective: Objective) -> float:
    """Returns the loss of answers at that factor of `SHARPNESS` which suits them best."""
    return min(loss for loss, _ in _tried(answers, objective))


def calibrated_losses(answers: Answers, objective: Objective) -> NDArray[np.float64]:
    """Returns the losses ``(N,)`` of the photos whose mean is the `calibrated_loss`."""
    _, factor = min(_tried(answers, objective))
    logits, targets = torch.from_numpy(answers.logits), torch.from_numpy(answers.targets)
    each = zip((logits * factor)[:, None], targets[:, None], strict=True)
    return np.array([objective.judge(one, target)[0] for one, target in each])


def _tried(answers: Answers, objective: Objective) -> Iterator[tuple[float, float]]:
    """Yields loss and factor."""
    logits, targets = torch.from_numpy(answers.logits), torch.from_numpy(answers.targets)
    return ((objective.judge(logits * factor, targets)[0], factor) for factor in SHARPNESS)


def assess(
    answers: Answers, objective: Objective, metrics: Mapping[str, Metric] | None = None
) -> Validation:
    """Returns answers with loss, accuracy and a person's own metrics.

    Raises:
        ConfigError: A metric returned something that is no number.

    Example:
        >>> from finetune.tasks.objective import one_label
        >>> said = Answers(np.array([[0.0, 2.0]], np.float32), np.array([1]))
        >>> assess(said, one_label(), {"photos": lambda logits, targets: len(targets)}).metrics
        {'photos': 1.0}
    """
    loss, accuracy = objective.judge(
        torch.from_numpy(answers.logits), torch.from_numpy(answers.targets)
    )
    own = {}
    for name, metric in (metrics or {}).items():
        value = metric(answers.logits, answers.targets)
        try:
            own[name] = float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"The metric '{name}' returned {type(value).__name__}; it must return one number."
            ) from error
    return Validation(answers=answers, loss=loss, accuracy=accuracy, metrics=own)

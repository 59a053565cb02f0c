"""What a network says of the validation photos, and what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.training.objective import Objective

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


def assess(
    answers: Answers, objective: Objective, metrics: Mapping[str, Metric] | None = None
) -> Validation:
    """Returns answers with loss, accuracy and a person's own metrics.

    Raises:
        ConfigError: A metric returned something that is no number.

    Example:
        >>> from finetune.training.objective import one_label
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

"""What a network says of the validation photos, and what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

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


SHARPNESS = tuple(2.0 ** (half / 2) for half in range(-7, 3))
"""Factors on the logits with which networks are compared, up to 2.

A run's probabilities are calibrated afterwards, so that a network is worth what it is worth then.
No more than twice as sure: where validation is all right, every network would come to a loss of
nothing.
"""


CAUTIOUS_SHARPNESS = tuple(2.0 ** (half / 2) for half in range(-10, 7))
"""Factors on the logits in `cautious_losses`, up to 8: its targets say when to stop."""


def plain_loss(answers: Answers, objective: Objective) -> float:
    """Returns the loss of answers as they are."""
    return objective.judge(torch.from_numpy(answers.logits), torch.from_numpy(answers.targets))[0]


def calibrated_loss(answers: Answers, objective: Objective) -> float:
    """Returns the loss of answers at that factor of `SHARPNESS` which suits them best."""
    logits, targets = torch.from_numpy(answers.logits), torch.from_numpy(answers.targets)
    return min(objective.judge(logits * factor, targets)[0] for factor in SHARPNESS)


def cautious_losses(answers: Answers) -> NDArray[np.float64]:
    """Returns the losses ``(N,)`` of photos, whose targets are no surer than N photos can be.

    Where a network names all of them rightly, the plain loss of one that is merely surer is lower,
    on every photo, and says nothing of photos to come. Here a photo's own label has the target
    ``(N + 1) / (N + C)`` and each other ``1 / (N + C)``, Laplace's rule of succession; of several
    labels a photo, each is a question with two answers (Platt 1999, "Probabilistic outputs for
    support vector machines", section 2.2). The logits have that factor which suits them best.
    """
    logits = torch.from_numpy(answers.logits).double()
    count, labels = logits.shape
    targets = torch.from_numpy(answers.targets)
    if targets.ndim == 1:
        wanted = (functional.one_hot(targets, labels).double() * count + 1) / (count + labels)
    else:
        wanted = (targets.double() * count + 1) / (count + 2)

    def losses(factor: float) -> Tensor:
        if targets.ndim == 1:
            return functional.cross_entropy(logits * factor, wanted, reduction="none")
        each = functional.binary_cross_entropy_with_logits(
            logits * factor, wanted, reduction="none"
        )
        return each.sum(dim=1)

    best = min(
        (losses(factor) for factor in CAUTIOUS_SHARPNESS), key=lambda each: float(each.mean())
    )
    found: NDArray[np.float64] = best.numpy()
    return found


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

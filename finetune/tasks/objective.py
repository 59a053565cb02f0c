"""Objective of a training: loss, correctness and validation score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from finetune.tasks.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Loss, correctness and validation score of a training.

    Attributes:
        loss: ``(logits (B, C), targets)`` to the batch's mean loss in nats, which is minimized.
        right: ``(logits (B, C), targets)`` to the number of right answers, a tensor on their
            device: reading it would wait for the device in every step.
        judge: ``(logits (N, C), targets)`` of all validation photos, on the CPU, to their loss and
            to the figure by which epochs are ranked: higher is better.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    right: Callable[[Tensor, Tensor], Tensor]
    judge: Callable[[Tensor, Tensor], tuple[float, float]]


def one_label(*, label_smoothing: float = 0.0) -> Objective:
    """Returns the objective of photos with one label each: cross-entropy, ranked by accuracy.

    Args:
        label_smoothing: As in `cross_entropy`; training only, never in the judgment.
    """
    return Objective(
        loss=lambda logits, targets: cross_entropy(
            logits, targets, label_smoothing=label_smoothing
        ),
        right=count_right,
        judge=judge,
    )


def count_right(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the number of ``(B, C)`` logits with the same argmax as the target.

    Args:
        logits: ``(B, C)``.
        targets: ``(B,)`` labels, or ``(B, C)`` probabilities.
    """
    hard = targets if targets.ndim == 1 else targets.argmax(1)
    return (logits.argmax(1) == hard).sum()


def judge(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Returns mean log loss in nats and accuracy of logits ``(N, C)`` on targets ``(N,)``."""
    loss = functional.cross_entropy(logits.double(), targets)
    accuracy = (logits.argmax(1) == targets).double().mean()
    return float(loss), float(accuracy)

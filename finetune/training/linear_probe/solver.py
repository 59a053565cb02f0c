"""Solver that brings a linear head on features to the minimum of its penalized loss.

A hundred photos make four steps an epoch: after 25 epochs a head is still far from its minimum, and
the effect of its L2 strength depends on how far.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from finetune.models.heads import FeatureHead
from finetune.models.lbfgs import minimize

MAX_EVALS = 50
"""Most evaluations of the loss."""

MIN_EVALS = 20
"""Below this number the solver is skipped: the epochs made enough steps."""

MAX_PHOTO_EVALS = 50_000
"""Most photos over all evaluations, to keep the solver within seconds."""


def max_evals_for(photos: int) -> int:
    """Returns the evaluations allowed for a number of photos; 0: skip the solver."""
    max_evals = min(MAX_EVALS, MAX_PHOTO_EVALS // max(photos, 1))
    return max_evals if max_evals >= MIN_EVALS else 0


def minimize_head(
    head: FeatureHead,
    features: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    strength: float,
    max_evals: int,
) -> None:
    """Minimizes a head to where ``loss + strength / 2 * |W|^2`` is lowest.

    With cross-entropy that is scikit-learn's logistic regression of ``C = 1 / (strength * N)``.
    Computed in float64.

    Args:
        head: Changed in place; its statistics stay.
        features: ``(N, F) float32`` of all training photos, on the CPU.
        targets: ``(N,)``, or ``(N, labels)`` where a photo may have several.
        loss: As in `Objective`.
        strength: L2 strength; biases have none.
        max_evals: Evaluations of the loss at most.
    """
    mean, std = head.mean.double().cpu(), head.std.double().cpu()
    standard = (features.double() - mean) / std
    weight = head.linear.weight.detach().double().cpu().clone().requires_grad_()
    bias = head.linear.bias.detach().double().cpu().clone().requires_grad_()

    def value() -> Tensor:
        fit = loss(standard @ weight.T + bias, targets)
        return fit + strength / 2 * weight.square().sum()

    minimize(value, [weight, bias], max_evals=max_evals, gradient_tolerance=1e-6)
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias)

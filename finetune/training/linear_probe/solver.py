"""Brings a linear head on features to the minimum of its loss, once its epochs are over.

A hundred photos make four steps an epoch: after 25 epochs a head is still on its way, and what its
L2 strength means depends on how far it came. The minimum is one point, whatever the steps were.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from finetune.models.heads import FeatureHead
from finetune.models.lbfgs import minimize

MOST_LOOKS = 50
"""Looks at all photos after which a head is as good as at its minimum."""

FEWEST_LOOKS = 20
"""Fewer change little; so many photos have made steps enough in their epochs."""

PHOTOS_SEEN = 50_000
"""Photos that all looks of a head may take together, so that it stays a matter of seconds."""


def looks_at(photos: int) -> int:
    """Returns how often the way to the minimum may look at so many photos; 0: not worth it."""
    looks = min(MOST_LOOKS, PHOTOS_SEEN // max(photos, 1))
    return looks if looks >= FEWEST_LOOKS else 0


def to_minimum(
    head: FeatureHead,
    features: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    strength: float,
    looks: int,
) -> None:
    """Moves a head to where ``loss + strength / 2 * |W|^2`` is lowest, from where it is.

    With cross-entropy that is scikit-learn's logistic regression of ``C = 1 / (strength * N)``. All
    of it is computed in float64.

    Args:
        head: Changed in place; its statistics stay.
        features: ``(N, F) float32`` of all training photos, on the CPU.
        targets: ``(N,)``, or ``(N, labels)`` where a photo may have several.
        loss: As in `Objective`.
        strength: L2 strength; biases have none.
        looks: Evaluations of the loss at most.
    """
    mean, std = head.mean.double().cpu(), head.std.double().cpu()
    standard = (features.double() - mean) / std
    weight = head.linear.weight.detach().double().cpu().clone().requires_grad_()
    bias = head.linear.bias.detach().double().cpu().clone().requires_grad_()

    def value() -> Tensor:
        fit = loss(standard @ weight.T + bias, targets)
        return fit + strength / 2 * weight.square().sum()

    minimize(value, [weight, bias], looks=looks, steepest=1e-6)
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias)

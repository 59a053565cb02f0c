"""Losses for hard, soft and multi-label targets, with optional label weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float, weight: Tensor | None = None
) -> Tensor:
    """Returns the mean cross-entropy of a batch in nats.

    ``-sum_c w_c q_c log softmax(z)_c`` with ``q = (1 - s) y + s / C`` (Szegedy et al. 2016,
    arXiv 1512.00567, section 7), mean over the photos.

    Args:
        logits: ``(B, C)`` of any float type; computed in float32.
        targets: ``(B,)`` int64 labels, or ``(B, C)`` soft labels that sum to 1.
        label_smoothing: ``s`` in [0, 1).
        weight: ``(C,)`` float32 on the logits' device; None: all labels weigh 1.
    """
    values = logits.to(torch.float32)
    if weight is None:
        return functional.cross_entropy(values, targets, label_smoothing=label_smoothing)
    labels = values.shape[1]
    hard = functional.one_hot(targets, labels).to(values) if targets.ndim == 1 else targets
    smooth = (1 - label_smoothing) * hard + label_smoothing / labels
    return -(weight * smooth * values.log_softmax(1)).sum(1).mean()


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float, weight: Tensor | None = None
) -> Tensor:
    """Returns the binary cross-entropy of a batch in nats: summed over labels, mean over photos.

    ``-sum_c w_c q_c log p_c + (1 - q_c) log(1 - p_c)`` with ``p = sigmoid(z)`` and
    ``q = (1 - s) y + s / max(C, 2)``. Summed over labels, as a softmax's is, so that a logit's
    gradient ``(p - q) / B`` is as large as there, and one learning rate suits both.

    Args:
        logits: ``(B, C)`` of any float type; computed in float32.
        targets: ``(B, C)`` in [0, 1]: 0 and 1, or between them where photos are mixed.
        label_smoothing: ``s`` in [0, 1).
        weight: ``(C,)`` of present labels; None: 1. Absent labels always weigh 1.
    """
    present, absent = _smoothed(targets, label_smoothing)
    values = logits.to(torch.float32)
    if weight is not None:
        present = weight * present
    present_loss, absent_loss = functional.logsigmoid(values), functional.logsigmoid(-values)
    return -(present * present_loss + absent * absent_loss).sum(1).mean()


@dataclass(frozen=True, kw_only=True)
class Asymmetry:
    """Parameters of the asymmetric loss.

    Attributes:
        negative: Exponent of an absent label's weight, gamma-.
        positive: Exponent of a present label's weight, gamma+.
        margin: Probability subtracted from an absent label's, m.
    """

    negative: float = 4.0
    positive: float = 0.0
    margin: float = 0.05


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    asymmetry: Asymmetry,
    label_smoothing: float,
    weight: Tensor | None = None,
) -> Tensor:
    """Returns the asymmetric loss of a batch: summed over labels, mean over photos.

    ``-sum_c w_c q_c (1 - p_c)^g+ log p_c + (1 - q_c) m_c^g- log(1 - m_c)`` with ``p = sigmoid(z)``
    and ``m_c = max(p_c - m, 0)`` (Ridnik et al. 2021, arXiv 2009.14119, eq. 2 to 6): of the many
    labels that a photo does not have, those that are surely absent cost next to nothing. With
    ``g+ = g- = m = 0`` it is `binary_cross_entropy`.

    Args:
        logits: ``(B, C)`` of any float type; computed in float32.
        targets: ``(B, C)`` in [0, 1].
        asymmetry: ``g-``, ``g+`` and ``m``.
        label_smoothing: As in `binary_cross_entropy`.
        weight: As in `binary_cross_entropy`.
    """
    present, absent = _smoothed(targets, label_smoothing)
    values = logits.to(torch.float32)
    log_present = functional.logsigmoid(values)
    shifted = (values.sigmoid() - asymmetry.margin).clamp_min(0)
    log_absent = torch.log1p(-shifted) if asymmetry.margin > 0 else functional.logsigmoid(-values)
    present_loss = present * log_present
    absent_loss = absent * log_absent
    if asymmetry.positive > 0:
        present_loss = present_loss * (-values).sigmoid() ** asymmetry.positive
    if asymmetry.negative > 0:
        absent_loss = absent_loss * shifted**asymmetry.negative
    if weight is not None:
        present_loss = weight * present_loss
    return -(present_loss + absent_loss).sum(1).mean()


def _smoothed(targets: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Returns smoothed targets of present and absent labels."""
    hard = targets.to(torch.float32)
    present = (1 - label_smoothing) * hard + label_smoothing / max(targets.shape[1], 2)
    return present, 1 - present

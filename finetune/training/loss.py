"""The loss on hard or soft targets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float) -> Tensor:
    """Returns the mean cross-entropy of a batch in nats.

    ``-sum_c q_c log softmax(z)_c`` with ``q = (1 - s) y + s / C`` (Szegedy et al. 2016,
    arXiv 1512.00567, section 7).

    Args:
        logits: ``(B, C)`` of any float type; computed in float32.
        targets: ``(B,)`` int64 labels, or ``(B, C)`` soft labels that sum to 1.
        label_smoothing: ``s`` in [0, 1).
    """
    return functional.cross_entropy(
        logits.to(torch.float32), targets, label_smoothing=label_smoothing
    )

"""Multinomial logistic regression on features: a head that is trained in seconds, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.models.minimise import minimise

DEFAULT_L2 = 0.1


@dataclass(frozen=True, kw_only=True)
class QuickHead:
    """A linear classifier of features.

    Attributes:
        labels: In class order.
        weight: ``(F, C) float32``.
        bias: ``(C,) float32``.
    """

    labels: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the probability of each label ``(N, C)`` of features ``(N, F)``."""
        logits = (features @ self.weight + self.bias).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        shares: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return shares


def fit_quick_head(
    features: NDArray[np.float32],
    labels: Sequence[str],
    *,
    l2: float = DEFAULT_L2,
    looks: int = 120,
) -> QuickHead:
    """Returns the classifier that minimises cross-entropy on standardised features.

    The objective is ``mean(cross entropy) + l2 / 2 * |W|^2`` with W on features of mean 0 and
    deviation 1, the bias free: scikit-learn's ``LogisticRegression(C=1 / (N * l2))`` after its
    ``StandardScaler``. It is convex, so there is one answer and no chance in it.

    Args:
        features: ``(N, F)``.
        labels: The label of each row; two different ones at least.
        l2: Weight of the penalty.
        looks: Evaluations of the objective at most.

    Raises:
        ValueError: Fewer than two labels.
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"a head needs two labels or more, not {len(names)}")
    index = {name: number for number, name in enumerate(names)}
    targets = torch.tensor([index[label] for label in labels])
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64)
    # A feature that never changes says nothing: it gets no weight instead of a division by zero.
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
    inputs = torch.from_numpy(((features - mean) * scale).astype(np.float32))
    weight = torch.zeros(inputs.shape[1], len(names), requires_grad=True)
    bias = torch.zeros(len(names), requires_grad=True)

    def value() -> Tensor:
        loss = functional.cross_entropy(inputs @ weight + bias, targets)
        return loss + l2 / 2 * weight.square().sum()

    minimise(value, [weight, bias], looks=looks, steepest=1e-5)
    learned = weight.detach().double().numpy() * scale[:, None]
    return QuickHead(
        labels=names,
        weight=learned.astype(np.float32),
        bias=(bias.detach().double().numpy() - mean @ learned).astype(np.float32),
    )

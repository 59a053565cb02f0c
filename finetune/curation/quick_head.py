"""Multinomial logistic regression on features: a head that is trained in seconds, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

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
    most_steps: int = 100,
) -> QuickHead:
    """Returns the classifier that minimises cross-entropy on standardised features.

    The objective is ``mean(cross entropy) + l2 / 2 * |W|^2`` with W on features of mean 0 and
    deviation 1, the bias free: scikit-learn's ``LogisticRegression(C=1 / (N * l2))`` after its
    ``StandardScaler``. It is convex, so there is one answer and no chance in it. L-BFGS (Liu and
    Nocedal 1989) finds it.

    Args:
        features: ``(N, F)``.
        labels: The label of each row; two different ones at least.
        l2: Weight of the penalty.
        most_steps: Most steps of L-BFGS.

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
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=most_steps,
        history_size=10,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(inputs @ weight + bias, targets)
        loss = loss + l2 / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    learned = weight.detach().double().numpy() * scale[:, None]
    return QuickHead(
        labels=names,
        weight=learned.astype(np.float32),
        bias=(bias.detach().double().numpy() - mean @ learned).astype(np.float32),
    )

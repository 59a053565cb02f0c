"""Logistic regression on features, fitted in seconds to the exact minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.models.linear_solver import LinearSolver, Loss

DEFAULT_L2 = 0.1


@dataclass(frozen=True, kw_only=True)
class LinearClassifier:
    """Linear classifier of features.

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


@dataclass(frozen=True, kw_only=True)
class MultiLabelClassifier(LinearClassifier):
    """Linear multi-label classifier of features: one logistic regression a label."""

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the probability of each label ``(N, C)`` of features ``(N, F)``."""
        logits = (features @ self.weight + self.bias).astype(np.float64)
        shares: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -logits))
        return shares


def fit_classifier(
    features: NDArray[np.float32],
    labels: Sequence[str],
    *,
    l2: float = DEFAULT_L2,
) -> LinearClassifier:
    """Returns the classifier that minimizes cross-entropy on standardized features.

    The objective is ``mean(cross entropy) + l2 / 2 * |W|^2`` with W on features of mean 0 and
    deviation 1, the bias free: scikit-learn's ``LogisticRegression(C=1 / (N * l2))`` after its
    ``StandardScaler``. It is convex: the minimum does not depend on a seed.

    Args:
        features: ``(N, F)``.
        labels: The label of each row; at least two different.
        l2: Weight of the penalty.

    Raises:
        ValueError: Fewer than two labels.
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"a classifier needs two labels or more, not {len(names)}")
    index = {name: number for number, name in enumerate(names)}
    targets = torch.tensor([index[label] for label in labels])
    weight, bias = _fit(features, len(names), targets, functional.cross_entropy, l2)
    return LinearClassifier(labels=names, weight=weight, bias=bias)


def fit_multi_label_classifier(
    features: NDArray[np.float32],
    labels: Sequence[str],
    present: NDArray[np.bool_],
    *,
    l2: float = DEFAULT_L2,
) -> MultiLabelClassifier:
    """Returns one binary classifier per label, each of minimal binary cross-entropy.

    Each is scikit-learn's ``LogisticRegression(C=1 / (N * l2))`` after its ``StandardScaler``.

    Args:
        features: ``(N, F)``.
        labels: The C labels; each needs photos with and photos without it.
        present: ``(N, C)``: whether a photo has a label.
        l2: Weight of the penalty.

    Raises:
        ValueError: A label that all photos have, or none.
    """
    shares = present.mean(axis=0)
    if not ((shares > 0) & (shares < 1)).all():
        raise ValueError("each label needs photos with and photos without it")
    targets = torch.from_numpy(present.astype(np.float32))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        # A sum over labels, so that each reaches its own minimum.
        return functional.binary_cross_entropy_with_logits(logits, targets) * targets.shape[1]

    weight, bias = _fit(features, len(labels), targets, loss, l2)
    return MultiLabelClassifier(labels=tuple(labels), weight=weight, bias=bias)


def _fit(
    features: NDArray[np.float32], columns: int, targets: Tensor, loss: Loss, l2: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the weight ``(F, columns)`` and bias that minimize ``loss(logits) + penalty``."""
    probe = LinearSolver(torch.from_numpy(features.copy()), targets, outputs=columns, loss=loss)
    head = probe.head(probe.solve(l2))
    return head.weight.T.numpy(), head.bias.numpy()

"""Logistic regression on features, fitted in seconds to the exact minimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.models.lbfgs import minimize

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
    max_evals: int = 120,
) -> LinearClassifier:
    """Returns the classifier that minimizes cross-entropy on standardized features.

    The objective is ``mean(cross entropy) + l2 / 2 * |W|^2`` with W on features of mean 0 and
    deviation 1, the bias free: scikit-learn's ``LogisticRegression(C=1 / (N * l2))`` after its
    ``StandardScaler``. It is convex: the minimum does not depend on a seed.

    Args:
        features: ``(N, F)``.
        labels: The label of each row; at least two different.
        l2: Weight of the penalty.
        max_evals: Maximum number of evaluations of the objective.

    Raises:
        ValueError: Fewer than two labels.
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"a classifier needs two labels or more, not {len(names)}")
    index = {name: number for number, name in enumerate(names)}
    targets = torch.tensor([index[label] for label in labels])
    weight, bias = _fit(
        features,
        len(names),
        lambda logits: functional.cross_entropy(logits, targets),
        l2=l2,
        max_evals=max_evals,
    )
    return LinearClassifier(labels=names, weight=weight, bias=bias)


def fit_multi_label_classifier(
    features: NDArray[np.float32],
    labels: Sequence[str],
    present: NDArray[np.bool_],
    *,
    l2: float = DEFAULT_L2,
    max_evals: int = 120,
) -> MultiLabelClassifier:
    """Returns one binary classifier per label, each of minimal binary cross-entropy.

    Each is scikit-learn's ``LogisticRegression(C=1 / (N * l2))`` after its ``StandardScaler``.

    Args:
        features: ``(N, F)``.
        labels: The C labels; each needs photos with and photos without it.
        present: ``(N, C)``: whether a photo has a label.
        l2: Weight of the penalty.
        max_evals: Maximum number of evaluations of the objective.

    Raises:
        ValueError: A label that all photos have, or none.
    """
    shares = present.mean(axis=0)
    if not ((shares > 0) & (shares < 1)).all():
        raise ValueError("each label needs photos with and photos without it")
    targets = torch.from_numpy(present.astype(np.float32))

    def loss(logits: Tensor) -> Tensor:
        # A sum over labels, so that each reaches its own minimum.
        return functional.binary_cross_entropy_with_logits(logits, targets) * targets.shape[1]

    weight, bias = _fit(features, len(labels), loss, l2=l2, max_evals=max_evals)
    return MultiLabelClassifier(labels=tuple(labels), weight=weight, bias=bias)


def _fit(
    features: NDArray[np.float32],
    columns: int,
    loss: Callable[[Tensor], Tensor],
    *,
    l2: float,
    max_evals: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the weight ``(F, columns)`` and bias that minimize ``loss(logits) + penalty``."""
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64)
    # A constant feature gets weight 0 instead of a division by zero.
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
    inputs = torch.from_numpy(((features - mean) * scale).astype(np.float32))
    weight = torch.zeros(inputs.shape[1], columns, requires_grad=True)
    bias = torch.zeros(columns, requires_grad=True)

    def value() -> Tensor:
        return loss(inputs @ weight + bias) + l2 / 2 * weight.square().sum()

    minimize(value, [weight, bias], max_evals=max_evals, gradient_tolerance=1e-5)
    learned = weight.detach().double().numpy() * scale[:, None]
    return (
        learned.astype(np.float32),
        (bias.detach().double().numpy() - mean @ learned).astype(np.float32),
    )

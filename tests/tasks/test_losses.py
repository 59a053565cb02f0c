"""Losses of several labels and of unequal ones, against NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.tasks.losses import (
    Asymmetry,
    asymmetric_loss,
    binary_cross_entropy,
    cross_entropy,
)

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(7, 4)) * 3
HARD = (RNG.random((7, 4)) < 0.4).astype(float)
SOFT = RNG.random((7, 4))
LABELS = RNG.integers(0, 4, 7)
WEIGHT = np.array([0.5, 2.0, 1.0, 0.25])


def tensor(values: Any) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def sigmoid(z: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(-z)))


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [HARD, SOFT])
def test_binary_cross_entropy_follows_its_formula(
    targets: NDArray[Any], smoothing: float, weight: NDArray[Any] | None
) -> None:
    p = sigmoid(LOGITS)
    q = (1 - smoothing) * targets + smoothing / 4
    w = 1 if weight is None else weight
    expected = -(w * q * np.log(p) + (1 - q) * np.log(1 - p)).sum(1).mean()
    found = binary_cross_entropy(
        tensor(LOGITS),
        tensor(targets),
        label_smoothing=smoothing,
        weight=None if weight is None else tensor(weight),
    )
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_is_torchs_summed_over_labels() -> None:
    expected = functional.binary_cross_entropy_with_logits(
        tensor(LOGITS), tensor(HARD), reduction="none"
    )
    found = binary_cross_entropy(tensor(LOGITS), tensor(HARD), label_smoothing=0.0)
    torch.testing.assert_close(found, expected.sum(1).mean())


def test_a_label_alone_is_smoothed_to_both_sides() -> None:
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    both = [binary_cross_entropy(zero + 3, one, label_smoothing=0.2),
            binary_cross_entropy(zero - 3, zero, label_smoothing=0.2)]  # fmt: skip
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("asymmetry", [(4.0, 0.0, 0.05), (2.0, 1.0, 0.2), (0.0, 3.0, 0.0)])
@pytest.mark.parametrize("targets", [HARD, SOFT])
def test_asymmetric_loss_follows_the_papers_formula(
    targets: NDArray[Any], asymmetry: tuple[float, float, float], weight: NDArray[Any] | None
) -> None:
    negative, positive, margin = asymmetry
    p = sigmoid(LOGITS)
    m = np.maximum(p - margin, 0)
    w = 1 if weight is None else weight
    there = w * targets * (1 - p) ** positive * np.log(p)
    gone = (1 - targets) * m**negative * np.log(1 - m)
    found = asymmetric_loss(
        tensor(LOGITS),
        tensor(targets),
        asymmetry=Asymmetry(negative=negative, positive=positive, margin=margin),
        label_smoothing=0.0,
        weight=None if weight is None else tensor(weight),
    )
    assert float(found) == pytest.approx(-(there + gone).sum(1).mean(), rel=1e-5)


def test_asymmetric_loss_without_asymmetry_is_binary_cross_entropy() -> None:
    plain = Asymmetry(negative=0.0, positive=0.0, margin=0.0)
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(
            asymmetric_loss(
                tensor(LOGITS), tensor(HARD), asymmetry=plain, label_smoothing=smoothing
            ),
            binary_cross_entropy(tensor(LOGITS), tensor(HARD), label_smoothing=smoothing),
        )


def test_losses_and_gradients_of_extreme_logits_are_finite() -> None:
    losses: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
        lambda z, y: binary_cross_entropy(z, y, label_smoothing=0.1),
        lambda z, y: asymmetric_loss(z, y, asymmetry=Asymmetry(positive=1.0), label_smoothing=0.1),
    )
    for loss in losses:
        logits = torch.tensor([[-200.0, 200.0, 0.0, -200.0]], requires_grad=True)
        value = loss(logits, torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
        value.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(value)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_what_is_surely_absent_costs_nothing_in_the_asymmetric_loss() -> None:
    logits = torch.tensor([[-4.0]], requires_grad=True)  # a probability of 1.8 %, below the margin
    loss = asymmetric_loss(logits, torch.zeros(1, 1), asymmetry=Asymmetry(), label_smoothing=0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.item() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_weighted_cross_entropy_follows_its_formula(smoothing: float, soft: bool) -> None:
    z = LOGITS - LOGITS.max(1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    rows = SOFT / SOFT.sum(1, keepdims=True) if soft else np.eye(4)[LABELS]
    q = (1 - smoothing) * rows + smoothing / 4
    expected = -(WEIGHT * q * log_p).sum(1).mean()
    targets = tensor(rows) if soft else torch.tensor(LABELS)
    found = cross_entropy(tensor(LOGITS), targets, label_smoothing=smoothing, weight=tensor(WEIGHT))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_equal_weights_change_nothing() -> None:
    targets = torch.tensor(LABELS)
    torch.testing.assert_close(
        cross_entropy(tensor(LOGITS), targets, label_smoothing=0.1, weight=torch.ones(4)),
        cross_entropy(tensor(LOGITS), targets, label_smoothing=0.1),
    )

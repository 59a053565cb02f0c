from __future__ import annotations

import torch
from torch import Tensor

from finetune.models.lbfgs import minimize


def rosenbrock(x: Tensor) -> Tensor:
    """Lowest at (1, 1), along a curved valley."""
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def start() -> Tensor:
    return torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)


def test_it_finds_the_minimum_of_rosenbrocks_function() -> None:
    x = start()
    with torch.no_grad():
        minimize(lambda: rosenbrock(x), [x], max_evals=200, gradient_tolerance=1e-9)
    # It stops where a step brings less than 1e-9.
    assert rosenbrock(x) < 1e-8
    assert torch.allclose(x, torch.ones(2, dtype=torch.float64), atol=1e-3)


def test_evaluations_are_limited_except_within_a_line_search() -> None:
    max_evals = 0
    x = start()

    def value() -> Tensor:
        nonlocal max_evals
        max_evals += 1
        return rosenbrock(x)

    minimize(value, [x], max_evals=8, gradient_tolerance=1e-9)
    assert 2 <= max_evals <= 8 + 25
    assert rosenbrock(x) < rosenbrock(start())

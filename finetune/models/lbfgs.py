"""L-BFGS minimization of a smooth function of a few tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def minimize(
    value: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    *,
    max_evals: int,
    gradient_tolerance: float,
) -> None:
    """Minimizes a function of parameters in place.

    L-BFGS with a line search (Nocedal and Wright 2006, algorithms 7.5 and 3.5).

    Args:
        value: Returns the function at the current parameters, a tensor of one number.
        parameters: Leaves that require a gradient.
        max_evals: Maximum number of function evaluations.
        gradient_tolerance: Stops when no entry of the gradient is larger.
    """
    solver = torch.optim.LBFGS(
        parameters,
        max_iter=max_evals,
        max_eval=max_evals,
        history_size=20,
        tolerance_grad=gradient_tolerance,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> Tensor:
        solver.zero_grad()
        now = value()
        now.backward()  # type: ignore[no-untyped-call]
        return now

    with torch.enable_grad():
        solver.step(evaluate)  # type: ignore[no-untyped-call]

"""The minimum of a smooth function of a few tensors."""

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
    """Moves parameters, in place, to where a function of them is lowest.

    By L-BFGS with a line search (Nocedal and Wright 2006, algorithms 7.5 and 3.5).

    Args:
        value: The function at what the parameters are now, a tensor of one number.
        parameters: Leaves that require a gradient.
        max_evals: Evaluations of the function at most.
        gradient_tolerance: Largest entry of a gradient that counts as none.
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

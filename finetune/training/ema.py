"""A moving average of the weights, which is what is validated and kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WARMUP_POWER = 2 / 3


def decay_at(update: int, decay: float) -> float:
    """Returns the decay of one update.

    ``min(decay, 1 - (1 + t)^(-2/3))`` for update ``t``, counted from 0: the first takes the weights
    as they are, and a short training is not averaged over weights that it has long left behind
    (the warm-up of timm's ``ModelEmaV3`` at its default power).

    Args:
        update: Updates before this one.
        decay: What it grows to, in (0, 1).
    """
    return min(decay, 1.0 - math.pow(1 + update, -WARMUP_POWER))


class WeightAverage:
    """The moving average of all floating-point tensors of a network.

    ``a <- d a + (1 - d) w`` after each step (Polyak and Juditsky 1992; d as in `decay_at`). The
    running statistics of batch norms are averaged alike: they belong to the weights that they were
    gathered with. Counters are taken over as they are.

    Args:
        module: What trains.
        decay: In (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module, update: int) -> None:
        """Takes in the weights after a step.

        Args:
            module: What trains.
            update: Updates before this one.
        """
        now = module.state_dict()
        names = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in names],
            [now[name] for name in names],
            1 - decay_at(update, self.decay),
        )
        for name, value in now.items():
            if not value.is_floating_point():
                self.tensors[name].copy_(value)

    @contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """Gives the module the average for the time of the block, without a copy."""
        tensors = list(module.state_dict(keep_vars=True).items())
        self._swap(tensors)
        try:
            yield
        finally:
            # Backwards, for tensors that go by two names.
            self._swap(tensors[::-1])

    def _swap(self, tensors: list[tuple[str, Tensor]]) -> None:
        for name, tensor in tensors:
            tensor.data, self.tensors[name] = self.tensors[name], tensor.data

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Puts back the tensors of a checkpoint, to the last bit.

        Raises:
            KeyError: One is missing.
        """
        for name, value in self.tensors.items():
            value.copy_(tensors[name])

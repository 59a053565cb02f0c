"""Several processes that train one network: who does what, and how they come to agree.

Each process takes its share of every step's photos, and the gradients are averaged over all of
them before the optimizer's step, weighted by the photos that each process saw. So a run of several
processes makes the steps that one process would make at the same batch size, up to the order in
which floating-point numbers are added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

AGREE_EVERY = 8
"""Steps after which several processes ask one another whether to stop or to save."""

BUCKET_NUMBERS = 16 * 2**20
"""Numbers that are sent together: many small tensors would each wait for the network."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of one training, as one of them sees them.

    Attributes:
        rank: This process, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes the run and speaks to the person."""
        return self.rank == 0

    def share(self, items: NDArray[Any]) -> NDArray[Any]:
        """Returns this process's part of `items`: consecutive, and equal to within one."""
        return np.array_split(items, self.count)[self.rank]

    def wait(self) -> None:
        """Returns when every process has come this far."""
        if self.count > 1:
            distributed.barrier()

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Lets the main process do what is inside before the others do: they find it done."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def agree(self, value: Any) -> Any:
        """Returns the main process's `value` in every process."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def may_agree(self, step: int) -> bool:
        """Returns whether to ask `any` after a step; several processes wait for it: not often."""
        return self.count == 1 or step % AGREE_EVERY == 0

    def any(self, flag: bool, device: torch.device) -> bool:
        """Returns whether `flag` is true in any process; waits for the device."""
        if self.count == 1:
            return flag
        number = torch.tensor(int(flag), device=device)
        distributed.all_reduce(number, op=distributed.ReduceOp.MAX)
        return bool(number.item())

    def total(self, values: Tensor) -> Tensor:
        """Returns the sum of `values` over the processes."""
        if self.count == 1:
            return values
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    @torch.no_grad()
    def same_tensors(self, module: nn.Module) -> None:
        """Gives a module the main process's parameters and buffers in every process."""
        if self.count == 1:
            return
        for tensor in (*module.parameters(), *module.buffers()):
            sent = tensor.detach().contiguous()
            distributed.broadcast(sent, src=0)
            tensor.copy_(sent)

    @torch.no_grad()
    def average_buffers(self, module: nn.Module) -> None:
        """Replaces each buffer of numbers by its mean over the processes.

        The running statistics of batch norms are such: each process has seen its own photos.
        """
        if self.count == 1:
            return
        for buffer in module.buffers():
            if buffer.is_floating_point():
                mean = buffer.contiguous().clone()
                distributed.all_reduce(mean)
                buffer.copy_(mean / self.count)

    def gather(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Returns the rows of all processes in the order of their ranks, in every process."""
        if self.count == 1:
            return rows
        parts: list[Any] = [None] * self.count
        distributed.all_gather_object(parts, rows)
        return np.concatenate(parts)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over the processes.

        A process weighs its loss by its share of the step's photos beforehand, so that the sum is
        the mean over the step.
        """
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            distributed.all_reduce(flat)
            start = 0
            for gradient in bucket:
                end = start + gradient.numel()
                gradient.copy_(flat[start:end].view_as(gradient))
                start = end


SINGLE_PROCESS = World()
"""One process, which needs nobody."""


def processes() -> World:
    """Returns the processes that `accelerate launch` or `torchrun` started, or this one alone."""
    if distributed.is_available() and distributed.is_initialized():
        return World(rank=distributed.get_rank(), count=distributed.get_world_size())
    return SINGLE_PROCESS


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    numbers = 0
    for gradient in gradients:
        if bucket and (
            numbers + gradient.numel() > BUCKET_NUMBERS or gradient.dtype != bucket[0].dtype
        ):
            yield bucket
            bucket, numbers = [], 0
        bucket.append(gradient)
        numbers += gradient.numel()
    if bucket:
        yield bucket

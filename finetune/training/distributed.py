"""Distributed training of one network by several processes.

Each process trains on a shard of every step's photos, and gradients are averaged over all of them,
weighted by photos, before the optimizer's step. So several processes make the same steps as one
process at the same batch size, up to the order of floating-point sums.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

SYNC_EVERY = 8
"""Steps between two synchronizations on whether to stop or to save."""

BUCKET_NUMBERS = 16 * 2**20
"""Numbers per all-reduce; small tensors are combined, since each call costs latency."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Processes of a training: rank of this one, from 0, and their count."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run and sends events."""
        return self.rank == 0

    def shard(self, items: NDArray[Any]) -> NDArray[Any]:
        """Returns this process's consecutive part of `items`; parts differ by at most one item."""
        return np.array_split(items, self.count)[self.rank]

    def barrier(self) -> None:
        """Waits for every process."""
        if self.count > 1:
            distributed.barrier()

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Runs the block in the main process first, then in the others."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def broadcast(self, value: Any) -> Any:
        """Returns the main process's `value` in every process."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def sync_due(self, step: int) -> bool:
        """Returns whether `any_process` may be called after a step; it makes processes wait."""
        return self.count == 1 or step % SYNC_EVERY == 0

    def any_process(self, flag: bool, device: torch.device) -> bool:
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
    def broadcast_tensors(self, module: nn.Module) -> None:
        """Copies the main process's parameters and buffers to every process."""
        if self.count == 1:
            return
        for tensor in (*module.parameters(), *module.buffers()):
            sent = tensor.detach().contiguous()
            distributed.broadcast(sent, src=0)
            tensor.copy_(sent)

    @torch.no_grad()
    def average_buffers(self, module: nn.Module) -> None:
        """Replaces each floating-point buffer by its mean over the processes.

        Running statistics of batch norms differ, since each process sees its own photos.
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
        return rows if self.count == 1 else np.concatenate(self.gather_objects(rows))

    def gather_objects(self, value: Any) -> list[Any]:
        """Returns the values of all processes in the order of their ranks, in every process."""
        if self.count == 1:
            return [value]
        parts: list[Any] = [None] * self.count
        distributed.all_gather_object(parts, value)
        return parts

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
"""Training in one process."""


def processes() -> World:
    """Returns the world that `accelerate launch` or `torchrun` started, or a single process."""
    if distributed.is_available() and distributed.is_initialized():
        return World(rank=distributed.get_rank(), count=distributed.get_world_size())
    return SINGLE_PROCESS


def end_processes() -> None:
    """Waits until every process has done its work, and closes the connections at exit.

    Without it, a process that exits cuts off threads of the others that still communicate, which
    now and then ends in SIGABRT.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        atexit.register(_close_connections)


def _close_connections() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


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

"""Micro-batches: an epoch split into steps, and steps into batches for one forward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.balance import draw_keys
from finetune.data.loaders import epoch_batches
from finetune.training.distributed import SINGLE_PROCESS, World


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Batch size, order and workers of a training's batches.

    Attributes:
        batch_size: Photos in one forward pass, over all processes.
        seed: Of the order of the photos.
        workers: Processes that decode photos missing in the cache.
        device: Of the network.
        accumulate: Batches in one step.
        strata: As in `epoch_batches`.
        world: Processes that share every batch.
    """

    batch_size: int
    seed: int
    workers: int
    device: torch.device
    accumulate: int = 1
    strata: list[NDArray[np.int64]] | None = None
    world: World = SINGLE_PROCESS

    @property
    def step_size(self) -> int:
        """Photos a step."""
        return self.batch_size * self.accumulate


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Inputs and targets of one forward pass, on the device.

    Attributes:
        targets: ``(B,) int64``, or ``(B, labels)`` of any float type.
        share: Weight of its loss: its photos as a share of the step's.
        completes: Whether it is the last of its step.
    """

    inputs: Tensor
    targets: Tensor
    share: float
    completes: bool


@dataclass(frozen=True, kw_only=True)
class MicroBatchIndices:
    """Photos of a micro-batch, before they are loaded.

    Attributes:
        indices: ``(B,)`` places in the training photos.
        keys: ``(B,)`` random keys of the photos; differ where a photo occurs twice in an epoch.
        number: Of the micro-batch in its epoch, from 0; random key of the whole batch.
        share: As in `MicroBatch`.
        completes: As in `MicroBatch`.
    """

    indices: NDArray[np.int64]
    keys: NDArray[np.int64]
    number: int
    share: float
    completes: bool


def split_epoch(
    count: int, loading: LoaderConfig, epoch: int, first_step: int
) -> list[MicroBatchIndices]:
    """Returns the micro-batches of an epoch from `first_step` on.

    The photos of a step are those that it would have at a batch size of ``batch_size *
    accumulate``, split into micro-batches of at most ``batch_size`` whose sizes differ by at most
    one; each process gets its shard of each.
    """
    steps = epoch_batches(
        count, loading.step_size, seed=loading.seed, epoch=epoch, strata=loading.strata
    )
    keys = steps if loading.strata is None else draw_keys(steps, count)
    cuts = []
    for number, step in list(enumerate(steps))[first_step:]:
        pieces = math.ceil(len(step) / loading.batch_size)
        parts = np.array_split(step, pieces)
        own_keys = np.array_split(keys[number], pieces)
        parts = [loading.world.shard(part) for part in parts]
        own_keys = [loading.world.shard(part) for part in own_keys]
        cuts += [
            MicroBatchIndices(
                indices=part,
                keys=own_keys[place],
                number=number * loading.accumulate + place,
                share=len(part) / len(step),
                completes=place == len(parts) - 1,
            )
            for place, part in enumerate(parts)
        ]
    return cuts

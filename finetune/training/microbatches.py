"""An epoch cut into steps, and steps into portions that go through the network at once."""

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
    """How batches are made.

    Attributes:
        batch_size: Photos that go through the network at once, in all processes together.
        seed: Decides the order of the photos.
        workers: Processes that decode what the cache does not hold.
        device: Where the network is.
        accumulate: Batches that make one step together.
        strata: As in `epoch_batches`.
        world: Who takes part; each process has its share of every batch.
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
    """What goes through the network at once: a whole step, or one of the batches that make it.

    Attributes:
        inputs: On the device.
        targets: On the device: ``(B,) int64``, or ``(B, labels)`` of any float type.
        share: This portion's photos as a share of the step's; its loss counts as much.
        completes: Whether it is the last of its step.
    """

    inputs: Tensor
    targets: Tensor
    share: float
    completes: bool


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which photos a portion has, and what is to be known of it before they are loaded.

    Attributes:
        indices: ``(B,)`` places in the training photos.
        keys: ``(B,)`` what each photo's own chance is drawn from: its place, or another number
            where it comes again in the same epoch.
        number: Of the portion in its epoch, from 0; chance that concerns a whole batch is drawn
            from it.
        share: As in `MicroBatch`.
        completes: As in `MicroBatch`.
    """

    indices: NDArray[np.int64]
    keys: NDArray[np.int64]
    number: int
    share: float
    completes: bool


def cut_epoch(count: int, loading: LoaderConfig, epoch: int, first_step: int) -> list[Cut]:
    """Returns the portions of an epoch from `first_step` on.

    The photos of a step are those that it would have at a batch size of ``batch_size *
    accumulate``; they are then cut into portions of at most ``batch_size``, equal to within one,
    and these are what this process has of each.
    """
    steps = epoch_batches(
        count, loading.step_size, seed=loading.seed, epoch=epoch, strata=loading.strata
    )
    keys = steps if loading.strata is None else draw_keys(steps, count)
    cuts = []
    for number, step in list(enumerate(steps))[first_step:]:
        portions = math.ceil(len(step) / loading.batch_size)
        parts = np.array_split(step, portions)
        own_keys = np.array_split(keys[number], portions)
        parts = [loading.world.share(part) for part in parts]
        own_keys = [loading.world.share(part) for part in own_keys]
        cuts += [
            Cut(
                indices=part,
                keys=own_keys[place],
                number=number * loading.accumulate + place,
                share=len(part) / len(step),
                completes=place == len(parts) - 1,
            )
            for place, part in enumerate(parts)
        ]
    return cuts

"""Data source of the training loop: micro-batches of augmented photos."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.mixing import mix, sample_mix, soft_targets
from finetune.augmentation.pipelines import PipelineAugment
from finetune.data.balance import draw_keys
from finetune.data.dataset import PhotoDataset
from finetune.data.loaders import epoch_batches, load_batches
from finetune.errors import CollectionError
from finetune.models.inference import predict_dataset
from finetune.models.stages import TrainableStages, set_trainable
from finetune.photos.preprocessing import Preprocessing
from finetune.training.distributed import SINGLE_PROCESS, World
from finetune.training.validation import Outputs


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Batch size, order and workers of a training's batches.

    Attributes:
        batch_size: Photos in one forward pass, over all processes.
        workers: Processes that decode photos missing in the cache.
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
        indices: ``(B,)`` positions in the training photos.
        keys: ``(B,)`` random keys of the photos; differ where a photo occurs twice in an epoch.
        number: Number of the micro-batch in its epoch, from 0; random key of the batch.
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


@dataclass
class PhotoSource:
    """Augmented photos for a network, parts of which may be frozen.

    Attributes:
        module: The network, on its device.
        trainable: Trainable stages by epoch.
        size: Side of the input in pixels by epoch; None: always the full size.
        on_lost: Called with path and reason of each photo that is left out, since it has vanished
            or changed.
    """

    module: nn.Module
    preprocessing: Preprocessing
    train: PhotoDataset
    validation: PhotoDataset
    augment: BatchAugment | PipelineAugment
    loading: LoaderConfig
    trainable: Callable[[int], TrainableStages]
    size: Callable[[int], int] | None = None
    on_lost: Callable[[str, str], None] = lambda path, reason: None
    _named: set[str] = field(default_factory=set, init=False)
    _stages: TrainableStages | None = field(default=None, init=False)

    def begin_epoch(self, epoch: int) -> None:
        """Sets the trainable stages and the input size of an epoch."""
        self._stages = self.trainable(epoch)
        set_trainable(self.module, self._stages)
        if self.size is not None and isinstance(self.augment, BatchAugment):
            self.augment = self.augment.at_size(self.size(epoch))

    def batches(self, epoch: int, first_step: int) -> Iterator[MicroBatch]:
        """Yields micro-batches with inputs ``(B, 3, S, S)``, from a step of the epoch on.

        Targets are ``(B,) int64``, or ``(B, labels)`` where photos are mixed or have several.
        """
        loading = self.loading
        cuts = split_epoch(len(self.train), loading, epoch, first_step)
        loaded = load_batches(
            self.train,
            [cut.indices for cut in cuts],
            workers=loading.workers,
            pin=loading.device.type == "cuda",
            leave_out=True,
        )
        for cut, batch in zip(cuts, loaded, strict=True):
            keys = cut.keys
            if len(batch.indices) < len(cut.indices):
                if not len(batch.indices):
                    raise CollectionError(
                        f"{self.train.root}: all photos of a step have vanished or changed since "
                        "the training began. Put them back, and resume it."
                    )
                self.name_lost(self.train)
                keys = keys[np.isin(cut.indices, batch.indices.cpu().numpy())]
            images = batch.images.to(loading.device, non_blocking=True)
            targets = batch.targets.to(loading.device, non_blocking=True)
            inputs = self.augment(images, torch.from_numpy(keys), epoch)
            inputs, targets = self._mixed(inputs, targets, epoch, cut.number)
            yield MicroBatch(
                inputs=inputs, targets=targets, share=cut.share, completes=cut.completes
            )

    def _mixed(
        self, inputs: Tensor, targets: Tensor, epoch: int, number: int
    ) -> tuple[Tensor, Tensor]:
        if not isinstance(self.augment, BatchAugment):
            return inputs, targets
        key = (self.loading.seed, epoch, number)
        size = inputs.shape[-1]
        drawn = sample_mix(self.augment.recipe, batch=len(inputs), size=size, key=key)
        if drawn is None:
            return inputs, targets
        if targets.ndim == 1:
            labels: Any = self.module.num_classes
            targets = soft_targets(targets, labels)
        return mix(inputs, targets, drawn)

    def validate(self) -> Outputs:
        """Returns the logits of the validation photos."""
        self.module.eval()
        logits = predict_sharded(self.module, self.preprocessing, self.validation, self.loading)
        if self._stages is not None:
            set_trainable(self.module, self._stages)
        self.name_lost(self.validation)
        return Outputs(logits, self.validation.targets).without(self.validation.lost)

    def name_lost(self, photos: PhotoDataset) -> None:
        """Reports the photos of a dataset that could not be read, each once."""
        for index, reason in photos.lost.items():
            path = photos.samples[index].path
            if path not in self._named:
                self._named.add(path)
                self.on_lost(path, reason)


def predict_sharded(
    module: nn.Module,
    preprocessing: Preprocessing,
    photos: PhotoDataset,
    loading: LoaderConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Returns logits ``(N, labels)`` of photos, computed by all processes; NaN of lost photos."""
    world = loading.world if len(photos) >= loading.world.count else SINGLE_PROCESS
    logits = predict_dataset(
        module,
        preprocessing,
        photos,
        workers=loading.workers,
        progress=progress,
        places=world.shard(np.arange(len(photos))),
        leave_out=True,
    )
    lost = world.gather(np.array(sorted(photos.lost), dtype=np.int64))
    for index in lost.tolist():
        photos.lost.setdefault(index, "has vanished or changed since the photos were scanned")
    return world.gather(logits)

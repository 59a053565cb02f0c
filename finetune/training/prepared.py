"""Prepared training: resolved settings, network, photos and run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.pipelines import PipelineAugment, create_augmentation
from finetune.data.dataset import PhotoDataset
from finetune.data.loaders import steps_per_epoch
from finetune.data.pixel_cache import PixelCache
from finetune.models.factory import LoadedModel
from finetune.photos.collection import Part
from finetune.photos.preprocessing import Preprocessing
from finetune.runs.folder import RunFolder
from finetune.tasks.base import Objective
from finetune.tasks.data_split import PARTS, DataSplit
from finetune.training.averaging import WeightAverage
from finetune.training.checkpoints import TrainState, remove_partial_files
from finetune.training.data_source import LoaderConfig
from finetune.training.distributed import SINGLE_PROCESS, World
from finetune.training.events import Callback, EpochDone, Event, Note, Progressed
from finetune.training.loop import LoopConfig
from finetune.training.optimizer import make_optimizer
from finetune.training.resolve import ResolvedConfig
from finetune.training.schedule import Schedule
from finetune.training.validation import Metric

LEFT_OUT = "left_out"
"""Event in log.jsonl of a photo that vanished or changed during the training."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that a training needs.

    Attributes:
        cache_dir: Folder of the collection's caches.
    """

    run: RunFolder
    config: ResolvedConfig
    loaded: LoadedModel
    preprocessing: Preprocessing
    data_split: DataSplit
    cache: PixelCache
    cache_dir: Path
    callback: Callback
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    world: World = SINGLE_PROCESS

    @property
    def continues(self) -> bool:
        """Whether the head continues from a parent run."""
        file = self.run.config_file
        # The start head of a full network trains in a folder without config.json.
        origin = self.run.read(file).get("from") if file.is_file() else None
        return bool(origin and origin.get("head", True))

    def datasets(self) -> dict[Part, PhotoDataset]:
        """Returns the photos of every part."""
        return {
            part: PhotoDataset(
                self.data_split.root,
                self.data_split.samples[part],
                self.cache,
                labels=self.data_split.width,
            )
            for part in PARTS
        }

    def augmentation(self) -> BatchAugment | PipelineAugment:
        """Returns the augmentation of the training photos."""
        return create_augmentation(
            self.config.augmentation.augment,
            self.preprocessing,
            seed=self.config.machine.seed,
            overrides=self.config.recipe,
        )

    def loading(self, device: torch.device) -> LoaderConfig:
        """Returns the loader config."""
        machine = self.config.machine
        return LoaderConfig(
            batch_size=self.config.training.batch_size,
            seed=machine.seed,
            workers=machine.workers,
            device=device,
            accumulate=self.config.optimization.accumulate,
            strata=self.data_split.training_strata(self.config.labels),
            world=self.world,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch."""
        size = self.config.training.batch_size * self.config.optimization.accumulate
        return steps_per_epoch(len(self.data_split.samples["train"]), size)

    def objective(self) -> Objective:
        """Returns the objective."""
        smoothing = self.config.training.label_smoothing
        return self.data_split.objective(self.config.labels, label_smoothing=smoothing)

    def loop_config(self, *, head_epochs: int = 0) -> LoopConfig:
        """Returns the loop config; only the head trains in the first `head_epochs`."""
        optimization = self.config.optimization
        minutes = optimization.checkpoint_minutes
        steps = self.steps_per_epoch
        return LoopConfig(
            epochs=self.config.training.epochs,
            steps_per_epoch=steps,
            schedule=Schedule(
                steps=self.config.training.epochs * steps,
                warmup=self.config.training.warmup,
                head_steps=head_epochs * steps,
                shape=optimization.schedule,
            ),
            objective=self.objective(),
            by_loss=self.data_split.task.ranks_by_loss,
            metrics=self.metrics,
            clip_norm=optimization.clip_norm,
            patience=optimization.patience,
            soup=optimization.soup,
            checkpoint_steps=optimization.checkpoint_steps,
            checkpoint_seconds=None if minutes is None else 60 * minutes,
            last=self.run.last_checkpoint,
            best=self.run.best_checkpoint,
            steps_folder=self.run.steps_folder,
            keep_checkpoints=optimization.keep_checkpoints,
        )

    def state(
        self,
        module: nn.Module,
        groups: list[dict[str, Any]],
        scaler: Any,
        *,
        optimizer: str | None = None,
    ) -> TrainState:
        """Returns the training state, from the last checkpoint if there is one.

        Args:
            module: The network, or a head on features, on its device.
            groups: Parameter groups of the optimizer.
            scaler: Loss scaling of fp16, or None.
            optimizer: Name; None: that of the settings.

        Raises:
            RunError: The checkpoint is damaged.
        """
        optimization = self.config.optimization
        state = TrainState(
            module,
            make_optimizer(groups, optimizer or optimization.optimizer),
            average=None if optimization.ema is None else WeightAverage(module, optimization.ema),
            scaler=scaler,
        )
        if self.world.is_main:
            remove_partial_files(self.run.last_checkpoint.parent)
        if self.run.last_checkpoint.is_file():
            state.load(self.run.last_checkpoint)
        return state

    def progress(self, stage: str, unit: str = "photos") -> Callable[[int, int], None]:
        """Returns a progress function that emits events of a stage."""
        return lambda done, total: self.callback(
            Progressed(stage=stage, done=done, total=total, unit=unit)
        )

    def leave_out(self, path: str, reason: str) -> None:
        """Notes and logs a photo that is left out of the rest of the training."""
        if not self.world.is_main:
            return
        self.callback(Note(text=f"{path} {reason}. It is left out of the rest of the training."))
        self.run.log({"event": LEFT_OUT, "path": path, "reason": reason})

    def without(self, lost: Mapping[str, str]) -> Prepared:
        """Returns the training without photos that were lost, by path with the reason."""
        for path, reason in lost.items():
            self.leave_out(path, reason)
        return dataclasses.replace(self, data_split=self.data_split.without(lost))

    def log(self, event: Event) -> None:
        """Emits an event and logs finished epochs in the run, in the main process."""
        if not self.world.is_main:
            return
        if isinstance(event, EpochDone):
            self.run.log({"event": "epoch", **vars(event)})
        self.callback(event)

"""A training made ready: settings, network, photos and folder, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finetune.augmentation.recipes import Recipe
from finetune.config import TrainConfig
from finetune.data.cache import PixelCache
from finetune.data.dataset import PhotoDataset
from finetune.data.loaders import steps_per_epoch
from finetune.models.factory import LoadedModel
from finetune.photos.collection import Part
from finetune.photos.spec import InputSpec
from finetune.runs.folder import RunFolder
from finetune.runs.parts import PARTS, Parts
from finetune.training.engine import Plan
from finetune.training.events import EpochDone, Event, Listener, Progressed
from finetune.training.material import Loading
from finetune.training.schedule import Schedule
from finetune.training.state import Position


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a training needs.

    Attributes:
        run: Where everything goes.
        config: Settings with nothing left undecided.
        loaded: The network with its new head.
        spec: What the network expects of its pixels.
        recipe: Augmentation, or None where a pipeline file is named.
        parts: The split collection.
        cache: Working squares of its photos.
        home: Folder of the collection's caches.
        listen: Who is told what happens.
    """

    run: RunFolder
    config: TrainConfig
    loaded: LoadedModel
    spec: InputSpec
    recipe: Recipe | None
    parts: Parts
    cache: PixelCache
    home: Path
    listen: Listener

    @property
    def mode(self) -> str:
        """``head`` or ``full``."""
        return self.config.training.mode or "head"

    @property
    def epochs(self) -> int:
        """Passes over the training photos."""
        return self.config.training.epochs or 1

    @property
    def lr(self) -> float:
        """Learning rate of the head."""
        return self.config.training.lr or 0.0

    def datasets(self) -> dict[Part, PhotoDataset]:
        """Returns the photos of every part."""
        return {
            part: PhotoDataset(self.parts.root, self.parts.samples[part], self.cache)
            for part in PARTS
        }

    def loading(self, device: torch.device) -> Loading:
        """Returns how batches are made."""
        machine = self.config.machine
        return Loading(
            batch_size=self.config.training.batch_size,
            seed=machine.seed,
            workers=machine.workers,
            device=device,
        )

    def plan(self, *, head_epochs: int = 0) -> Plan:
        """Returns how long and how fast; the first `head_epochs` are the head's alone."""
        training = self.config.training
        steps = steps_per_epoch(len(self.parts.samples["train"]), training.batch_size)
        return Plan(
            epochs=self.epochs,
            steps_per_epoch=steps,
            schedule=Schedule(
                steps=self.epochs * steps, warmup=training.warmup, head_steps=head_epochs * steps
            ),
            label_smoothing=training.label_smoothing,
            last=self.run.last_checkpoint,
            best=self.run.best_checkpoint,
        )

    def progress(self, stage: str) -> Callable[[int, int], None]:
        """Returns a callback that tells the listener how far a stage is."""
        return lambda done, total: self.listen(Progressed(stage=stage, done=done, total=total))

    def log(self, event: Event) -> None:
        """Tells the listener, and keeps what epochs came to in the run."""
        if isinstance(event, EpochDone):
            self.run.log({"event": "epoch", **vars(event)})
        self.listen(event)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to.

    Attributes:
        module: The network with its best weights, in eval mode and fp32.
        logits: ``(N, labels)`` of the validation and test photos, in their order.
        position: How far it came, and which epoch was best.
        finished: Whether it came to its last epoch.
    """

    module: nn.Module
    logits: dict[Part, NDArray[np.float32]]
    position: Position
    finished: bool

    def summary(self) -> dict[str, Any]:
        """Returns what config.json says of it."""
        return {
            "finished": self.finished,
            "best_epoch": self.position.best_epoch,
            "epochs_done": self.position.epoch,
            "training_seconds": round(self.position.seconds, 3),
        }

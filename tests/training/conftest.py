"""A training on numbers instead of photos: the loop itself in milliseconds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from finetune.config import MachineConfig
from finetune.tasks.single_label import SingleLabel
from finetune.training.averaging import WeightAverage
from finetune.training.checkpoints import TrainState
from finetune.training.data_source import LoaderConfig, MicroBatch, split_epoch
from finetune.training.device import make_accelerator
from finetune.training.events import Event
from finetune.training.loop import LoopConfig, fit
from finetune.training.optimizer import make_optimizer, parameter_groups
from finetune.training.schedule import Schedule
from finetune.training.validation import Outputs

PHOTOS, WIDTH, LABELS = 26, 6, 3


class Numbers:
    """Random points in the place of photos, with dropout, so that chance is part of each step."""

    def __init__(self, module: nn.Module, loading: LoaderConfig, dropout: float) -> None:
        rng = np.random.default_rng(5)
        self.module, self.loading, self.dropout = module, loading, dropout
        self.inputs = torch.from_numpy(rng.normal(0, 1, (PHOTOS, WIDTH)).astype(np.float32))
        self.targets = torch.from_numpy(rng.integers(0, LABELS, PHOTOS))
        self.epochs: list[int] = []

    def begin_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)
        self.module.train()

    def batches(self, epoch: int, first_step: int) -> Iterator[MicroBatch]:
        for cut in split_epoch(PHOTOS, self.loading, epoch, first_step):
            indices = torch.from_numpy(cut.indices)
            yield MicroBatch(
                inputs=functional.dropout(self.inputs[indices], self.dropout),
                targets=self.targets[indices],
                share=cut.share,
                completes=cut.completes,
            )

    @torch.no_grad()
    def validate(self) -> Outputs:
        self.module.eval()
        return Outputs(self.module(self.inputs).numpy(), self.targets.numpy())


@dataclass
class Toy:
    """A small training in a folder, with the settings that a test changes."""

    folder: Path
    epochs: int = 3
    batch_size: int = 8
    accumulate: int = 1
    optimizer: str = "adamw"
    ema: float | None = None
    dropout: float = 0.3
    norm: bool = True
    lr: float = 0.05
    loop_config: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def state(self) -> TrainState:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            interpolate = nn.BatchNorm1d(8) if self.norm else nn.Identity()
            net = nn.Sequential(nn.Linear(WIDTH, 8), interpolate, nn.Tanh(), nn.Linear(8, LABELS))
        groups = parameter_groups(net.parameters(), part="head", lr=self.lr, weight_decay=0.05)
        average = None if self.ema is None else WeightAverage(net, self.ema)
        return TrainState(net, make_optimizer(groups, self.optimizer), average=average)

    def loading(self) -> LoaderConfig:
        return LoaderConfig(
            batch_size=self.batch_size,
            seed=0,
            workers=0,
            device=torch.device("cpu"),
            accumulate=self.accumulate,
        )

    def numbers(self, state: TrainState) -> Numbers:
        """Data that the module of a state trains on."""
        return Numbers(state.module, self.loading(), self.dropout)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(PHOTOS / (self.batch_size * self.accumulate))

    def make_plan(self) -> LoopConfig:
        steps = self.steps_per_epoch
        loop_config = LoopConfig(
            epochs=self.epochs,
            steps_per_epoch=steps,
            schedule=Schedule(steps=self.epochs * steps, warmup=0.2),
            objective=SingleLabel().objective(label_smoothing=0.1),
            last=self.folder / "last.safetensors",
            best=self.folder / "best.safetensors",
        )
        return dataclasses.replace(loop_config, **self.loop_config)

    def train(
        self,
        stop: Callable[[TrainState], bool] = lambda state: False,
        state: TrainState | None = None,
        callback: Callable[[Event], None] | None = None,
    ) -> TrainState:
        """Trains from the checkpoint in the folder, or from the start, and returns the state."""
        state = state or self.state()
        loop_config = self.make_plan()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            if loop_config.last.is_file():
                state.load(loop_config.last)
            fit(
                state,
                self.numbers(state),
                loop_config,
                make_accelerator(MachineConfig(device="cpu")),
                callback=callback or self.events.append,
                stop=lambda: stop(state),
            )
        return state


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., Toy]:
    """Makes a `Toy`; the first argument names its folder."""

    def make(name: str = "toy", **changes: Any) -> Toy:
        return Toy(folder=tmp_path / name, **changes)

    return make

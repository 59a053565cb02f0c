"""Finds a learning rate for a person's photos and network, by trying."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finetune.augmentation.pipelines import create_augmentation
from finetune.config import TrainConfig
from finetune.data.dataset import PhotoDataset
from finetune.experiments.lr_sweep import Suggestion, Sweep, exponential_rates, suggest, sweep_lr
from finetune.models.features import standardization
from finetune.models.heads import FeatureHeads, has_linear_head
from finetune.photos.collection import Part
from finetune.training.checkpoints import TrainState
from finetune.training.data_source import EpochSchedule, FeatureSource, PhotoSource
from finetune.training.device import make_accelerator, require_one_process
from finetune.training.events import Callback, ignore
from finetune.training.head_start import give_head, starts_from_features
from finetune.training.linear_probe.heads import HEAD_OPTIMIZER, strengths_of
from finetune.training.linear_probe.probe import feature_cache, fill
from finetune.training.optimizer import DEFAULT_OPTIMIZER, make_optimizer
from finetune.training.prepare import prepare
from finetune.training.prepared import Prepared
from finetune.training.resolve import on_features
from finetune.training.unfreezing import thaw_of

if TYPE_CHECKING:
    from accelerate import Accelerator

STEPS = 100
"""Steps of a sweep over seven powers of ten."""


@dataclass(frozen=True, kw_only=True)
class FoundRate:
    """What a search for a learning rate came to.

    Attributes:
        sweep: What the loss did.
        suggestion: The rate to take, and why.
        usual: The rate that a training takes where none is given.
        model: timm's name of the network.
        mode: ``head``, ``full`` or ``gradual``.
        photos: Training photos.
        batch_size: Photos a step.
    """

    sweep: Sweep
    suggestion: Suggestion
    usual: float
    model: str
    mode: str
    photos: int
    batch_size: int


def find_lr(
    photos: Path | str,
    config: TrainConfig | None = None,
    *,
    steps: int = STEPS,
    callback: Callback = ignore,
) -> FoundRate:
    """Returns the learning rate that a short sweep over ever larger ones suggests.

    Nothing is kept but the collection's caches, which a training uses as well.

    Args:
        photos: As for `finetune.train`.
        config: Settings of the training that the rate is for.
        steps: Steps of the sweep.
        callback: Called with what happens.

    Raises:
        FinetuneError: Photos, settings, weights or device do not allow it; says why.
    """
    require_one_process("finetune lr-find")
    with prepare(Path(photos), config, callback=callback) as prepared:
        sweep = _sweep(prepared, steps)
        training = prepared.config.training
        return FoundRate(
            sweep=sweep,
            suggestion=suggest(sweep),
            usual=training.lr,
            model=prepared.loaded.name,
            mode=training.mode,
            photos=len(prepared.data_split.samples["train"]),
            batch_size=training.batch_size * prepared.config.optimization.accumulate,
        )


def _sweep(prepared: Prepared, steps: int) -> Sweep:
    accelerator = make_accelerator(prepared.config.machine)
    by_features = on_features(prepared.config, linear_head=has_linear_head(prepared.loaded.module))
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(prepared.config.machine.seed)
        sweep = _sweep_head if by_features else _sweep_network
        return sweep(prepared, accelerator, exponential_rates(steps))


def _sweep_head(prepared: Prepared, accelerator: Accelerator, rates: list[float]) -> Sweep:
    device = accelerator.device
    prepared.loaded.module.to(device)
    datasets: dict[Part, PhotoDataset] = {
        part: photos for part, photos in prepared.datasets().items() if part != "test"
    }
    with feature_cache(prepared, datasets) as features:
        views = fill(prepared, features, datasets)
        mean, std = standardization(features.read, [key for view in views for key in view])
        # The middle strength: the loss of a sweep is not that of what it is chosen by.
        strengths = strengths_of(prepared.config.training.head_l2)
        strength = strengths[len(strengths) // 2]
        heads = FeatureHeads(mean, std, len(prepared.data_split.labels), strengths=(strength,)).to(
            device
        )
        named = prepared.config.optimization.optimizer
        optimizer = HEAD_OPTIMIZER if named == DEFAULT_OPTIMIZER else named
        state = TrainState(
            heads, make_optimizer(heads.parameter_groups(lr=prepared.config.training.lr), optimizer)
        )
        objective = prepared.objective()
        source = FeatureSource(
            heads,
            features,
            (views, torch.from_numpy(datasets["train"].targets)),
            datasets["validation"],
            loading=prepared.loading(device),
            objective=objective,
        )
        progress = prepared.progress("Trying learning rates")
        return sweep_lr(state, source, objective, accelerator, rates, progress=progress)


def _sweep_network(prepared: Prepared, accelerator: Accelerator, rates: list[float]) -> Sweep:
    device = accelerator.device
    module = prepared.loaded.module.to(device)
    if device.type != "mps":
        module = module.to(memory_format=torch.channels_last)
    datasets = prepared.datasets()
    if starts_from_features(prepared):
        give_head(prepared, accelerator, datasets)
    thaw = thaw_of(prepared, module)
    loading = prepared.loading(device)
    # All that will train at any time: a rate that suits the head alone may be too much for it.
    everything = thaw.open(prepared.config.training.epochs - 1)
    source = PhotoSource(
        module,
        prepared.preprocessing,
        datasets["train"],
        datasets["validation"],
        augment=create_augmentation(
            prepared.config.augmentation.augment,
            prepared.preprocessing,
            seed=loading.seed,
            overrides=prepared.config.recipe,
        ),
        rhythm=EpochSchedule(open=lambda epoch: everything),
        loading=loading,
    )
    state = TrainState(module, make_optimizer(thaw.groups, prepared.config.optimization.optimizer))
    progress = prepared.progress("Trying learning rates")
    return sweep_lr(state, source, prepared.objective(), accelerator, rates, progress=progress)

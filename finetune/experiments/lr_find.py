"""Finds a learning rate for a person's photos and network, by trying."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finetune.augmentation.pipelines import create_augmentation
from finetune.config import TrainConfig
from finetune.data.dataset import PhotoDataset
from finetune.experiments.lr_sweep import Suggestion, Sweep, exponential_rates, suggest, sweep_lr
from finetune.files import collection_cache_dir
from finetune.models import factory
from finetune.models.features import standardization
from finetune.models.heads import FeatureHeads, has_linear_head
from finetune.models.registry import DEFAULT_MODEL
from finetune.photos.collection import Part
from finetune.runs.folder import RunFolder
from finetune.tasks.data_split import split_collection
from finetune.training.batch_size_choice import with_batch_size
from finetune.training.checkpoints import TrainState
from finetune.training.context import TrainingContext
from finetune.training.data_source import EpochSchedule, FeatureSource, PhotoSource
from finetune.training.defaults import DatasetSize, on_features, recipe_of, with_defaults, with_mode
from finetune.training.device import make_accelerator, require_one_process
from finetune.training.events import Callback, Note, ignore
from finetune.training.head_start import give_head, starts_from_features
from finetune.training.linear_probe.heads import HEAD_OPTIMIZER, strengths_of
from finetune.training.linear_probe.probe import feature_cache, fill
from finetune.training.optimizer import DEFAULT_OPTIMIZER, make_optimizer
from finetune.training.read_photos import pixel_cache, read_photos
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
    root = Path(photos)
    asked, notes = with_defaults(config or TrainConfig())
    recipe = recipe_of(asked)
    loaded = factory.create_model(
        factory.ModelRequest(
            name=asked.model.model or DEFAULT_MODEL,
            weights=asked.model.weights,
            size=asked.pixels.size,
            channels=asked.pixels.channels,
            fit=asked.pixels.fit,
            seed=asked.machine.seed,
            args=asked.model_args,
        )
    )
    whiten = loaded.preprocessing.whiten if recipe is None else recipe.whiten
    preprocessing = dataclasses.replace(loaded.preprocessing, whiten=whiten)
    cache_dir = collection_cache_dir(root, asked.collection.catalog)
    with (
        contextlib.closing(pixel_cache(cache_dir, preprocessing, asked)) as cache,
        tempfile.TemporaryDirectory(prefix="finetune-lr-") as folder,
    ):
        collection = read_photos(root, asked, cache, callback)
        parts = split_collection(collection, asked.collection, seed=asked.machine.seed)
        settled, more = with_mode(asked, DatasetSize.of(parts))
        count = len(parts.samples["train"])
        settled, last = with_batch_size(settled, asked, loaded.module, preprocessing, count)
        for note in (*notes, *parts.notes, *more, *last):
            callback(Note(text=note))
        factory.replace_head(loaded, len(parts.labels), seed=settled.machine.seed)
        context = TrainingContext(
            run=RunFolder(Path(folder)),
            config=settled,
            loaded=loaded,
            preprocessing=preprocessing,
            recipe=recipe_of(settled),
            parts=parts,
            cache=cache,
            cache_dir=cache_dir,
            callback=callback,
        )
        sweep = _sweep(context, steps)
    return FoundRate(
        sweep=sweep,
        suggestion=suggest(sweep),
        usual=context.lr,
        model=loaded.name,
        mode=context.mode,
        photos=count,
        batch_size=context.loading(torch.device("cpu")).step_size,
    )


def _sweep(context: TrainingContext, steps: int) -> Sweep:
    accelerator = make_accelerator(context.config.machine)
    by_features = on_features(context.config, linear_head=has_linear_head(context.loaded.module))
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(context.config.machine.seed)
        sweep = _sweep_head if by_features else _sweep_network
        return sweep(context, accelerator, exponential_rates(steps))


def _sweep_head(context: TrainingContext, accelerator: Accelerator, rates: list[float]) -> Sweep:
    device = accelerator.device
    context.loaded.module.to(device)
    datasets: dict[Part, PhotoDataset] = {
        part: photos for part, photos in context.datasets().items() if part != "test"
    }
    with feature_cache(context, datasets) as features:
        views = fill(context, features, datasets)
        mean, std = standardization(features.read, [key for view in views for key in view])
        # The middle strength: the loss of a sweep is not that of what it is chosen by.
        strengths = strengths_of(context.config.training.head_l2)
        strength = strengths[len(strengths) // 2]
        heads = FeatureHeads(mean, std, len(context.parts.labels), strengths=(strength,)).to(device)
        named = context.config.optimization.optimizer
        optimizer = HEAD_OPTIMIZER if named == DEFAULT_OPTIMIZER else named
        state = TrainState(heads, make_optimizer(heads.parameter_groups(lr=context.lr), optimizer))
        objective = context.objective()
        source = FeatureSource(
            heads,
            features,
            (views, torch.from_numpy(datasets["train"].targets)),
            datasets["validation"],
            loading=context.loading(device),
            objective=objective,
        )
        progress = context.progress("Trying learning rates")
        return sweep_lr(state, source, objective, accelerator, rates, progress=progress)


def _sweep_network(context: TrainingContext, accelerator: Accelerator, rates: list[float]) -> Sweep:
    device = accelerator.device
    module = context.loaded.module.to(device)
    if device.type != "mps":
        module = module.to(memory_format=torch.channels_last)
    datasets = context.datasets()
    if starts_from_features(context):
        give_head(context, accelerator, datasets)
    thaw = thaw_of(context, module)
    loading = context.loading(device)
    # All that will train at any time: a rate that suits the head alone may be too much for it.
    everything = thaw.open(context.epochs - 1)
    source = PhotoSource(
        module,
        context.preprocessing,
        datasets["train"],
        datasets["validation"],
        augment=create_augmentation(
            context.config.augmentation.augment or "none",
            context.preprocessing,
            seed=loading.seed,
            overrides=context.config.recipe,
        ),
        rhythm=EpochSchedule(open=lambda epoch: everything),
        loading=loading,
    )
    state = TrainState(module, make_optimizer(thaw.groups, context.config.optimization.optimizer))
    progress = context.progress("Trying learning rates")
    return sweep_lr(state, source, context.objective(), accelerator, rates, progress=progress)

"""Finds a learning rate for a person's photos and network, by trying."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finetune.augmentation.pipeline import augmentation
from finetune.config import TrainConfig
from finetune.data.dataset import PhotoDataset
from finetune.data.home import collection_home
from finetune.models import factory
from finetune.models.features import standardisation
from finetune.models.heads import FeatureHeads, has_linear_head
from finetune.models.naming import DEFAULT_MODEL
from finetune.photos.collection import Part
from finetune.runs.batch_size import with_batch_size
from finetune.runs.defaults import Holding, on_features, recipe_of, with_defaults, with_mode
from finetune.runs.folder import RunFolder
from finetune.runs.head_start import give_head, starts_from_features
from finetune.runs.heads import HEAD_OPTIMIZER, strengths_of
from finetune.runs.job import Job
from finetune.runs.on_features import feature_cache, fill
from finetune.runs.parts import split_collection
from finetune.runs.reading import pixel_cache, read_photos
from finetune.runs.thaw import thaw_of
from finetune.training.events import Listener, Note, ignore
from finetune.training.lr_sweep import Suggestion, Sweep, exponential_rates, suggest, sweep_lr
from finetune.training.machine import make_accelerator, require_one_process
from finetune.training.material import FeatureMaterial, PhotoMaterial, Rhythm
from finetune.training.optim import DEFAULT_OPTIMIZER, make_optimizer
from finetune.training.state import TrainState

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
    listen: Listener = ignore,
) -> FoundRate:
    """Returns the learning rate that a short sweep over ever larger ones suggests.

    Nothing is kept but the collection's caches, which a training uses as well.

    Args:
        photos: As for `finetune.train`.
        config: Settings of the training that the rate is for.
        steps: Steps of the sweep.
        listen: Called with what happens.

    Raises:
        FinetuneError: Photos, settings, weights or device do not allow it; says why.
    """
    require_one_process("finetune lr-find")
    root = Path(photos)
    asked, notes = with_defaults(config or TrainConfig())
    recipe = recipe_of(asked)
    loaded = factory.create(
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
    whiten = loaded.spec.whiten if recipe is None else recipe.whiten
    spec = dataclasses.replace(loaded.spec, whiten=whiten)
    home = collection_home(root, asked.collection.catalog)
    with (
        contextlib.closing(pixel_cache(home, spec, asked)) as cache,
        tempfile.TemporaryDirectory(prefix="finetune-lr-") as folder,
    ):
        collection = read_photos(root, asked, cache, listen)
        parts = split_collection(collection, asked.collection, seed=asked.machine.seed)
        settled, more = with_mode(asked, Holding.of(parts))
        count = len(parts.samples["train"])
        settled, last = with_batch_size(settled, asked, loaded.module, spec, count)
        for note in (*notes, *parts.notes, *more, *last):
            listen(Note(text=note))
        factory.replace_head(loaded, len(parts.labels), seed=settled.machine.seed)
        job = Job(
            run=RunFolder(Path(folder)),
            config=settled,
            loaded=loaded,
            spec=spec,
            recipe=recipe_of(settled),
            parts=parts,
            cache=cache,
            home=home,
            listen=listen,
        )
        sweep = _sweep(job, steps)
    return FoundRate(
        sweep=sweep,
        suggestion=suggest(sweep),
        usual=job.lr,
        model=loaded.name,
        mode=job.mode,
        photos=count,
        batch_size=job.loading(torch.device("cpu")).step_size,
    )


def _sweep(job: Job, steps: int) -> Sweep:
    accelerator = make_accelerator(job.config.machine)
    by_features = on_features(job.config, linear_head=has_linear_head(job.loaded.module))
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(job.config.machine.seed)
        sweep = _sweep_head if by_features else _sweep_network
        return sweep(job, accelerator, exponential_rates(steps))


def _sweep_head(job: Job, accelerator: Accelerator, rates: list[float]) -> Sweep:
    device = accelerator.device
    job.loaded.module.to(device)
    datasets: dict[Part, PhotoDataset] = {
        part: photos for part, photos in job.datasets().items() if part != "test"
    }
    with feature_cache(job, datasets) as features:
        views = fill(job, features, datasets)
        mean, std = standardisation(features.read, [key for view in views for key in view])
        # The middle strength: the loss of a sweep is not that of what it is chosen by.
        strengths = strengths_of(job.config.training.head_l2)
        strength = strengths[len(strengths) // 2]
        heads = FeatureHeads(mean, std, len(job.parts.labels), strengths=(strength,)).to(device)
        named = job.config.optimization.optimizer
        optimizer = HEAD_OPTIMIZER if named == DEFAULT_OPTIMIZER else named
        state = TrainState(heads, make_optimizer(heads.parameter_groups(lr=job.lr), optimizer))
        objective = job.objective()
        material = FeatureMaterial(
            heads,
            features,
            (views, torch.from_numpy(datasets["train"].targets)),
            datasets["validation"],
            loading=job.loading(device),
            objective=objective,
        )
        progress = job.progress("Trying learning rates")
        return sweep_lr(state, material, objective, accelerator, rates, progress=progress)


def _sweep_network(job: Job, accelerator: Accelerator, rates: list[float]) -> Sweep:
    device = accelerator.device
    module = job.loaded.module.to(device)
    if device.type != "mps":
        module = module.to(memory_format=torch.channels_last)
    datasets = job.datasets()
    if starts_from_features(job):
        give_head(job, accelerator, datasets)
    thaw = thaw_of(job, module)
    loading = job.loading(device)
    # All that will train at any time: a rate that suits the head alone may be too much for it.
    everything = thaw.open(job.epochs - 1)
    material = PhotoMaterial(
        module,
        job.spec,
        datasets["train"],
        datasets["validation"],
        augment=augmentation(
            job.config.augmentation.augment or "none",
            job.spec,
            seed=loading.seed,
            overrides=job.config.recipe,
        ),
        rhythm=Rhythm(open=lambda epoch: everything),
        loading=loading,
    )
    state = TrainState(module, make_optimizer(thaw.groups, job.config.optimization.optimizer))
    progress = job.progress("Trying learning rates")
    return sweep_lr(state, material, job.objective(), accelerator, rates, progress=progress)

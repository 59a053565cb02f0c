"""Resolution of a training config: a value and a reason for every unset setting."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import nn

from finetune.augmentation.pipelines import is_pipeline_file
from finetune.augmentation.recipes import Recipe, named
from finetune.config import (
    AugmentationConfig,
    Mode,
    ModelConfig,
    TrainConfig,
    TrainingConfig,
)
from finetune.data.loaders import steps_per_epoch
from finetune.errors import ConfigError
from finetune.models import factory, registry
from finetune.models.factory import check_drop_path, check_smaller_input
from finetune.models.heads import has_linear_head
from finetune.photos.collection import Collection
from finetune.photos.preprocessing import Preprocessing
from finetune.tasks.data_split import DataSplit
from finetune.training.batch_size import (
    REFERENCE_BATCH_SIZE,
    is_linear,
    lr_factor,
    max_batch_size,
    try_batch_sizes,
)
from finetune.training.device import choose_device
from finetune.training.distributed import World
from finetune.training.optimizer import DEFAULT_OPTIMIZER, check_optimizer, default_lr

DEFAULT_EPOCHS = {"head": 25, "full": 12, "gradual": 12}
DEFAULT_RECIPE = {"head": "none", "full": "standard", "gradual": "standard"}
DEFAULT_WARMUP = {"cosine": 0.1, "constant": 0.1, "one_cycle": 0.3}
DEFAULT_BACKBONE_SHARE = 0.1
"""Learning rate of a pretrained backbone as a share of the head's. The average with the weights
before training makes up for what larger steps forget."""

DEFAULT_SMOOTHING = 0.1
"""Label smoothing where a randomly initialized head trains on photos. The penalty of a head on
cached features is chosen by log loss, which smoothing distorts; and a full network that starts from
such a head would lose its confidence."""

MAX_CROSS_VALIDATED = 5000
"""Most photos that are cross-validated by default."""

FULL_FROM = 30
"""Training photos a label from which the full network trains by default on a GPU."""

STEP_SETTINGS = (
    "epochs",
    "head_epochs",
    "batch_size",
    "lr",
    "backbone_lr_scale",
    "weight_decay",
    "warmup",
)
"""Training settings of steps, which a head on cached features does not make."""

BACKBONE_SETTINGS = ("layer_decay", "freeze_norm", "drop_path", "progressive_size")
"""Settings of backbone training; setting one selects a mode that trains the backbone."""


@dataclass(frozen=True, kw_only=True)
class ResolvedModel(ModelConfig):
    """Network with its name decided."""

    model: str = dataclasses.field()


@dataclass(frozen=True, kw_only=True)
class ResolvedAugmentation(AugmentationConfig):
    """Augmentation with its recipe or pipeline file decided."""

    augment: str = dataclasses.field()


@dataclass(frozen=True, kw_only=True)
class ResolvedTraining(TrainingConfig):
    """Training settings without unset values."""

    mode: Mode = dataclasses.field()
    epochs: int = dataclasses.field()
    batch_size: int = dataclasses.field()
    lr: float = dataclasses.field()
    backbone_lr_scale: float = dataclasses.field()
    warmup: float = dataclasses.field()
    label_smoothing: float = dataclasses.field()


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(TrainConfig):
    """Training config with every setting decided that a training needs."""

    model: ResolvedModel = dataclasses.field()
    augmentation: ResolvedAugmentation = dataclasses.field()
    training: ResolvedTraining = dataclasses.field()

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        """Returns a config whose settings have all been decided before, such as a run's.

        Raises:
            ConfigError: A setting is unset.
        """
        narrowed: dict[str, Any] = {
            "model": _narrow(config.model, ResolvedModel),
            "augmentation": _narrow(config.augmentation, ResolvedAugmentation),
            "training": _narrow(config.training, ResolvedTraining),
        }
        return cls(**{f.name: getattr(config, f.name) for f in fields(config)} | narrowed)

    @property
    def recipe_or_none(self) -> Recipe | None:
        """Augmentation recipe; None where a pipeline file is named."""
        return recipe_of(self.augmentation.augment, self)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Setting chosen for the user, with the reason."""

    setting: str
    value: Any
    reason: str


@dataclass(frozen=True)
class DatasetSize:
    """Numbers of training photos and labels, which determine defaults."""

    photos: int
    labels: int

    @classmethod
    def of(cls, data_split: DataSplit) -> DatasetSize:
        """Returns the size of a split's training part."""
        return cls(len(data_split.samples["train"]), len(data_split.labels))


def resolve_network(requested: TrainConfig) -> tuple[TrainConfig, tuple[Decision, ...]]:
    """Returns the config with all settings resolved that do not depend on the photos.

    Raises:
        ConfigError: Settings that contradict one another.
        DeviceError: The device does not exist.
        ModelError: The network does not support the requested settings.
        AugmentError: There is no such recipe, or a value of it is invalid.
    """
    decisions = []
    model, optimization, mode = requested.model, requested.optimization, requested.training.mode
    device = choose_device(requested.machine.device)
    name, reason = model.model or registry.DEFAULT_MODEL, None
    if model.weights is None:
        if model.model is None:
            name, reason = registry.default_model(device.type, download=model.download)
        else:
            name, reason = registry.transfer_name(name)
    if reason:
        decisions.append(Decision(setting="model", value=name, reason=reason))
    check_optimizer(optimization.optimizer, device.type)
    if mode in ("head", "gradual") and model.weights == factory.FROM_SCRATCH:
        raise ConfigError(
            f"--mode {mode} with --weights none would train a head on random "
            "features; use --mode full."
        )
    of_the_backbone = _given(requested, BACKBONE_SETTINGS)
    if mode == "head" and of_the_backbone:
        raise ConfigError(
            "--mode head does not train the backbone; use --mode full, or leave out "
            f"{_joined(of_the_backbone)}."
        )
    arguments = dict(requested.model_args)
    if optimization.drop_path:
        check_drop_path(registry.check_name(name), optimization.drop_path)
        arguments["drop_path_rate"] = optimization.drop_path
    if optimization.progressive_size:
        full = registry.resolve_preprocessing(registry.check_name(name), size=requested.pixels.size)
        check_smaller_input(
            name, size=full.size, smaller=optimization.progressive_size, args=arguments
        )
    resolved = dataclasses.replace(
        requested,
        model=_narrow(dataclasses.replace(model, model=name), ResolvedModel),
        model_args=arguments,
        recipe=_with_mixing(requested),
    )
    recipe_of(requested.augmentation.augment, resolved)
    return resolved, tuple(decisions)


def cross_validates(config: TrainConfig, collection: Collection, module: nn.Module) -> bool:
    """Returns whether a head trains on all photos, with metrics by cross-validation.

    That is so where folds cost seconds: for a head on cached features of a moderate number of
    photos, unless parts are requested or ready-made. With several labels per photo, thresholds
    would be fitted on the very photos that they are evaluated on.
    """
    if config.labels.multi_label:
        return False
    requested = config.collection
    if requested.validation is not None or requested.test is not None or collection.has_parts:
        return False
    labeled = sum(bool(photo.labels) for photo in collection.photos)
    size = DatasetSize(labeled, len(collection.labels))
    if size.photos > MAX_CROSS_VALIDATED:
        return False
    mode = config.training.mode or _default_mode(config, size)
    recipe = recipe_of(_augment(config, mode), config)
    return _caches_features(mode, recipe, config.training.views) and has_linear_head(module)


def _augment(config: TrainConfig, mode: Mode) -> str:
    """Returns the requested recipe, or the default."""
    default = "light" if mode == "head" and config.training.views > 1 else DEFAULT_RECIPE[mode]
    if mode != "head":
        default = registry.default_recipe(config.model.model or "") or default
    return config.augmentation.augment or default


def resolve_training(
    config: TrainConfig,
    dataset_size: DatasetSize,
    module: nn.Module,
    preprocessing: Preprocessing,
    *,
    keeps_head: bool = False,
) -> tuple[ResolvedConfig, tuple[Decision, ...]]:
    """Returns the fully resolved config, and the decisions with their reasons.

    Args:
        config: As `resolve_network` returns it.
        dataset_size: Training photos and labels.
        module: The network, on the CPU.
        preprocessing: Of the network.
        keeps_head: Whether the network comes with a trained head for these labels.

    Raises:
        ConfigError: Settings that contradict one another.
        DeviceError: Not even one photo fits into the device's memory.
        AugmentError: There is no such recipe, or a value of it is invalid.
    """
    decisions = []
    requested, optimization = config.training, config.optimization
    from_scratch = config.model.weights == factory.FROM_SCRATCH
    mode = requested.mode or _default_mode(config, dataset_size)
    augment = _augment(config, mode)
    if optimization.progressive_size and is_pipeline_file(augment):
        raise ConfigError(
            f"--progressive-size needs a recipe: the pipeline file {augment} gives photos of one "
            "size."
        )
    recipe = recipe_of(augment, config)
    linear_head = has_linear_head(module)
    cached = _caches_features(mode, recipe, requested.views)
    if requested.mode is None:
        decisions.append(
            Decision(
                setting="mode", value=mode, reason=_why(config, dataset_size, mode, cached=cached)
            )
        )
    fits_head = cached and linear_head
    unused = _unused_by_head(config) if fits_head else []
    if unused:
        has = "has" if len(unused) == 1 else "have"
        reason = f"A head is fitted without steps: {_joined(unused)} {has} no effect."
        decisions.append(Decision(setting="epochs", value=1, reason=reason))
    default_rate = default_lr(optimization.optimizer)
    if requested.lr is None and optimization.optimizer != DEFAULT_OPTIMIZER and not fits_head:
        reason = f"Learning rate {default_rate:g}, the default for {optimization.optimizer}."
        decisions.append(Decision(setting="lr", value=default_rate, reason=reason))
    batch_size = requested.batch_size
    device = choose_device(config.machine.device)
    if batch_size is None and (device.type == "cpu" or fits_head):
        batch_size = REFERENCE_BATCH_SIZE
    elif batch_size is None:
        most = max_batch_size(dataset_size.photos // optimization.accumulate)
        frozen = mode == "head"
        batch_size = try_batch_sizes(
            module, preprocessing, device, config.machine, frozen=frozen, most=most
        )
        if batch_size != REFERENCE_BATCH_SIZE:
            why = (
                "the most that memory holds"
                if batch_size < most
                else f"enough for {dataset_size.photos:,} photos, and memory holds them"
            )
            reason = f"Batch size {batch_size}: {why}."
            decisions.append(Decision(setting="batch_size", value=batch_size, reason=reason))
    lr = default_rate if requested.lr is None else requested.lr
    step_size = batch_size * optimization.accumulate
    factor = lr_factor(step_size, optimization.optimizer)
    if requested.lr is None and factor != 1 and not fits_head:
        rule = "in proportion" if is_linear(optimization.optimizer) else "by the square root"
        reason = (
            f"Learning rate {lr * factor:.3g} for {step_size} photos a step: {lr:g} is "
            f"for {REFERENCE_BATCH_SIZE}, and is scaled {rule}."
        )
        lr *= factor
        decisions.append(Decision(setting="lr", value=lr, reason=reason))
    scale, warmup = requested.backbone_lr_scale, requested.warmup
    if scale is None:
        scale = 1.0 if from_scratch else DEFAULT_BACKBONE_SHARE
    if warmup is None:
        warmup = DEFAULT_WARMUP[optimization.schedule]
    smoothing = requested.label_smoothing
    if smoothing is None:
        random_head = requested.head_epochs is not None or from_scratch
        smoothing = DEFAULT_SMOOTHING if (not cached if mode == "head" else random_head) else 0.0
    statistics = optimization.norm_statistics
    if statistics is None and mode != "head":
        statistics = "batch" if from_scratch else "kept"
    decided = {
        "mode": mode,
        "epochs": 1 if fits_head else requested.epochs or DEFAULT_EPOCHS[mode],
        "head_epochs": 0 if keeps_head and requested.head_epochs is None else requested.head_epochs,
        "batch_size": batch_size,
        "lr": lr,
        "backbone_lr_scale": scale,
        "warmup": warmup,
        "label_smoothing": smoothing,
    }
    done = dataclasses.replace(
        config,
        training=dataclasses.replace(requested, **decided),  # type: ignore[arg-type]
        optimization=dataclasses.replace(optimization, norm_statistics=statistics),
        augmentation=dataclasses.replace(config.augmentation, augment=augment),
    )
    return ResolvedConfig.of(done), tuple(decisions)


def uses_cached_features(config: ResolvedConfig, *, linear_head: bool) -> bool:
    """Returns whether a training fits a head on cached features."""
    cached = _caches_features(config.training.mode, config.recipe_or_none, config.training.views)
    return cached and linear_head


def requests_cached_head(config: TrainConfig) -> bool:
    """Returns whether settings alone request a head on cached features, before photos are read.

    A network without one linear head is trained in steps nevertheless.
    """
    if config.training.mode != "head":
        return False
    recipe = recipe_of(_augment(config, "head"), config)
    return _caches_features("head", recipe, config.training.views)


def recipe_of(augment: str | None, config: TrainConfig) -> Recipe | None:
    """Returns an augmentation recipe with a config's overrides, or None for a pipeline file.

    Raises:
        AugmentError: There is no such recipe or file, or a value of it is invalid.
    """
    name = augment or "none"
    return None if is_pipeline_file(name) else named(name, config.recipe)


def check_shares(world: World, photos: int, *, batch_size: int, accumulate: int) -> None:
    """Checks that every process gets a photo of each batch.

    Raises:
        ConfigError: A batch has fewer photos than there are processes.
    """
    step = photos // steps_per_epoch(photos, batch_size * accumulate)
    smallest = step // math.ceil(step / batch_size)
    if smallest < world.count:
        raise ConfigError(
            f"--batch-size {batch_size}: a batch of {smallest} photos is too small for "
            f"{world.count} processes, since each trains on a share of it. Start fewer processes."
        )


def _narrow(section: Any, kind: type[Any]) -> Any:
    """Returns a section of a config as its resolved kind."""
    values = {f.name: getattr(section, f.name) for f in fields(section)}
    for field in fields(kind):
        if field.default is dataclasses.MISSING and values.get(field.name) is None:
            raise ConfigError(f"--{field.name.replace('_', '-')} is not decided.")
    return kind(**values)


def _caches_features(mode: Mode, recipe: Recipe | None, views: int) -> bool:
    unchanged = recipe is not None and (recipe == named("none") or views > 1)
    return mode == "head" and unchanged


def _default_mode(config: TrainConfig, dataset_size: DatasetSize) -> Mode:
    if config.model.weights == factory.FROM_SCRATCH or _given(config, BACKBONE_SETTINGS):
        return "full"
    if choose_device(config.machine.device).type == "cpu":
        return "head"
    return "full" if dataset_size.photos >= FULL_FROM * dataset_size.labels else "head"


def _why(config: TrainConfig, dataset_size: DatasetSize, mode: Mode, *, cached: bool) -> str:
    """Returns the reason of the default mode."""
    device = choose_device(config.machine.device).type
    counted = f"{dataset_size.photos:,} photos"
    if mode == "head":
        what = "head on cached features" if cached else "head"
        if device == "cpu":
            return f"CPU, {counted}: {what}. Add --mode full for the full network."
        return (
            f"{device.upper()}, {counted} of {dataset_size.labels} labels, fewer than "
            f"{FULL_FROM} each: {what}. Add --mode full for the full network."
        )
    if config.model.weights == factory.FROM_SCRATCH:
        return f"No pretrained weights, {counted}: the full network trains."
    requested = _given(config, BACKBONE_SETTINGS)
    if requested:
        return f"{_joined(requested)}, {counted}: the full network trains."
    return (
        f"{device.upper()}, {counted} of {dataset_size.labels} labels, {FULL_FROM} each or more: "
        "the full network trains."
    )


def _unused_by_head(config: TrainConfig) -> list[str]:
    """Returns the flags of requested settings that fitting a head does not use."""
    flags = []
    for section, names in (
        (config.training, STEP_SETTINGS),
        (config.optimization, [field.name for field in fields(config.optimization)]),
    ):
        default = type(section)()
        flags += [
            f"--{name.replace('_', '-')}"
            for name in names
            if getattr(section, name) != getattr(default, name)
        ]
    return flags


def _given(config: TrainConfig, names: tuple[str, ...]) -> list[str]:
    """Returns the flags of the named optimization settings that are on."""
    optimization = config.optimization
    return [f"--{name.replace('_', '-')}" for name in names if getattr(optimization, name)]


def _joined(flags: list[str]) -> str:
    return " and ".join([", ".join(flags[:-1]), flags[-1]] if len(flags) > 1 else flags)


def _with_mixing(config: TrainConfig) -> dict[str, Any]:
    """Returns the recipe overrides with those of ``--mixup`` and ``--cutmix`` added."""
    given = config.augmentation
    if given.mixup is None and given.cutmix is None:
        return dict(config.recipe)
    mixup, cutmix = given.mixup or 0.0, given.cutmix or 0.0
    both = mixup + cutmix
    if both > 1:
        raise ConfigError(
            f"--mixup {mixup:g} and --cutmix {cutmix:g}: each step uses one of them, so their "
            "probabilities must add up to at most 1."
        )
    share = cutmix / both if both else 0.0
    return {**config.recipe, "mix_probability": both, "cutmix_share": share}

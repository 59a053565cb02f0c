"""What a training does where a person has not said: decided for this machine, and said aloud."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from finetune.augmentation.pipelines import is_pipeline_file
from finetune.augmentation.recipes import Recipe, named
from finetune.config import Mode, ModelConfig, TrainConfig
from finetune.errors import ConfigError
from finetune.models import factory
from finetune.models import registry as naming
from finetune.models.factory import check_drop_path, check_smaller_input
from finetune.tasks.data_split import DataSplit
from finetune.training.device import choose_device
from finetune.training.optimizer import DEFAULT_OPTIMIZER, check_optimizer, usual_lr

DEFAULT_EPOCHS = {"head": 25, "full": 12, "gradual": 12}
DEFAULT_RECIPE = {"head": "none", "full": "standard", "gradual": "standard"}
DEFAULT_WARMUP = {"cosine": 0.1, "constant": 0.1, "one_cycle": 0.3}
DEFAULT_BACKBONE_SHARE = 0.03
"""Of the head's rate, where the backbone is pretrained: it starts under a head that is right about
most photos, and larger steps unlearn more than a hundred photos a label can show to be wrong."""

DEFAULT_SMOOTHING = 0.1
"""Where a head begins to learn from nothing. Not of one on cached features: validation chooses its
penalty by log loss, which smoothing blurs. Nor where the full network starts from such a head: it
is as sure as it has reason to be, and smoothing would have the backbone unlearn that."""

FULL_FROM = 30
"""Training photos a label from which the full network trains where a GPU makes it quick."""

OF_THE_BACKBONE = ("layer_decay", "freeze_norm", "drop_path", "progressive_size")
"""Settings that say how the backbone trains, and so ask that it does."""


@dataclass(frozen=True)
class DatasetSize:
    """What a default depends on.

    Attributes:
        photos: Photos to learn from.
        labels: Labels to tell apart.
    """

    photos: int
    labels: int

    @classmethod
    def of(cls, parts: DataSplit) -> DatasetSize:
        """Returns the holding of a collection that is split."""
        return cls(len(parts.samples["train"]), len(parts.labels))


def with_defaults(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Returns the config with all decided that does not depend on the photos, and why.

    Raises:
        ConfigError: Settings that contradict one another.
        DeviceError: The device is not there.
        ModelError: The network cannot do what was asked.
    """
    notes = []
    model = config.model
    if model.model is None:
        name, note = (
            naming.default_model() if model.weights is None else (naming.DEFAULT_MODEL, None)
        )
        notes.extend([note] if note else [])
        model = ModelConfig(model=name, weights=model.weights)
    device = choose_device(config.machine.device)
    check_optimizer(config.optimization.optimizer, device.type)
    mode = config.training.mode
    if mode in ("head", "gradual") and model.weights == factory.FROM_SCRATCH:
        raise ConfigError(
            f"--mode {mode} with --weights none would train a head on a backbone that knows "
            "nothing; use --mode full."
        )
    of_the_backbone = _given(config, OF_THE_BACKBONE)
    if mode == "head" and of_the_backbone:
        raise ConfigError(
            f"--mode head leaves the backbone as it is, so that {_in_words(of_the_backbone)} can "
            "do nothing; use --mode full, or leave it out."
        )
    model_args = dict(config.model_args)
    name = model.model or naming.DEFAULT_MODEL
    if config.optimization.drop_path:
        rate = config.optimization.drop_path
        check_drop_path(naming.check_name(name), rate)
        model_args["drop_path_rate"] = rate
    if config.optimization.progressive_size:
        full = naming.resolve_preprocessing(naming.check_name(name), size=config.pixels.size).size
        smaller = config.optimization.progressive_size
        check_smaller_input(name, size=full, smaller=smaller, args=model_args)
    done = dataclasses.replace(
        config, model=model, model_args=model_args, recipe=_with_mixing(config)
    )
    return done, notes


def with_mode(config: TrainConfig, dataset_size: DatasetSize) -> tuple[TrainConfig, list[str]]:
    """Returns the config of `with_defaults` with nothing left undecided, and why.

    Raises:
        ConfigError: Settings that contradict one another.
        AugmentError: There is no such recipe, or a number of it cannot work.
    """
    notes = []
    training, optimization = config.training, config.optimization
    mode = training.mode or _mode_for(config, dataset_size)
    recipe = "light" if mode == "head" and training.views > 1 else DEFAULT_RECIPE[mode]
    if mode != "head":
        recipe = naming.default_recipe(config.model.model or "") or recipe
    augment = config.augmentation.augment or recipe
    scale = training.backbone_lr_scale
    if scale is None:
        # Without pretrained weights there is nothing to be careful with.
        scale = 1.0 if config.model.weights == factory.FROM_SCRATCH else DEFAULT_BACKBONE_SHARE
    statistics = optimization.norm_statistics
    if statistics is None and mode != "head":
        statistics = "batch" if config.model.weights == factory.FROM_SCRATCH else "kept"
    warmup = training.warmup
    done = dataclasses.replace(
        config,
        training=dataclasses.replace(
            training,
            mode=mode,
            epochs=training.epochs or DEFAULT_EPOCHS[mode],
            lr=training.lr or usual_lr(optimization.optimizer),
            backbone_lr_scale=scale,
            warmup=DEFAULT_WARMUP[optimization.schedule] if warmup is None else warmup,
        ),
        optimization=dataclasses.replace(optimization, norm_statistics=statistics),
        augmentation=dataclasses.replace(config.augmentation, augment=augment),
    )
    if training.label_smoothing is None:
        smoothing = DEFAULT_SMOOTHING if _learns_from_nothing(done) else 0.0
        changed = dataclasses.replace(done.training, label_smoothing=smoothing)
        done = dataclasses.replace(done, training=changed)
    if training.mode is None:
        notes.append(_why(done, dataset_size))
    if training.lr is None and optimization.optimizer != DEFAULT_OPTIMIZER:
        notes.append(
            f"Learning rate {done.training.lr:g}, as is usual for {optimization.optimizer}."
        )
    if optimization.progressive_size and is_pipeline_file(augment):
        raise ConfigError(
            f"--progressive-size needs a recipe: the pipeline file {augment} gives photos of one "
            "size."
        )
    return done, notes


def on_features(config: TrainConfig, *, linear_head: bool) -> bool:
    """Returns whether a settled config trains a head on features that are computed once.

    Args:
        config: As `with_mode` returns it.
        linear_head: Whether the network's head is one linear layer.
    """
    recipe = recipe_of(config)
    unchanged = recipe is not None and (recipe == named("none") or config.training.views > 1)
    return config.training.mode == "head" and unchanged and linear_head


def _learns_from_nothing(config: TrainConfig) -> bool:
    """Returns whether a settled config asks for a head that begins at photos as random numbers.

    What the network is does not count: one whose head is no single linear layer has an epoch of its
    head alone, without smoothing.
    """
    if config.training.mode == "head":
        return not on_features(config, linear_head=True)
    given = config.training.head_epochs is not None
    return given or config.model.weights == factory.FROM_SCRATCH


def recipe_of(config: TrainConfig) -> Recipe | None:
    """Returns the augmentation recipe of a config, or None where it names a pipeline file.

    Raises:
        AugmentError: There is no such recipe or file, or a number of it cannot work.
    """
    name = config.augmentation.augment or "none"
    if is_pipeline_file(name):
        return None
    return named(name, config.recipe)


def _mode_for(config: TrainConfig, dataset_size: DatasetSize) -> Mode:
    if config.model.weights == factory.FROM_SCRATCH or _given(config, OF_THE_BACKBONE):
        return "full"
    if choose_device(config.machine.device).type == "cpu":
        return "head"
    return "full" if dataset_size.photos >= FULL_FROM * dataset_size.labels else "head"


def _why(config: TrainConfig, dataset_size: DatasetSize) -> str:
    """Says which mode was chosen, and from what."""
    device = choose_device(config.machine.device).type
    counted = f"{dataset_size.photos:,} photos"
    if config.training.mode == "head":
        where = "head on cached features" if on_features(config, linear_head=True) else "head"
        if device == "cpu":
            return f"CPU, {counted}: {where}. Add --mode full for the full network."
        return (
            f"{device.upper()}, {counted} of {dataset_size.labels} labels, fewer than "
            f"{FULL_FROM} each: "
            f"{where}. Add --mode full for the full network."
        )
    if config.model.weights == factory.FROM_SCRATCH:
        return f"No pretrained weights, {counted}: the full network trains."
    asked = _given(config, OF_THE_BACKBONE)
    if asked:
        return f"{_in_words(asked)}, {counted}: the full network trains."
    return (
        f"{device.upper()}, {counted} of {dataset_size.labels} labels, {FULL_FROM} each or more: "
        "the full network trains."
    )


def _given(config: TrainConfig, names: tuple[str, ...]) -> list[str]:
    """Returns the flags of those optimization settings that are switched on."""
    optimization = config.optimization
    return [f"--{name.replace('_', '-')}" for name in names if getattr(optimization, name)]


def _in_words(flags: list[str]) -> str:
    return " and ".join([", ".join(flags[:-1]), flags[-1]] if len(flags) > 1 else flags)


def _with_mixing(config: TrainConfig) -> dict[str, Any]:
    """Returns the recipe's numbers with those of ``--mixup`` and ``--cutmix`` laid over them.

    Raises:
        ConfigError: Their chances are more than 1 together.
    """
    given = config.augmentation
    if given.mixup is None and given.cutmix is None:
        return dict(config.recipe)
    mixup, cutmix = given.mixup or 0.0, given.cutmix or 0.0
    both = mixup + cutmix
    if both > 1:
        raise ConfigError(
            f"--mixup {mixup:g} and --cutmix {cutmix:g}: a step is mixed in one way, so that their "
            "chances must not be more than 1 together."
        )
    share = cutmix / both if both else 0.0
    return {**config.recipe, "mix_probability": both, "cutmix_share": share}

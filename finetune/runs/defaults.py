"""What a training does where a person has not said: decided for this machine, and said aloud."""

from __future__ import annotations

import dataclasses

from finetune.augmentation.pipeline import is_pipeline_file
from finetune.augmentation.recipes import Recipe, named
from finetune.config import Mode, ModelConfig, TrainConfig
from finetune.errors import ConfigError
from finetune.models import factory
from finetune.training.machine import choose_device

DEFAULT_EPOCHS = {"head": 25, "full": 12}
DEFAULT_LR = 0.001
DEFAULT_RECIPE = {"head": "none", "full": "standard"}


def with_defaults(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Returns the config with every "not set" that training must know decided, and why.

    Raises:
        ConfigError: Settings that contradict one another.
        DeviceError: The device is not there.
    """
    notes = []
    model = config.model
    if model.model is None:
        name, note = (
            factory.choose_model() if model.weights is None else (factory.DEFAULT_MODEL, None)
        )
        notes.extend([note] if note else [])
        model = ModelConfig(model=name, weights=model.weights)
    training = config.training
    device = choose_device(config.machine.device)
    scratch = model.weights == factory.FROM_SCRATCH
    mode: Mode
    if training.mode is None:
        if scratch:
            mode, why = "full", "no pretrained weights: the full network trains"
        elif device.type == "cpu":
            mode, why = "head", "on the CPU the head trains; add --mode full for the full network"
        else:
            mode, why = "full", f"on {device.type} the full network trains"
        notes.append(f"Mode {mode}: {why}.")
    else:
        mode = training.mode
    if mode == "head" and scratch:
        raise ConfigError(
            "--mode head with --weights none would train a head on a backbone that knows nothing; "
            "use --mode full."
        )
    training = dataclasses.replace(
        training,
        mode=mode,
        epochs=training.epochs or DEFAULT_EPOCHS[mode],
        lr=training.lr or DEFAULT_LR,
    )
    recipe = "light" if mode == "head" and training.views > 1 else DEFAULT_RECIPE[mode]
    augmentation = dataclasses.replace(
        config.augmentation, augment=config.augmentation.augment or recipe
    )
    done = dataclasses.replace(config, model=model, training=training, augmentation=augmentation)
    return done, notes


def recipe_of(config: TrainConfig) -> Recipe | None:
    """Returns the augmentation recipe of a config, or None where it names a pipeline file.

    Raises:
        AugmentError: There is no such recipe or file, or a number of it cannot work.
    """
    name = config.augmentation.augment or "none"
    if is_pipeline_file(name):
        return None
    return named(name, config.recipe)

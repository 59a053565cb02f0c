"""One setting of a training, with another value: what a sweep is made of."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from finetune.augmentation.recipes import Recipe
from finetune.config import TrainConfig
from finetune.config_io import resolve, settings, strip_none, to_dict
from finetune.errors import ConfigError

RECIPE_NUMBERS = frozenset(item.name for item in fields(Recipe))


def parse_sweep(text: str) -> tuple[str, list[str]]:
    """Returns the setting and the values of ``NAME=VALUE,VALUE``.

    Raises:
        ConfigError: It is not of that form, names no setting, or fewer than two different values.

    Example:
        >>> parse_sweep("size=32,128,224")
        ('size', ['32', '128', '224'])
    """
    name, equals, rest = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    values = [value.strip() for value in rest.split(",")]
    if not equals or not all(values):
        raise ConfigError(f"--over {text} is not NAME=VALUE,VALUE, such as size=32,128,224.")
    if name not in RECIPE_NUMBERS and name not in {setting.name for setting in settings()}:
        raise ConfigError(
            f"--over {text}: there is no setting '{name}'. See: finetune train --help"
        )
    if name == "seed":
        raise ConfigError("--over seed: every value is trained with several seeds; see --seeds.")
    return name, values


def with_value(config: TrainConfig, name: str, text: str) -> TrainConfig:
    """Returns the config with another value of one setting, or of one number of the recipe.

    Args:
        config: The settings that stay.
        name: As `parse_sweep` gives it.
        text: The value as a command line has it.

    Raises:
        ConfigError: The value cannot work.

    Example:
        >>> with_value(TrainConfig(), "size", "64").pixels.size
        64
    """
    plain = to_dict(config)
    if name in RECIPE_NUMBERS:
        plain["recipe"] = {**plain.get("recipe", {}), name: _number(text)}
        return resolve(plain)
    kind = next(strip_none(setting.type) for setting in settings() if setting.name == name)
    return resolve(plain, {name: _converted(text, kind)})


def _converted(text: str, kind: Any) -> Any:
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind not in (int, float):
        return text
    try:
        return kind(text)
    except ValueError:
        # The text itself, of which `resolve` will say that it is no number.
        return text


def _number(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text

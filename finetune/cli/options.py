"""Makes the options of a command from the fields of a config, so that help is written once."""

from __future__ import annotations

import functools
import inspect
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.command import MORE
from finetune.config_io import Setting, choices, settings, strip_none
from finetune.errors import ConfigError

_PANELS = {
    "collection": "Photos",
    "pixels": "Pixels",
    "model": "Model",
    "augmentation": "Augmentation",
    "training": "Training",
    "optimization": "Optimization",
    "labels": "Labels",
    "machine": "Machine",
    "tracking": "Tracking",
}


SetNumbers = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A value of the augmentation recipe, such as mobius_bound=1.5.",
        rich_help_panel=MORE,
    ),
]


_MODEL_ARG = typer.Option(
    "--model-arg",
    metavar="NAME=VALUE",
    help="An argument of the network itself: --model-arg widths=16,32,64",
    show_default=False,
    rich_help_panel=_PANELS["model"],
)


def with_settings(
    command: Callable[..., None], *, main: tuple[str, ...] = ()
) -> Callable[..., None]:
    """Adds an option for each training setting to a command; it receives them as ``flags``.

    Args:
        command: Takes ``flags``, ``{field: value}`` of the options on the command line.
        main: Settings whose options ``--help`` shows, in this order; ``--help-all`` shows all.
    """
    named = {setting.name: setting for setting in settings()}

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        flags = {name: values.pop(name, None) for name in named}
        flags["model_arg"] = model_arguments(values.pop("model_arg") or ()) or None
        command(**values, flags={name: value for name, value in flags.items() if value is not None})

    own = inspect.signature(command, eval_str=True).parameters
    photos, *others = (parameter for name, parameter in own.items() if name != "flags")
    parameters = [photos, *(_parameter(named[name], is_main=True) for name in main), *others]
    parameters += [
        _parameter(setting, is_main=False) for name, setting in named.items() if name not in main
    ]
    parameters.append(_keyword("model_arg", list[str], _MODEL_ARG))
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def recipe_numbers(pairs: list[str]) -> dict[str, Any]:
    """Returns ``{name: value}`` of what ``--set`` was given.

    Raises:
        ConfigError: A word that is not NAME=VALUE.
    """
    numbers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {pair} is not NAME=VALUE, such as mobius_bound=1.5.")
        numbers[name.strip().replace("-", "_")] = _value(value.strip())
    return numbers


def model_arguments(pairs: Iterable[str]) -> dict[str, Any]:
    """Returns ``{name: value}`` of what ``--model-arg`` was given.

    A value is read as TOML has it (whole number, number, true, false, a list in brackets); numbers
    with commas between them are a list, and anything else is text.

    Raises:
        ConfigError: A word that is not NAME=VALUE.

    Example:
        >>> model_arguments(["widths=16,32", "kernel_size=3", "activation=tanh"])
        {'widths': [16, 32], 'kernel_size': 3, 'activation': 'tanh'}
    """
    given = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"--model-arg {pair} is not NAME=VALUE, such as widths=16,32.")
        given[name.strip().replace("-", "_")] = _toml_value(value.strip())
    return given


def _toml_value(text: str) -> Any:
    for candidate in (text, f"[{text}]"):
        try:
            return tomllib.loads(f"value = {candidate}")["value"]
        except tomllib.TOMLDecodeError:
            continue
    return text


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _parameter(setting: Setting, *, is_main: bool) -> inspect.Parameter:
    allowed = choices(setting.type)
    kind = str if allowed else strip_none(setting.type)
    shown = "" if setting.default is None else f" (default: {setting.default})"
    info = typer.Option(
        setting.flag,
        help=setting.help + shown,
        metavar="|".join(allowed) if allowed else None,
        show_default=False,
        rich_help_panel=None if is_main else _PANELS[setting.concern],
    )
    return _keyword(setting.name, kind, info)


def _keyword(name: str, kind: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, info],
    )


def photos_folder(photos: Path | None) -> Path:
    """Returns the folder that is meant: what was given, else ``./photos``, else this folder."""
    if photos is not None:
        return photos
    usual = Path("photos")
    return usual if usual.is_dir() else Path()

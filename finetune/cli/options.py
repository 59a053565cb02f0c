"""Makes the options of a command from the fields of a config, so that help is written once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from finetune.augmentation.recipes import Recipe
from finetune.config import Setting, choices, settings, strip_none

_PANELS = {
    "collection": "Photos",
    "pixels": "Pixels",
    "model": "Model",
    "augmentation": "Augmentation",
    "training": "Training",
    "machine": "Machine",
}


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command one option a setting; it receives them as ``flags`` and ``recipe``.

    Both are ``{field: value}`` of what was given on the command line, nothing else. ``recipe`` has
    the numbers of the augmentation recipe, whose options are left out of the help: there are many,
    and docs/augmentation.md explains them.
    """
    named = {setting.name: setting for setting in settings()}
    numbers = {item.name: item for item in dataclasses.fields(Recipe)}

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        given = {name: value for name, value in values.items() if value is not None}
        flags = {name: values.pop(name, None) for name in named}
        recipe = {name: values.pop(name, None) for name in numbers}
        command(
            **values,
            flags={name: value for name, value in flags.items() if name in given},
            recipe={name: value for name, value in recipe.items() if name in given},
        )

    own = inspect.signature(command, eval_str=True).parameters
    parameters = [p for name, p in own.items() if name not in ("flags", "recipe")]
    parameters += [_parameter(setting) for setting in named.values()]
    hints = get_type_hints(Recipe)
    parameters += [
        _hidden_parameter(name, hints[name], item.metadata["help"])
        for name, item in numbers.items()
    ]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _parameter(setting: Setting) -> inspect.Parameter:
    allowed = choices(setting.type)
    kind = str if allowed else strip_none(setting.type)
    shown = "" if setting.default is None else f" (default: {setting.default})"
    info = typer.Option(
        _flag(setting.flag, kind),
        help=setting.help + shown,
        metavar="|".join(allowed) if allowed else None,
        show_default=False,
        rich_help_panel=_PANELS[setting.concern],
    )
    return _keyword(setting.name, kind, info)


def _hidden_parameter(name: str, annotation: Any, help_text: str) -> inspect.Parameter:
    kind = str if choices(annotation) else strip_none(annotation)
    info = typer.Option(_flag("--" + name.replace("_", "-"), kind), help=help_text, hidden=True)
    return _keyword(name, kind, info)


def _flag(flag: str, kind: type) -> str:
    return f"{flag}/--no-{flag.removeprefix('--')}" if kind is bool else flag


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

"""Settings as a TOML file that ``--config`` reads."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from finetune.config import TrainConfig
from finetune.settings import to_dict


def settings_toml(
    config: TrainConfig, *, always: Collection[str] = (), comment: str | None = None
) -> str:
    """Returns the settings of a config that are not the defaults, section by section.

    `finetune.settings.resolve` of what `finetune.settings.read_toml` reads of it is the config.

    Args:
        config: The settings.
        always: Names that are written even where they are the default.
        comment: Written first, each line after a ``#``.

    Example:
        >>> from finetune.settings import resolve
        >>> print(settings_toml(resolve({}, {"lr": 0.01, "model": "resnet18"})))
        [model]
        model = "resnet18"
        <BLANKLINE>
        [training]
        lr = 0.01
        <BLANKLINE>
    """
    usual = to_dict(TrainConfig())
    blocks = []
    if comment:
        blocks.append("\n".join(f"# {line}".rstrip() for line in comment.splitlines()) + "\n")
    for section, content in to_dict(config).items():
        lines = [
            f"{_key(name)} = {_value(value)}"
            for name, value in content.items()
            if value is not None and (name in always or value != usual[section].get(name))
        ]
        if lines:
            blocks.append("\n".join([f"[{section}]", *lines]) + "\n")
    return "\n".join(blocks)


def _key(name: str) -> str:
    plain = name.replace("_", "").replace("-", "")
    return name if plain.isascii() and plain.isalnum() else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{_key(str(name))} = {_value(item)}" for name, item in value.items())
        return "{ " + ", ".join(pairs) + " }"
    return _text(str(value))


def _text(text: str) -> str:
    # A JSON string is a TOML string, but for the delete character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

"""Reads, merges and checks the settings that `finetune.config` declares.

Precedence is default < config file (TOML) < command line. `resolve` merges them and reports every
bad setting in one `ConfigError` that names the flags.

Example:
    >>> config = resolve({"training": {"epochs": 3}}, {"lr": 0.01})
    >>> config.training.epochs, config.training.lr
    (3, 0.01)
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
import tomllib
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tomli_w

from finetune.config import TrainConfig
from finetune.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """One field of a config section, for the command line and the docs."""

    concern: str
    name: str
    type: Any
    default: Any
    help: str
    minimum: float | None
    maximum: float | None
    above: float | None

    @property
    def flag(self) -> str:
        """Name on the command line: ``--batch-size``."""
        return "--" + self.name.replace("_", "-")


def settings(config_type: type = TrainConfig) -> Iterator[Setting]:
    """Yields every setting of a config, concern by concern, in the order of the fields."""
    concerns = get_type_hints(config_type)
    for concern in fields(config_type):
        concern_type = concerns[concern.name]
        if not dataclasses.is_dataclass(concern_type):
            continue
        hints = get_type_hints(concern_type)
        for item in fields(concern_type):
            yield Setting(concern.name, item.name, hints[item.name], item.default, **item.metadata)


def problems(config: TrainConfig) -> list[str]:
    """Returns one sentence for each invalid setting; empty if all are valid."""
    found = []
    for setting in settings(type(config)):
        value = getattr(getattr(config, setting.concern), setting.name)
        found.extend(_value_problems(setting, value))
    if not found and config.collection.validation_share + config.collection.test_share >= 0.95:
        found.append("--validation and --test together leave nothing to train on")
    return found


def resolve(
    from_file: Mapping[str, Any] | None = None, from_flags: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Returns the checked config of defaults, then a file's sections, then flags by field name.

    Args:
        from_file: ``{section: {field: value}}``, as in a TOML file or a run's config.json.
        from_flags: ``{field: value}``; a value of None counts as not given. ``model_arg`` is a
            mapping that overrides entries of the file's section ``[model_args]``.

    Raises:
        ConfigError: Names every unknown or invalid setting in one message.
    """
    by_name = {setting.name: setting for setting in settings()}
    values: dict[str, dict[str, Any]] = {setting.concern: {} for setting in by_name.values()}
    found = []
    mappings: dict[str, dict[str, Any]] = {"recipe": {}, "model_args": {}}
    for section, content in (from_file or {}).items():
        if section in mappings and isinstance(content, Mapping):
            mappings[section] = dict(content)
            continue
        if section not in values and section not in mappings:
            found.append(f"unknown section [{section}]{_nearest(section, values)}")
            continue
        if not isinstance(content, Mapping):
            found.append(f"[{section}] must be a section of settings, not {reprlib.repr(content)}")
            continue
        for name, value in content.items():
            setting = by_name.get(name)
            if setting is None or setting.concern != section:
                where = f"; it belongs in [{setting.concern}]" if setting else ""
                guess = where or _nearest(name, by_name)
                found.append(f"unknown setting '{name}' in [{section}]{guess}")
            else:
                values[section][name] = _convert(setting, value)
    for name, value in (from_flags or {}).items():
        if value is None:
            continue
        if name == "model_arg":
            mappings["model_args"] |= value
            continue
        setting = by_name.get(name)
        if setting is None:
            found.append(f"unknown setting '{name}'{_nearest(name, by_name)}")
        else:
            values[setting.concern][name] = _convert(setting, value)
    concerns = get_type_hints(TrainConfig)
    resolved: dict[str, Any] = {name: concerns[name](**given) for name, given in values.items()}
    config = TrainConfig(**resolved, recipe=mappings["recipe"], model_args=mappings["model_args"])
    found.extend(problems(config))
    if found:
        raise ConfigError(_listed(found) + ".")
    return config


def _listed(problems: Sequence[str], most: int = 20, characters: int = 300) -> str:
    """Joins problems, of which a hostile file can have very many and very long ones."""
    shown = [text if len(text) <= characters else f"{text[:characters]}…" for text in problems]
    more = [f"and {len(shown) - most} more"] if len(shown) > most else []
    return "; ".join([*shown[:most], *more]).replace("\n", " ")


def read_toml(path: Path) -> dict[str, Any]:
    """Returns the content of a TOML config file; a byte order mark is passed over.

    Raises:
        ConfigError: The file is missing or is not TOML; the message has the line.
    """
    try:
        content = path.read_bytes()
        is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        return tomllib.loads(content.decode("utf-16" if is_utf16 else "utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}.") from error
    except RecursionError as error:
        raise ConfigError(f"--config {path} is nested too deeply.") from error
    except ValueError as error:  # no TOML, no text, or a number of thousands of digits
        raise ConfigError(f"--config {path} is not TOML: {error}.") from error


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a config as JSON values, section by section."""
    values: dict[str, Any] = dataclasses.asdict(config)
    return {
        concern: {
            name: str(value) if isinstance(value, Path) else value
            for name, value in content.items()
        }
        for concern, content in values.items()
    }


def choices(annotation: Any) -> tuple[str, ...] | None:
    """Returns the allowed values of a ``Literal`` or ``Literal | None`` annotation, else None."""
    bare = strip_none(annotation)
    return get_args(bare) if get_origin(bare) is Literal else None


def strip_none(annotation: Any) -> Any:
    """Returns ``T`` of ``T | None``, and any other annotation as it is."""
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def _value_problems(setting: Setting, value: Any) -> list[str]:
    if value is None:
        if strip_none(setting.type) is setting.type:
            return [f"{setting.flag} needs a value"]
        return []
    allowed = choices(setting.type)
    if allowed is not None:
        if value not in allowed:
            return [f"{setting.flag} {value} is not one of {', '.join(allowed)}"]
        return []
    expected = strip_none(setting.type)
    kinds = {int: (int,), float: (int, float), str: (str,), bool: (bool,), Path: (Path,)}
    wrong_bool = isinstance(value, bool) and expected is not bool
    if wrong_bool or not isinstance(value, kinds[expected]):
        names = {int: "a whole number", float: "a number", bool: "true or false"}
        return [f"{setting.flag} {value!r} is not {names.get(expected, 'text')}"]
    number: Any = value
    # Written as "not (value >= bound)" so that NaN fails every bound.
    if setting.above is not None and not number > setting.above:
        return [f"{setting.flag} {value} must be greater than {setting.above:g}"]
    if setting.minimum is not None and not number >= setting.minimum:
        return [f"{setting.flag} {value} must be at least {setting.minimum:g}"]
    if setting.maximum is not None and not number <= setting.maximum:
        return [f"{setting.flag} {value} must be at most {setting.maximum:g}"]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return [f"{setting.flag} {value} is not a finite number"]
    return []


def _convert(setting: Setting, value: Any) -> Any:
    expected = strip_none(setting.type)
    if expected is Path and isinstance(value, str):
        return Path(value)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def settings_toml(
    config: TrainConfig, *, always: Collection[str] = (), comment: str | None = None
) -> str:
    """Returns the settings of a config that are not the defaults, section by section.

    `finetune.config_io.resolve` of what `finetune.config_io.read_toml` reads of it is the config.

    Args:
        config: The settings.
        always: Names of settings that are also written at their default.
        comment: Written first, each line after a ``#``.

    Example:
        >>> from finetune.config_io import resolve
        >>> print(settings_toml(resolve({}, {"lr": 0.01, "model": "resnet18"})))
        [model]
        model = "resnet18"
        <BLANKLINE>
        [training]
        lr = 0.01
        <BLANKLINE>
    """
    defaults = to_dict(TrainConfig())
    changed = {
        section: {
            name: value
            for name, value in content.items()
            if value is not None and (name in always or value != defaults[section].get(name))
        }
        for section, content in to_dict(config).items()
    }
    text = tomli_w.dumps({section: content for section, content in changed.items() if content})
    if comment:
        lines = "\n".join(f"# {line}".rstrip() for line in comment.splitlines())
        return f"{lines}\n\n{text}"
    return text

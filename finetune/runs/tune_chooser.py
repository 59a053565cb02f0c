"""Who chooses the values of a training: a trial of a search by chance, or what is usual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from finetune.runs.defaults import DEFAULT_BACKBONE_SHARE, DEFAULT_SMOOTHING

Value = str | int | float | bool | None


class Chooser(Protocol):
    """Chooses values: a trial of a search, or `Usual`."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Returns one of `choices`."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Returns a number between `low` and `high`."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Returns a whole number between `low` and `high`."""
        ...


class Usual:
    """Chooses the first of each list, and the number that a training has if nobody chooses."""

    def __init__(self, usual: Mapping[str, float] | None = None) -> None:
        self.chosen: dict[str, Value] = {}
        self._usual = {**_USUAL, **(usual or {})}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Returns the first choice."""
        return self._note(name, choices[0])

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Returns the usual number."""
        value: float = self._note(name, min(max(self._usual[_bare(name)], low), high))
        return value

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Returns the usual number."""
        value: int = self._note(name, min(max(int(self._usual[_bare(name)]), low), high))
        return value

    def _note(self, name: str, value: Any) -> Any:
        self.chosen[name] = value
        return value


def rounded(value: float) -> float:
    """Returns a number to three digits: what a person would write, and reads the same again."""
    return float(f"{value:.3g}")


_USUAL: Mapping[str, float] = {
    "lr_factor": 1.0,
    "backbone_lr_scale": DEFAULT_BACKBONE_SHARE,
    "weight_decay": 0.05,
    "label_smoothing": DEFAULT_SMOOTHING,
    "blocks": 2,
    "first_width": 16,
    "drop_rate": 0.0,
    "width_factor": 1.0,
}


def _bare(name: str) -> str:
    return name.rpartition(".")[2]

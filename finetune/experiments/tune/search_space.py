"""Who chooses the values of a training: a trial of a search by chance, or what is usual."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import timm

from finetune.experiments.tune.space import Space
from finetune.models.factory import FROM_SCRATCH
from finetune.models.registry import default_recipe, resolve_preprocessing
from finetune.training.optimizer import usual_lr
from finetune.training.resolve import DEFAULT_BACKBONE_SHARE, DEFAULT_SMOOTHING

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


def suggest_structure(model: str, chooser: Chooser) -> dict[str, Any]:
    """Returns how to build one of `STRUCTURES`, by the names of the network's own arguments."""
    return STRUCTURES[model](_OfModel(model, chooser))


@dataclass(frozen=True)
class _OfModel:
    """Chooses for one network: values of two networks that share a name have nothing in common."""

    model: str
    chooser: Chooser

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.chooser.suggest_categorical(f"{self.model}.{name}", choices)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self.chooser.suggest_float(f"{self.model}.{name}", low, high, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self.chooser.suggest_int(f"{self.model}.{name}", low, high, log=log)


def _simple_cnn(chooser: Chooser) -> dict[str, Any]:
    blocks = chooser.suggest_int("blocks", 1, 4)
    first = chooser.suggest_int("first_width", 8, 64, log=True)
    return {
        "widths": [first * 2**block for block in range(blocks)],
        "kernel_size": chooser.suggest_categorical("kernel_size", [5, 3, 7]),
        "activation": chooser.suggest_categorical("activation", ["relu", "tanh"]),
        "hidden": _hidden(chooser.suggest_categorical("hidden", [0, 64, 256])),
        "drop_rate": rounded(chooser.suggest_float("drop_rate", 0.0, 0.5)),
    }


def _cifar_resnet(chooser: Chooser) -> dict[str, Any]:
    return {
        "depth": chooser.suggest_categorical("depth", [20, 8, 14, 32]),
        "drop_rate": rounded(chooser.suggest_float("drop_rate", 0.0, 0.5)),
    }


def _mini_alexnet(chooser: Chooser) -> dict[str, Any]:
    factor = chooser.suggest_float("width_factor", 0.25, 1.5)
    return {
        "widths": [8 * max(1, round(width * factor / 8)) for width in (64, 192, 384, 256, 256)],
        "hidden": chooser.suggest_categorical("hidden", [1024, 256, 512]),
        "drop_rate": rounded(chooser.suggest_float("drop_rate", 0.0, 0.5)),
    }


def _vgg19(chooser: Chooser) -> dict[str, Any]:
    hidden = chooser.suggest_categorical("hidden", [4096, 512, 1024])
    return {
        "hidden": [hidden, hidden, min(hidden, 1000)],
        "batch_norm": chooser.suggest_categorical("batch_norm", [False, True]),
        "drop_rate": rounded(chooser.suggest_float("drop_rate", 0.0, 0.5)),
    }


def _dropout_only(chooser: Chooser) -> dict[str, Any]:
    return {"drop_rate": rounded(chooser.suggest_float("drop_rate", 0.0, 0.5))}


def _hidden(width: int) -> list[int]:
    return [width] if width else []


STRUCTURES: Mapping[str, Callable[[Chooser], dict[str, Any]]] = {
    "simple_cnn": _simple_cnn,
    "cifar_resnet": _cifar_resnet,
    "mini_alexnet": _mini_alexnet,
    "vgg19_mnist": _vgg19,
    "cifar10_tutorial_cnn": _dropout_only,
    "mnist_experts_cnn": _dropout_only,
}
"""How the small networks that are trained from scratch may be built, by model."""


SIZE_STEP = 32
"""Sides of images are multiples of this: networks halve them five times."""


def suggest(space: Space, chooser: Chooser) -> dict[str, Any]:
    """Returns the settings of one training, by the names that `resolve` takes for flags."""
    choose = _Chosen(space, chooser)
    model = choose.of("model", list(space.weights))
    scratch = space.weights[model] == FROM_SCRATCH
    mode = "full" if scratch else choose.of("mode", list(space.modes))
    flags: dict[str, Any] = {"model": model, "weights": space.weights[model], "mode": mode}
    flags |= _pixels(choose, model)
    if mode == "head":
        views = choose.setting(flags, "views", [1, 2, 4])
        if (space.base.training.views if views is None else views) > 1:
            _augment(choose, flags, "augment_views", ["light", "standard", "mobius"])
    else:
        own = sorted({recipe for name in space.weights if (recipe := default_recipe(name))})
        _augment(choose, flags, "augment", [*own, "standard", "light", "mobius", "strong", "none"])
        choose.setting(flags, "optimizer", ["adamw", "sgd", "lamb"])
        choose.setting(flags, "schedule", ["cosine", "one_cycle", "constant"])
        choose.setting(flags, "ema", [None, 0.99, 0.999])
        if not scratch:
            choose.number(flags, "backbone_lr_scale", 0.01, 1.0, log=True)
    if "lr" not in space.fixed:
        optimizer = flags.get("optimizer") or space.base.optimization.optimizer
        # A factor rather than a rate, since what is usual differs from optimizer to optimizer.
        factor = chooser.suggest_float("lr_factor", 0.1, 10.0, log=True)
        flags["lr"] = rounded(usual_lr(optimizer) * factor)
    choose.setting(flags, "batch_size", [32, 16, 64])
    if mode != "head":
        # A head's penalty is chosen on validation within each training.
        choose.number(flags, "weight_decay", 1e-4, 0.5, log=True)
    choose.number(flags, "label_smoothing", 0.0, 0.2)
    if model in STRUCTURES and "model_arg" not in space.fixed:
        flags["model_arg"] = suggest_structure(model, chooser)
    return flags


def usual_values(space: Space) -> dict[str, Value]:
    """Returns the values by which a search begins: what a training does if nobody chooses."""
    first = next(iter(space.weights.values()))
    # As `finetune.training.resolve` has it where the head learns on features first.
    usual = Usual(None if first == FROM_SCRATCH else {"label_smoothing": 0.0})
    suggest(space, usual)
    return usual.chosen


class _Chosen:
    """Chooses what is not fixed; a list of one is no choice."""

    def __init__(self, space: Space, chooser: Chooser) -> None:
        self._fixed = space.fixed
        self._chooser = chooser

    def of(self, name: str, choices: list[Any]) -> Any:
        if len(choices) == 1:
            return choices[0]
        return self._chooser.suggest_categorical(name, choices)

    def setting(self, flags: dict[str, Any], name: str, choices: list[Any]) -> Any:
        if name in self._fixed:
            return None
        flags[name] = self._chooser.suggest_categorical(name, choices)
        return flags[name]

    def number(
        self, flags: dict[str, Any], name: str, low: float, high: float, *, log: bool = False
    ) -> None:
        if name not in self._fixed:
            flags[name] = rounded(self._chooser.suggest_float(name, low, high, log=log))

    def free(self, name: str) -> bool:
        return name not in self._fixed

    def raw(self) -> Chooser:
        return self._chooser


def _augment(choose: _Chosen, flags: dict[str, Any], name: str, recipes: list[str]) -> None:
    if choose.free("augment"):
        flags["augment"] = choose.raw().suggest_categorical(name, recipes)


def _pixels(choose: _Chosen, model: str) -> dict[str, Any]:
    """Chooses the side of the images: the network's own, a seventh or so less, or more."""
    config = timm.get_pretrained_cfg(model)
    if not choose.free("size") or (config is not None and config.fixed_input_size):
        return {}
    own = resolve_preprocessing(model).size
    sizes = {
        scale: max(SIZE_STEP, round(own * factor / SIZE_STEP) * SIZE_STEP)
        for scale, factor in (("smaller", 6 / 7), ("larger", 9 / 7))
    }
    if own in sizes.values():
        return {}
    scale = choose.raw().suggest_categorical("size_scale", ["own", "smaller", "larger"])
    return {} if scale == "own" else {"size": sizes[scale]}

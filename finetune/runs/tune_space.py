"""What a search may choose: the settings of a training, and the shape of small networks.

A dimension that a person has set is not searched. Some exist only beside others: views are for
the head alone, the optimizer for networks whose every layer trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import timm

import finetune.models.registry  # noqa: F401 - registers finetune's own networks with timm
from finetune.config import Mode, TrainConfig
from finetune.errors import ConfigError
from finetune.models.factory import FROM_SCRATCH, check_name, input_spec, own_recipe
from finetune.models.listing import CHOICE, list_models
from finetune.settings import resolve, to_dict
from finetune.training.machine import choose_device
from finetune.training.optim import usual_lr

Value = str | int | float | bool | None
Values = Mapping[str, Value]

SIZE_STEP = 32
"""Sides of images are multiples of this: networks halve them five times."""


class Chooser(Protocol):
    """Chooses values: a trial of a search, or `Defaults`."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Returns one of `choices`."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Returns a number between `low` and `high`."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Returns a whole number between `low` and `high`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched.

    Attributes:
        base: What all trainings share.
        weights: By model that may be chosen: a file, ``"none"``, or None for pretrained weights.
        modes: What may train, where there are pretrained weights.
        fixed: Names of settings that are not searched.
    """

    base: TrainConfig
    weights: Mapping[str, str | None]
    modes: tuple[Mode, ...]
    fixed: frozenset[str] = field(default_factory=frozenset)

    def to_dict(self) -> dict[str, Any]:
        """Returns what two processes must agree on to share a search, as plain JSON values."""
        base = to_dict(self.base)
        # Where a search runs, and what it tells whom, is each machine's own affair.
        seed = base.pop("machine")["seed"]
        base.pop("tracking", None)
        base["collection"].pop("catalog")
        base["model"].pop("weights")
        return {
            "base": base | {"seed": seed},
            "models": sorted(self.weights),
            "modes": sorted(self.modes),
            "fixed": sorted(self.fixed),
        }


def space_for(
    config: TrainConfig,
    *,
    models: Sequence[str] = (),
    modes: Sequence[Mode] = (),
    fixed: frozenset[str] = frozenset(),
) -> Space:
    """Returns what can be searched on this machine.

    Args:
        config: What all trainings share.
        models: Networks to choose from; none: the config's, else those whose weights are here.
        modes: What may train; none: the config's, else the head on a CPU, and head or full
            network elsewhere.
        fixed: Names of settings that a person has given.

    Raises:
        ConfigError: Settings that contradict each other.
        ModelError: An unknown model.
    """
    given = config.model
    if models and given.model:
        raise ConfigError("--models is a choice, --model is none; give one of the two.")
    if modes and config.training.mode:
        raise ConfigError("--modes is a choice, --mode is none; give one of the two.")
    names = [given.model] if given.model else list(dict.fromkeys(models)) or models_at_hand()
    if len(names) > 1 and given.weights not in (None, FROM_SCRATCH):
        raise ConfigError(
            f"--weights {given.weights} is one file, but there are {len(names)} models to choose "
            "from; leave it out, or name one model with --model."
        )
    weights = {check_name(name): given.weights or _weights_of(name) for name in names}
    if config.model_args and len(names) > 1:
        raise ConfigError("--model-arg is for one network; name it with --model.")
    known: tuple[Mode, ...] = ("head", "full", "gradual")
    for mode in modes:
        if mode not in known:
            raise ConfigError(f"--modes {mode} is none of {', '.join(known)}.")
    if not modes:
        on_cpu = choose_device(config.machine.device).type == "cpu"
        modes = ("head",) if on_cpu else ("head", "full")
        if config.training.mode:
            modes = (config.training.mode,)
    if "head" in modes and len(modes) == 1 and config.model.weights == FROM_SCRATCH:
        modes = ("full",)
    return Space(base=config, weights=weights, modes=tuple(dict.fromkeys(modes)), fixed=fixed)


def models_at_hand() -> list[str]:
    """Returns well-tried networks whose pretrained weights are on this machine."""
    found = list_models(CHOICE, count_parameters=False)
    return [model.name for model in found if model.weights == "here"]


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
        own = sorted({recipe for name in space.weights if (recipe := own_recipe(name))})
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
        flags["lr"] = _rounded(usual_lr(optimizer) * factor)
    choose.setting(flags, "batch_size", [32, 16, 64])
    if mode != "head":
        # A head's penalty is chosen on validation within each training.
        choose.number(flags, "weight_decay", 1e-4, 0.5, log=True)
    choose.number(flags, "label_smoothing", 0.0, 0.2)
    structure = STRUCTURES.get(model)
    if structure is not None and "model_arg" not in space.fixed:
        flags["model_arg"] = structure(_Of(model, chooser))
    return flags


def config_of(space: Space, flags: Mapping[str, Any]) -> TrainConfig:
    """Returns the config of a training with these settings over what all share."""
    return resolve(to_dict(space.base), flags)


class Defaults:
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


def usual_values(space: Space) -> dict[str, Value]:
    """Returns the values by which a search begins: what a training does if nobody chooses."""
    first = next(iter(space.weights.values()))
    # As `finetune.runs.defaults` has it for a head on features.
    on_features = space.modes[0] == "head" and first != FROM_SCRATCH
    defaults = Defaults({"label_smoothing": 0.0} if on_features else None)
    suggest(space, defaults)
    return defaults.chosen


_USUAL: Mapping[str, float] = {
    "lr_factor": 1.0,
    "backbone_lr_scale": 0.1,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "blocks": 2,
    "first_width": 16,
    "drop_rate": 0.0,
    "width_factor": 1.0,
}


def _bare(name: str) -> str:
    return name.rpartition(".")[2]


@dataclass(frozen=True)
class _Of:
    """Chooses for one network: values of two networks that share a name have nothing in common."""

    model: str
    chooser: Chooser

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.chooser.suggest_categorical(f"{self.model}.{name}", choices)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self.chooser.suggest_float(f"{self.model}.{name}", low, high, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self.chooser.suggest_int(f"{self.model}.{name}", low, high, log=log)


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
            flags[name] = _rounded(self._chooser.suggest_float(name, low, high, log=log))

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
    own = input_spec(model).size
    sizes = {
        scale: max(SIZE_STEP, round(own * factor / SIZE_STEP) * SIZE_STEP)
        for scale, factor in (("smaller", 6 / 7), ("larger", 9 / 7))
    }
    if own in sizes.values():
        return {}
    scale = choose.raw().suggest_categorical("size_scale", ["own", "smaller", "larger"])
    return {} if scale == "own" else {"size": sizes[scale]}


def _weights_of(model: str) -> str | None:
    """Returns None where there are pretrained weights to be had, else ``"none"``."""
    found = list_models([model], count_parameters=False)
    return FROM_SCRATCH if found and found[0].weights == "none" else None


def _rounded(value: float) -> float:
    """Returns a number to three digits: what a person would write, and reads the same again."""
    return float(f"{value:.3g}")


def _simple_cnn(chooser: Chooser) -> dict[str, Any]:
    blocks = chooser.suggest_int("blocks", 1, 4)
    first = chooser.suggest_int("first_width", 8, 64, log=True)
    return {
        "widths": [first * 2**block for block in range(blocks)],
        "kernel_size": chooser.suggest_categorical("kernel_size", [5, 3, 7]),
        "activation": chooser.suggest_categorical("activation", ["relu", "tanh"]),
        "hidden": _hidden(chooser.suggest_categorical("hidden", [0, 64, 256])),
        "drop_rate": _rounded(chooser.suggest_float("drop_rate", 0.0, 0.5)),
    }


def _cifar_resnet(chooser: Chooser) -> dict[str, Any]:
    return {
        "depth": chooser.suggest_categorical("depth", [20, 8, 14, 32]),
        "drop_rate": _rounded(chooser.suggest_float("drop_rate", 0.0, 0.5)),
    }


def _mini_alexnet(chooser: Chooser) -> dict[str, Any]:
    factor = chooser.suggest_float("width_factor", 0.25, 1.5)
    return {
        "widths": [8 * max(1, round(width * factor / 8)) for width in (64, 192, 384, 256, 256)],
        "hidden": chooser.suggest_categorical("hidden", [1024, 256, 512]),
        "drop_rate": _rounded(chooser.suggest_float("drop_rate", 0.0, 0.5)),
    }


def _vgg19(chooser: Chooser) -> dict[str, Any]:
    hidden = chooser.suggest_categorical("hidden", [4096, 512, 1024])
    return {
        "hidden": [hidden, hidden, min(hidden, 1000)],
        "batch_norm": chooser.suggest_categorical("batch_norm", [False, True]),
        "drop_rate": _rounded(chooser.suggest_float("drop_rate", 0.0, 0.5)),
    }


def _dropout_only(chooser: Chooser) -> dict[str, Any]:
    return {"drop_rate": _rounded(chooser.suggest_float("drop_rate", 0.0, 0.5))}


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

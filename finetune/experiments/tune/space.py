"""Search space of hyperparameters: models, modes, and every setting that is not fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import timm

from finetune.config import Mode, TrainConfig
from finetune.config_io import resolve, to_dict
from finetune.errors import ConfigError
from finetune.models.factory import FROM_SCRATCH
from finetune.models.recommended import RECOMMENDED
from finetune.models.registry import (
    check_name,
    default_recipe,
    list_models,
    resolve_preprocessing,
)
from finetune.training.device import choose_device
from finetune.training.optimizer import default_lr
from finetune.training.resolve import DEFAULT_BACKBONE_SHARE, DEFAULT_SMOOTHING

if TYPE_CHECKING:
    import optuna

MODES: tuple[Mode, ...] = ("head", "full", "gradual")

SIZE_STEP = 32
"""Image sizes are multiples of this, since networks halve them five times."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Search space.

    Attributes:
        base: Settings that all trials share.
        weights: Models to choose from, each with its ``--weights``; None for pretrained weights.
        modes: Modes to choose from if there are pretrained weights.
        fixed: Names of settings that are not searched.
    """

    base: TrainConfig
    weights: Mapping[str, str | None]
    modes: tuple[Mode, ...]
    fixed: frozenset[str] = field(default_factory=frozenset)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings that must be equal in processes sharing a study, as JSON values."""
        base = to_dict(self.base)
        # Device, paths and trackers may differ between machines.
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
    """Returns the search space for this machine.

    Args:
        config: Settings that all trials share.
        models: Models to choose from; none: the config's, else those with weights on disk.
        modes: Modes to choose from; none: the config's, else head, and full with a GPU.
        fixed: Names of settings that are not searched.

    Raises:
        ConfigError: Settings contradict each other.
        ModelError: A model is unknown.
    """
    given = config.model
    if models and given.model:
        raise ConfigError("--models lists choices and --model sets one; give only one of the two.")
    if modes and config.training.mode:
        raise ConfigError("--modes lists choices and --mode sets one; give only one of the two.")
    names = [given.model] if given.model else list(dict.fromkeys(models)) or local_models()
    if len(names) > 1 and given.weights not in (None, FROM_SCRATCH):
        raise ConfigError(
            f"--weights {given.weights} is one file, but there are {len(names)} models to choose "
            "from; leave it out, or choose one model with --model."
        )
    weights = {check_name(name): given.weights or _default_weights(name) for name in names}
    if config.model_args and len(names) > 1:
        raise ConfigError("--model-arg is for one model; choose it with --model.")
    for mode in modes:
        if mode not in MODES:
            raise ConfigError(f"--modes {mode} is not one of {', '.join(MODES)}.")
    if not modes:
        on_cpu = choose_device(config.machine.device).type == "cpu"
        modes = ("head",) if on_cpu else ("head", "full")
        if config.training.mode:
            modes = (config.training.mode,)
    if list(modes) == ["head"] and given.weights == FROM_SCRATCH:
        modes = ("full",)
    return Space(base=config, weights=weights, modes=tuple(dict.fromkeys(modes)), fixed=fixed)


def local_models() -> list[str]:
    """Returns recommended models whose pretrained weights are on this machine."""
    found = list_models(RECOMMENDED, count_parameters=False)
    return [model.name for model in found if model.weights in ("packaged", "on this machine")]


def config_of(space: Space, flags: Mapping[str, Any]) -> TrainConfig:
    """Returns the config of one trial: the shared settings, overridden by `flags`."""
    return resolve(to_dict(space.base), flags)


def suggest(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """Returns the settings of one trial as the flags that `resolve` takes."""
    return _suggest(space, _Sampler(fixed=space.fixed, trial=trial))


def default_params(space: Space) -> dict[str, Any]:
    """Returns the parameters of trial 0: the defaults of a training."""
    sampler = _Sampler(fixed=space.fixed, trial=None)
    _suggest(space, sampler)
    return sampler.params


def rounded(value: float) -> float:
    """Returns a number with three significant digits, which a TOML file keeps exactly."""
    return float(f"{value:.3g}")


@dataclass(frozen=True, kw_only=True)
class _Sampler:
    """Samples parameters from a trial; without one, takes and collects the defaults.

    Attributes:
        fixed: Names of settings that are not searched.
        trial: None for the defaults: the first choice, or the number's own default.
        prefix: Prefix of parameter names, so that those of two networks are kept apart.
        params: The defaults so far.
    """

    fixed: frozenset[str]
    trial: optuna.Trial | None
    prefix: str = ""
    params: dict[str, Any] = field(default_factory=dict)

    def choice(self, name: str, choices: list[Any]) -> Any:
        """Returns one of `choices`."""
        if len(choices) == 1:
            return choices[0]
        if self.trial is None:
            return self.params.setdefault(self.prefix + name, choices[0])
        return self.trial.suggest_categorical(self.prefix + name, choices)

    def number(
        self, name: str, low: float, high: float, default: float, *, log: bool = False
    ) -> float:
        """Returns a number between `low` and `high`."""
        if self.trial is None:
            return float(self.params.setdefault(self.prefix + name, default))
        return self.trial.suggest_float(self.prefix + name, low, high, log=log)

    def integer(self, name: str, low: int, high: int, default: int, *, log: bool = False) -> int:
        """Returns an integer between `low` and `high`."""
        if self.trial is None:
            return int(self.params.setdefault(self.prefix + name, default))
        return self.trial.suggest_int(self.prefix + name, low, high, log=log)

    def set_choice(self, flags: dict[str, Any], name: str, choices: list[Any]) -> None:
        """Sets a flag to one of `choices`, unless the setting is fixed."""
        if name not in self.fixed:
            flags[name] = self.choice(name, choices)

    def set_number(
        self,
        flags: dict[str, Any],
        name: str,
        low: float,
        high: float,
        default: float,
        *,
        log: bool = False,
    ) -> None:
        """Sets a flag to a rounded number, unless the setting is fixed."""
        if name not in self.fixed:
            flags[name] = rounded(self.number(name, low, high, default, log=log))


def _suggest(space: Space, sampler: _Sampler) -> dict[str, Any]:
    model = sampler.choice("model", list(space.weights))
    scratch = space.weights[model] == FROM_SCRATCH
    mode = "full" if scratch else sampler.choice("mode", list(space.modes))
    flags: dict[str, Any] = {"model": model, "weights": space.weights[model], "mode": mode}
    if "size" not in space.fixed:
        flags |= _suggest_size(sampler, model)
    if mode == "head":
        sampler.set_choice(flags, "views", [1, 2, 4])
        # The recipe matters for more than one view, and has a list of its own.
        if flags.get("views", space.base.training.views) > 1 and "augment" not in space.fixed:
            flags["augment"] = sampler.choice("augment_views", ["light", "standard", "mobius"])
    else:
        own = sorted({recipe for name in space.weights if (recipe := default_recipe(name))})
        recipes = [*own, "standard", "light", "mobius", "strong", "none"]
        sampler.set_choice(flags, "augment", recipes)
        sampler.set_choice(flags, "optimizer", ["adamw", "sgd", "lamb"])
        sampler.set_choice(flags, "schedule", ["cosine", "one_cycle", "constant"])
        sampler.set_choice(flags, "ema", [None, 0.99, 0.999])
        if not scratch:
            default = DEFAULT_BACKBONE_SHARE
            sampler.set_number(flags, "backbone_lr_scale", 0.01, 1.0, default, log=True)
    if "lr" not in space.fixed and mode != "head":
        optimizer = flags.get("optimizer") or space.base.optimization.optimizer
        # A factor instead of a rate, since the default rate depends on the optimizer.
        factor = sampler.number("lr_factor", 0.1, 10.0, 1.0, log=True)
        flags["lr"] = rounded(default_lr(optimizer) * factor)
    if mode != "head":
        # A head is fitted without steps, and each training chooses its L2 strength.
        sampler.set_choice(flags, "batch_size", [32, 16, 64])
        sampler.set_number(flags, "weight_decay", 1e-4, 0.5, 0.05, log=True)
    # 0 in `finetune.training.resolve` where a head is fitted on features first.
    smoothing = DEFAULT_SMOOTHING if scratch else 0.0
    sampler.set_number(flags, "label_smoothing", 0.0, 0.2, smoothing)
    if model in STRUCTURES and "model_arg" not in space.fixed:
        flags["model_arg"] = _structure(model, sampler)
    return flags


def suggest_structure(model: str, trial: optuna.Trial) -> dict[str, Any]:
    """Returns the arguments that build one of `STRUCTURES`."""
    return _structure(model, _Sampler(fixed=frozenset(), trial=trial))


def _structure(model: str, sampler: _Sampler) -> dict[str, Any]:
    own = _Sampler(
        fixed=sampler.fixed, trial=sampler.trial, prefix=f"{model}.", params=sampler.params
    )
    return STRUCTURES[model](own)


def _simple_cnn(sampler: _Sampler) -> dict[str, Any]:
    blocks = sampler.integer("blocks", 1, 4, 2)
    first = sampler.integer("first_width", 8, 64, 16, log=True)
    kernel_size = sampler.choice("kernel_size", [5, 3, 7])
    activation = sampler.choice("activation", ["relu", "tanh"])
    hidden = sampler.choice("hidden", [0, 64, 256])
    return {
        "widths": [first * 2**block for block in range(blocks)],
        "kernel_size": kernel_size,
        "activation": activation,
        "hidden": [hidden] if hidden else [],
        **_dropout(sampler),
    }


def _cifar_resnet(sampler: _Sampler) -> dict[str, Any]:
    return {"depth": sampler.choice("depth", [20, 8, 14, 32]), **_dropout(sampler)}


def _mini_alexnet(sampler: _Sampler) -> dict[str, Any]:
    factor = sampler.number("width_factor", 0.25, 1.5, 1.0)
    return {
        "widths": [8 * max(1, round(width * factor / 8)) for width in (64, 192, 384, 256, 256)],
        "hidden": sampler.choice("hidden", [1024, 256, 512]),
        **_dropout(sampler),
    }


def _vgg19(sampler: _Sampler) -> dict[str, Any]:
    hidden = sampler.choice("hidden", [4096, 512, 1024])
    return {
        "hidden": [hidden, hidden, min(hidden, 1000)],
        "batch_norm": sampler.choice("batch_norm", [False, True]),
        **_dropout(sampler),
    }


def _dropout(sampler: _Sampler) -> dict[str, Any]:
    return {"drop_rate": rounded(sampler.number("drop_rate", 0.0, 0.5, 0.0))}


STRUCTURES: Mapping[str, Callable[[_Sampler], dict[str, Any]]] = {
    "simple_cnn": _simple_cnn,
    "cifar_resnet": _cifar_resnet,
    "mini_alexnet": _mini_alexnet,
    "vgg19_mnist": _vgg19,
    "cifar10_tutorial_cnn": _dropout,
    "mnist_experts_cnn": _dropout,
}
"""Searched arguments of the small networks that are trained from scratch, by model."""


def _suggest_size(sampler: _Sampler, model: str) -> dict[str, Any]:
    """Returns the network's own image size (no flag), one seventh less, or two sevenths more."""
    config = timm.get_pretrained_cfg(model)
    if config is not None and config.fixed_input_size:
        return {}
    own = resolve_preprocessing(model).size
    sizes = {
        scale: max(SIZE_STEP, round(own * factor / SIZE_STEP) * SIZE_STEP)
        for scale, factor in (("smaller", 6 / 7), ("larger", 9 / 7))
    }
    if own in sizes.values():
        return {}
    scale = sampler.choice("size_scale", ["own", "smaller", "larger"])
    return {} if scale == "own" else {"size": sizes[scale]}


def _default_weights(model: str) -> str | None:
    """Returns None for a model that has pretrained weights, else ``"none"``."""
    found = list_models([model], count_parameters=False)
    return FROM_SCRATCH if found and found[0].weights == "none" else None

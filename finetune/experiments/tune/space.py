"""What a search is among: networks, modes, and all settings but those that a person has set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.config import Mode, TrainConfig
from finetune.config_io import resolve, to_dict
from finetune.errors import ConfigError
from finetune.models.factory import FROM_SCRATCH
from finetune.models.registry import RECOMMENDED, check_name, list_models
from finetune.training.device import choose_device


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
    found = list_models(RECOMMENDED, count_parameters=False)
    return [model.name for model in found if model.weights == "on this machine"]


def config_of(space: Space, flags: Mapping[str, Any]) -> TrainConfig:
    """Returns the config of a training with these settings over what all share."""
    return resolve(to_dict(space.base), flags)


def _weights_of(model: str) -> str | None:
    """Returns None where there are pretrained weights to be had, else ``"none"``."""
    found = list_models([model], count_parameters=False)
    return FROM_SCRATCH if found and found[0].weights == "none" else None

"""What a trial of a search tries: one value for each setting that nobody has fixed.

Some settings exist only beside others: views are for the head alone, the optimizer for networks
whose every layer trains.
"""

from __future__ import annotations

from typing import Any

import timm

import finetune.models.registry  # noqa: F401 - registers finetune's own networks with timm
from finetune.models.factory import FROM_SCRATCH, input_spec
from finetune.models.naming import own_recipe
from finetune.runs.tune_chooser import Chooser, Usual, Value, rounded
from finetune.runs.tune_space import Space
from finetune.runs.tune_structures import STRUCTURES, suggest_structure
from finetune.training.optim import usual_lr

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
    # As `finetune.runs.defaults` has it where the head learns on features first.
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
    own = input_spec(model).size
    sizes = {
        scale: max(SIZE_STEP, round(own * factor / SIZE_STEP) * SIZE_STEP)
        for scale, factor in (("smaller", 6 / 7), ("larger", 9 / 7))
    }
    if own in sizes.values():
        return {}
    scale = choose.raw().suggest_categorical("size_scale", ["own", "smaller", "larger"])
    return {} if scale == "own" else {"size": sizes[scale]}

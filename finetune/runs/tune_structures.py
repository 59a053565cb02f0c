"""How the small networks that are trained from scratch may be built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.runs.tune_chooser import Chooser, rounded


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

"""Optimizer and its parameter groups: by part, by layer, with and without weight decay."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from torch import nn

from finetune.errors import ConfigError
from finetune.models.heads import backbone_parameters, head_parameters
from finetune.training.schedule import Schedule

DEFAULT_OPTIMIZER = "adamw"

PACKAGES = {"fused": "apex", "bnb": "bitsandbytes"}
"""Packages that timm's optimizers with these prefixes need, beside CUDA."""

SUGGESTED = ("adamw", "sgd", "lamb", "muon", "lion", "adafactor")
"""Optimizers suggested for an unknown name."""

UNSUPPORTED = {"adahessian": "needs second derivatives, which this loop does not compute"}
"""Optimizers of timm that cannot be used here, with the reason."""

DEFAULT_LRS = {
    "sgd": 0.01,
    "momentum": 0.01,
    "nesterov": 0.01,
    "lars": 0.2,
    "larc": 0.2,
    "lamb": 0.005,
    "lion": 0.0002,
    "muon": 0.002,
    "adadelta": 1.0,
    "adagrad": 0.01,
}
"""Learning rates of a new head by a part of the optimizer's name; others: `ADAM_LR`."""

ADAM_LR = 0.001


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates and weight decay of the parts of a network.

    Attributes:
        backbone: Learning rate of the backbone's last layer.
        layer_decay: Rate of each layer as a share of the one after it; None: one for all.
        weight_decay: Of tensors of two dimensions and more.
    """

    head: float
    backbone: float
    layer_decay: float | None = None
    weight_decay: float


def parameter_groups(
    parameters: Iterable[nn.Parameter], *, part: str, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Returns an optimizer's groups of one part of the network: with and without decay.

    Biases and norm scales (tensors of one dimension) have no decay.
    """
    kept = list(parameters)
    groups = [
        ([p for p in kept if p.ndim > 1], weight_decay),
        ([p for p in kept if p.ndim <= 1], 0.0),
    ]
    return [
        {"params": params, "weight_decay": decay, "base_lr": lr, "lr": lr, "part": part}
        for params, decay in groups
        if params
    ]


def network_groups(
    module: nn.Module,
    rates: Rates,
    *,
    first_steps: Mapping[str, int] = MappingProxyType({}),
    frozen: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Returns an optimizer's groups of a full network, the head's first.

    With a layer decay ``d`` the backbone's layer ``i`` of ``L`` has the rate ``backbone * d ** (L -
    i)``, counted from 1 at the input; the layers are timm's own (``group_matcher``), and ``L + 1``
    is the head (Clark et al. 2020, arXiv 2003.10555; Bao et al. 2021, arXiv 2106.08254).

    Args:
        module: The network.
        rates: Learning rates and weight decay.
        first_steps: First training step by parameter name; 0 where it is missing.
        frozen: Names of parameters that never train.
    """
    groups = parameter_groups(
        head_parameters(module), part="head", lr=rates.head, weight_decay=rates.weight_decay
    )
    scales = layer_scales(module, rates.layer_decay)
    undecayed = _undecayed(module)
    found: dict[tuple[float, int, bool], list[nn.Parameter]] = {}
    for name, parameter in backbone_parameters(module):
        if name in frozen:
            continue
        decays = parameter.ndim > 1 and name not in undecayed
        # Later layers first, and of each the tensors with decay first.
        key = (-scales.get(name, 1.0), first_steps.get(name, 0), not decays)
        found.setdefault(key, []).append(parameter)
    for (scale, opens, exempt), params in sorted(found.items(), key=lambda item: item[0]):
        groups.append(
            {
                "params": params,
                "weight_decay": 0.0 if exempt else rates.weight_decay,
                "base_lr": rates.backbone * -scale,
                "lr": rates.backbone * -scale,
                "part": "backbone",
                "opens": opens,
            }
        )
    return groups


def layer_scales(module: nn.Module, layer_decay: float | None) -> dict[str, float]:
    """Returns the factor on the rate of each parameter of the backbone, by name."""
    if layer_decay is None or not hasattr(module, "group_matcher"):
        return {}
    matcher: Any = module.group_matcher
    layers: dict[str, int] = group_parameters(module, matcher(coarse=False), reverse=True)
    top = max(layers.values())
    return {name: layer_decay ** (top - layer) for name, layer in layers.items()}


def _undecayed(module: nn.Module) -> Collection[str]:
    """Parameter names excluded from weight decay, such as position embeddings."""
    requested: Any = getattr(module, "no_weight_decay", None)
    return set(requested()) if callable(requested) else set()


FUSED_DEVICES = ("cuda", "cpu")
"""Devices with fused optimizers."""


def check_optimizer(name: str, device: str = "cpu") -> str:
    """Returns `name` if it is one of timm's optimizers and can be used on a kind of device.

    Raises:
        ConfigError: It is not; the message suggests similar names.
    """
    known = list_optimizers()
    bare = _bare(name)
    if bare in known:
        package = next((PACKAGES[start] for start in PACKAGES if bare.startswith(start)), None)
        if package and (device != "cuda" or find_spec(package) is None):
            raise ConfigError(f"--optimizer {name} needs CUDA and the package {package}.")
        if bare in UNSUPPORTED:
            raise ConfigError(f"--optimizer {name} {UNSUPPORTED[bare]}.")
        return name
    near = difflib.get_close_matches(bare, known, n=3, cutoff=0.5)
    near += [other for other in known if bare and bare in other][: 3 - len(near)]
    hint = (
        f"did you mean {', '.join(near)}?"
        if near
        else f"choose, for example, {', '.join(SUGGESTED)}."
    )
    raise ConfigError(f"--optimizer {name}: timm has no such optimizer; {hint}")


def default_lr(name: str) -> float:
    """Returns the default learning rate of a new head with an optimizer."""
    bare = _bare(name)
    return next((lr for part, lr in DEFAULT_LRS.items() if part in bare), ADAM_LR)


def make_optimizer(
    groups: list[dict[str, Any]], name: str = DEFAULT_OPTIMIZER
) -> torch.optim.Optimizer:
    """Returns the optimizer over `groups`, by timm's factory; fused on CUDA and on the CPU.

    Raises:
        ConfigError: The optimizer does not exist, or not for this device.
    """
    devices = {p.device.type for group in groups for p in group["params"]}
    check_optimizer(name, devices.pop() if len(devices) == 1 else "cpu")
    for group in groups:
        # Muon is for hidden layers, not for classifiers.
        group.setdefault("use_fallback", group["part"] == "head")
    options: dict[str, Any] = {}
    kind = get_optimizer_class(_bare(name), bind_defaults=False)
    everything = [parameter for group in groups for parameter in group["params"]]
    fusible = all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in everything)
    if fusible and "fused" in inspect.signature(kind).parameters:
        options["fused"] = True
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=name, lr=groups[0]["base_lr"], **options
    )
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> float:
    """Sets every group's learning rate for `step`; returns the head's."""
    head_lr = 0.0
    for group in optimizer.param_groups:
        if group["part"] == "head":
            group["lr"] = head_lr = group["base_lr"] * schedule.head(step)
        else:
            group["lr"] = group["base_lr"] * schedule.backbone(step, group.get("opens", 0))
    return head_lr


def _bare(name: str) -> str:
    return name.lower().removeprefix("lookahead_")

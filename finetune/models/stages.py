"""Stages of a network from input to output, and freezing of parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from timm.models import group_parameters
from torch import nn

from finetune.models.heads import backbone_parameters, head_parameters


@dataclass(frozen=True, kw_only=True)
class TrainableStages:
    """Trainable parameters of a network; all others are frozen.

    Attributes:
        names: Names of the backbone's parameters that train. The head always does.
        batch_statistics: Whether trainable batch norms use the statistics of each batch and update
            their running statistics; else they use the running statistics.
    """

    names: frozenset[str]
    batch_statistics: bool = True


def backbone_stages(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Returns the names of the backbone's parameters, stage by stage from input to output.

    The stages are timm's own (``group_matcher(coarse=True)``): the stem and layer1 to layer4 of a
    ResNet, the blocks of a ViT. What timm puts together with the classifier, such as the norm
    before it, belongs to the last stage. A network without groups is one stage.
    """
    names = [name for name, _ in backbone_parameters(module)]
    if not hasattr(module, "group_matcher"):
        return (tuple(names),)
    matcher: Any = module.group_matcher  # type: ignore[operator, unused-ignore]
    place: Mapping[str, int] = group_parameters(module, matcher(coarse=True), reverse=True)
    head = {id(parameter) for parameter in head_parameters(module)}
    last = max(
        (place[name] for name, p in module.named_parameters() if id(p) in head), default=None
    )
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(place[name], []).append(name)
    ordered = [groups[number] for number in sorted(groups)]
    if last in groups and len(ordered) > 1:
        rest = ordered.pop()
        ordered[-1] += rest
    return tuple(tuple(group) for group in ordered)


def norm_parameters(module: nn.Module) -> frozenset[str]:
    """Returns the names of the parameters of the backbone's norm layers."""
    found = {
        f"{name}.{own}" if name else own
        for name, layer in module.named_modules()
        if is_norm(layer)
        for own, _ in layer.named_parameters()
    }
    return frozenset(name for name, _ in backbone_parameters(module) if name in found)


def is_norm(layer: nn.Module) -> bool:
    """Returns whether a layer is a norm: batch, layer, group, RMS, or one of timm's."""
    if "norm" not in type(layer).__name__.lower():
        return False
    own = list(layer.parameters(recurse=False)) + list(layer.buffers(recurse=False))
    # A norm has no submodules with parameters; a head that contains a norm has.
    return bool(own) and len(own) == len(list(layer.parameters())) + len(list(layer.buffers()))


def all_stages(module: nn.Module, *, without: Collection[str] = ()) -> TrainableStages:
    """Returns the stages of a fully trainable network, without the parameters in `without`."""
    names = (name for name, _ in backbone_parameters(module))
    return TrainableStages(names=frozenset(names) - frozenset(without))


HEAD_ONLY = TrainableStages(names=frozenset())
"""Trains the head alone."""


def set_trainable(module: nn.Module, trainable: TrainableStages) -> None:
    """Makes the head and the given parameters trainable, and puts frozen layers in eval mode.

    In train mode, the batch norms of a frozen layer would update their running statistics, and the
    inputs of the layers after it would drift.
    """
    for name, parameter in backbone_parameters(module):
        parameter.requires_grad_(name in trainable.names)
    _set_mode(module, training=True)
    if not trainable.batch_statistics:
        for layer in module.modules():
            if getattr(layer, "running_mean", None) is not None:
                layer.training = False


def _set_mode(module: nn.Module, *, training: bool) -> None:
    parameters = list(module.parameters())
    if parameters:
        training = any(parameter.requires_grad for parameter in parameters)
    # A layer without parameters (dropout, drop-path) goes with the layer that it is in.
    module.training = training
    for child in module.children():
        _set_mode(child, training=training)

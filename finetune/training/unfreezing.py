"""Unfreezing schedule: trainable stages and input size by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from finetune.models.factory import FROM_SCRATCH
from finetune.models.heads import has_linear_head, head_parameters
from finetune.models.stages import HEAD_ONLY, TrainableStages, backbone_stages, norm_parameters
from finetune.training.optimizer import Opening, Rates, network_groups, parameter_groups
from finetune.training.prepared import Prepared


def opening_epochs(stages: int, epochs: int) -> tuple[int, ...]:
    """Returns the first training epoch, from 0, of each backbone stage.

    The head trains from the first epoch. With ``S`` stages, the ``k``-th from the head opens in
    epoch ``ceil(k E / 2 S)`` of ``E``: the whole network trains in the second half (gradual
    unfreezing, Howard and Ruder 2018, arXiv 1801.06146, spread over the epochs that there are).

    Args:
        stages: Of the backbone.
        epochs: Of the training.

    Returns:
        One epoch a stage, from the input to the head.

    Example:
        >>> opening_epochs(5, 12)
        (6, 5, 4, 3, 2)
    """
    return tuple(
        min(math.ceil(k * epochs / (2 * stages)), epochs - 1) for k in range(stages, 0, -1)
    )


def size_at(epoch: int, *, epochs: int, start: int, full: int) -> int:
    """Returns the side of the inputs in an epoch of a training with growing photos, in pixels.

    It grows in equal steps from `start` and is `full` in the last quarter of the epochs
    (progressive learning, Tan and Le 2021, arXiv 2104.00298). In between it is a multiple of 32
    where `full` is, else of 8: what the strides of the network make of it is then a whole number.

    Args:
        epoch: From 0.
        epochs: Of the training.
        start: Side in the first epoch.
        full: Side in the last ones.

    Example:
        >>> [size_at(epoch, epochs=8, start=128, full=224) for epoch in range(8)]
        [128, 128, 160, 160, 192, 192, 224, 224]
    """
    grows = max(1, math.floor(0.75 * epochs))
    if epoch >= grows or epoch >= epochs - 1:
        return full
    if epoch == 0:
        return start
    step = 32 if full % 32 == 0 else 8
    side = start + (full - start) * epoch / grows
    return max(start, math.floor(side / step) * step)


@dataclass(frozen=True, kw_only=True)
class Unfreezing:
    """Parameter groups and trainable stages by epoch.

    Attributes:
        groups: The optimizer's groups.
        open: Epoch, from 0, to what trains in it.
        head_epochs: Epochs at the start that are the head's alone, at its full rate.
    """

    groups: list[dict[str, Any]]
    trainable: Callable[[int], TrainableStages]
    head_epochs: int = 0


def starts_from_features(prepared: Prepared) -> bool:
    """Returns whether the head of a job's full network is one that learns from features first."""
    return (
        prepared.config.training.mode != "head"
        and prepared.config.training.head_epochs is None
        and prepared.config.model.weights != FROM_SCRATCH
        and has_linear_head(prepared.loaded.module)
        and not prepared.continues
    )


def head_epochs(prepared: Prepared) -> int:
    """Returns the number of first epochs in which only the head trains."""
    asked = prepared.config.training.head_epochs
    if asked is None:
        # A network from scratch has no backbone that a head could learn from.
        scratch = prepared.config.model.weights == FROM_SCRATCH
        asked = 0 if scratch or starts_from_features(prepared) else 1
    return min(asked, prepared.config.training.epochs - 1)


def plan_unfreezing(prepared: Prepared, module: nn.Module) -> Unfreezing:
    """Returns the unfreezing schedule of a training's mode."""
    training, optimization = prepared.config.training, prepared.config.optimization
    if prepared.config.training.mode == "head":
        groups = parameter_groups(
            head_parameters(module),
            part="head",
            lr=prepared.config.training.lr,
            weight_decay=training.weight_decay,
        )
        return Unfreezing(groups=groups, trainable=lambda epoch: HEAD_ONLY)
    stages = backbone_stages(module)
    never = norm_parameters(module) if optimization.freeze_norm else frozenset()
    if prepared.config.training.mode == "gradual":
        alone, opens = 0, opening_epochs(len(stages), prepared.config.training.epochs)
    else:
        alone = head_epochs(prepared)
        opens = (alone,) * len(stages)
    first_steps = tuple(epoch * prepared.steps_per_epoch for epoch in opens)
    rates = Rates(
        head=prepared.config.training.lr,
        backbone=prepared.config.training.lr * training.backbone_lr_scale,
        layer_decay=optimization.layer_decay,
        weight_decay=training.weight_decay,
    )
    opening = Opening(stages=stages, steps=first_steps, never=never)

    def trainable_in(epoch: int) -> TrainableStages:
        names = (
            name
            for stage, first in zip(stages, opens, strict=True)
            if epoch >= first
            for name in stage
        )
        return TrainableStages(
            names=frozenset(names) - never,
            batch_statistics=optimization.norm_statistics != "kept",
        )

    return Unfreezing(
        groups=network_groups(module, rates, opening), trainable=trainable_in, head_epochs=alone
    )


def growing_size(prepared: Prepared) -> Callable[[int], int] | None:
    """Returns the input size by epoch, from 0, for progressive resizing, else None."""
    start, full = prepared.config.optimization.progressive_size, prepared.preprocessing.size
    if start is None:
        return None
    return lambda epoch: size_at(
        epoch, epochs=prepared.config.training.epochs, start=start, full=full
    )

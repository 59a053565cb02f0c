"""From a job's settings to which parts of its network train, when, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from finetune.models.heads import head_parameters
from finetune.models.stages import HEAD_ONLY, Openness, backbone_stages, norm_parameters
from finetune.runs.head_start import head_epochs
from finetune.runs.job import Job
from finetune.training.optim import Opening, Rates, network_groups, parameter_groups
from finetune.training.thaw import opening_epochs, size_at


@dataclass(frozen=True, kw_only=True)
class Thaw:
    """How a network thaws.

    Attributes:
        groups: The optimizer's groups.
        open: Epoch, from 0, to what trains in it.
        head_epochs: Epochs at the start that are the head's alone, at its full rate.
    """

    groups: list[dict[str, Any]]
    open: Callable[[int], Openness]
    head_epochs: int = 0


def thaw_of(job: Job, module: nn.Module) -> Thaw:
    """Returns how the network of a job thaws in its mode."""
    training, optimization = job.config.training, job.config.optimization
    if job.mode == "head":
        groups = parameter_groups(
            head_parameters(module), part="head", lr=job.lr, weight_decay=training.weight_decay
        )
        return Thaw(groups=groups, open=lambda epoch: HEAD_ONLY)
    stages = backbone_stages(module)
    never = norm_parameters(module) if optimization.freeze_norm else frozenset()
    if job.mode == "gradual":
        alone, opens = 0, opening_epochs(len(stages), job.epochs)
    else:
        alone = head_epochs(job)
        opens = (alone,) * len(stages)
    first_steps = tuple(epoch * job.steps_per_epoch for epoch in opens)
    rates = Rates(
        head=job.lr,
        backbone=job.lr * (training.backbone_lr_scale or 0.0),
        layer_decay=optimization.layer_decay,
        weight_decay=training.weight_decay,
    )
    opening = Opening(stages=stages, steps=first_steps, never=never)

    def open_in(epoch: int) -> Openness:
        names = (
            name
            for stage, first in zip(stages, opens, strict=True)
            if epoch >= first
            for name in stage
        )
        return Openness(
            names=frozenset(names) - never,
            batch_statistics=optimization.norm_statistics != "kept",
        )

    return Thaw(groups=network_groups(module, rates, opening), open=open_in, head_epochs=alone)


def growing_size(job: Job) -> Callable[[int], int] | None:
    """Returns the side of the inputs by epoch, from 0, where they are to grow, else None."""
    start, full = job.config.optimization.progressive_size, job.spec.size
    if start is None:
        return None
    return lambda epoch: size_at(epoch, epochs=job.epochs, start=start, full=full)

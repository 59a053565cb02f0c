"""AdamW over parameter groups: head and backbone apart, tensors of one dimension without decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from finetune.training.schedule import Schedule


def parameter_groups(
    parameters: Iterable[nn.Parameter], *, part: str, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Returns AdamW's groups of one part of the network: with and without decay.

    Biases and norm scales (tensors of one dimension) have no decay: it would pull a norm's scale
    towards zero, which regularises nothing.
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


def make_optimizer(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """Returns AdamW over `groups`; fused where all tensors are on CUDA."""
    fused = all(p.device.type == "cuda" for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, fused=fused or None)


def set_lr(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> float:
    """Sets every group's learning rate for `step`; returns the head's."""
    head_lr = 0.0
    for group in optimizer.param_groups:
        factor = schedule.head(step) if group["part"] == "head" else schedule.backbone(step)
        group["lr"] = group["base_lr"] * factor
        if group["part"] == "head":
            head_lr = group["lr"]
    return head_lr

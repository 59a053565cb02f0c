"""Which networks there are, and what is on this machine."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import timm
import torch

import finetune.models.registry  # noqa: F401 - registers finetune's own networks with timm
from finetune.models.factory import input_spec
from finetune.models.weights import weights_on_this_machine

CHOICE = (
    "finetune_small",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_medium",
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "efficientnet_b3",
    "tf_efficientnetv2_s",
    "convnext_tiny",
    "convnextv2_base",
    "vit_small_patch16_224",
    "vit_base_patch16_dinov3",
    "swin_tiny_patch4_window7_224",
)
"""From the smallest to strong ones; each well tried in transfer learning."""


@dataclass(frozen=True)
class ListedModel:
    """One network of the list.

    Attributes:
        name: As for ``--model``.
        parameters: With its own head; None where they were not counted.
        size: Side of its input in pixels.
        weights: ``"here"``, ``"to be had"`` from the hub, or ``"none"``.
    """

    name: str
    parameters: int | None
    size: int
    weights: str


def find_models(pattern: str) -> list[str]:
    """Returns the names that match a shell pattern, or contain it where it is none."""
    wild = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return fnmatch.filter(timm.list_models(include_tags=False), wild)


def list_models(names: Sequence[str], *, count_parameters: bool) -> list[ListedModel]:
    """Returns what is known of networks, in the order of their names, without unknown ones."""
    return [
        ListedModel(
            name,
            _parameters(name) if count_parameters else None,
            input_spec(name).size,
            _weights(name),
        )
        for name in names
        if timm.is_model(name)
    ]


def _parameters(name: str) -> int:
    with torch.device("meta"):
        module = timm.create_model(name)
    return sum(parameter.numel() for parameter in module.parameters())


def _weights(name: str) -> str:
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return "none"
    if weights_on_this_machine(config) is not None:
        return "here"
    return "to be had" if config.hf_hub_id or config.url else "none"

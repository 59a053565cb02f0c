"""What a network can do, tried on one without memory or numbers: torch's meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.layers import DropPath
from torch import nn

from finetune.errors import ModelError


def check_drop_path(name: str, rate: float) -> None:
    """Refuses a drop-path rate for a network in which nothing can be skipped.

    Raises:
        ModelError: It has no stochastic depth.
    """
    try:
        module = _on_meta(name, drop_path_rate=rate)
        has_some = any(
            isinstance(layer, DropPath) and layer.drop_prob > 0 for layer in module.modules()
        )
    except TypeError:
        has_some = False
    if not has_some:
        raise ModelError(
            f"--drop-path {rate:g}: {name} has no blocks that can be skipped (stochastic depth). "
            "Leave --drop-path out, or take a ResNet, ConvNeXt or ViT."
        )


def check_smaller_input(
    name: str, *, size: int, smaller: int, args: Mapping[str, Any] | None = None
) -> None:
    """Refuses a smaller input for a network that takes photos of one size only.

    Args:
        name: A timm model's.
        size: Side that it is made for, in pixels.
        smaller: Side that it is to take, too.
        args: Arguments of the network itself.

    Raises:
        ModelError: It takes no smaller photos, or `smaller` is not smaller.
    """
    if smaller >= size:
        raise ModelError(
            f"--progressive-size {smaller} must be smaller than the input's full size, {size} "
            "pixels."
        )
    config = timm.get_pretrained_cfg(name)
    fixed = {"img_size": size} if config and config.fixed_input_size else {}
    try:
        module = _on_meta(name, **{**(args or {}), **fixed}).eval()
        channels = next(p for p in module.parameters() if p.ndim == 4).shape[1]
        with torch.inference_mode():
            module(torch.zeros(1, channels, smaller, smaller, device="meta"))
    except (RuntimeError, AssertionError, ValueError, ModelError) as error:
        raise ModelError(
            f"--progressive-size {smaller}: {name} takes photos of {size} pixels only. Leave it "
            "out, or take a network of convolutions."
        ) from error


def _on_meta(name: str, **args: Any) -> nn.Module:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        module: nn.Module = timm.create_model(name, **args)
    return module

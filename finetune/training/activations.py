"""What comes out of a network's activation layers: how it is spread, and how much of it is zero."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MOST_VALUES = 50_000
"""Values of a layer that its histogram is made of; the share of zeros counts them all."""


@dataclass(frozen=True, kw_only=True)
class Activation:
    """What one layer gave for a batch.

    Attributes:
        layer: Its name in the network.
        zeros: Share of exact zeros; near 1, most of a ReLU's units are dead.
        values: ``(N,) float32``, at most `MOST_VALUES` of them, evenly spaced.
    """

    layer: str
    zeros: float
    values: NDArray[np.float32]


@torch.no_grad()
def activations(module: nn.Module, inputs: Tensor) -> list[Activation]:
    """Returns what the activation layers of a network give for a batch, in order of their use.

    The network is in eval mode for it and comes back as it was; nothing random is drawn.

    Args:
        module: A network.
        inputs: ``(B, C, S, S)``, on its device.
    """
    found: list[Activation] = []

    def look(name: str, output: Tensor) -> None:
        flat = output.detach().flatten()
        step = max(1, -(-flat.numel() // MOST_VALUES))
        found.append(
            Activation(
                layer=name,
                zeros=float((flat == 0).float().mean()),
                values=flat[::step].float().cpu().numpy(),
            )
        )

    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, layer in module.named_modules()
        if is_activation(layer)
    ]
    try:
        with _in_eval_mode(module):
            module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def is_activation(layer: nn.Module) -> bool:
    """Returns whether a layer is an activation function of torch or timm."""
    cache_dir = type(layer).__module__
    if cache_dir == nn.ReLU.__module__:
        return not isinstance(layer, nn.MultiheadAttention)
    return cache_dir.startswith("timm.layers.activations")


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    # Layer by layer, since a frozen backbone is in eval mode while its head trains.
    before = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, training in before.items():
            layer.training = training

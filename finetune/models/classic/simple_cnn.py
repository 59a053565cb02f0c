"""A plain net of convolution, max pooling and activation blocks, and one linear layer.

The first net that Neural Network Console and most tutorials begin with; LeNet-5 (LeCun et al.,
"Gradient-based learning applied to document recognition", 1998) with tanh is of this kind. With
two blocks at 28x28x1: ``1 x 28 x 28 -> 16 x 14 x 14 -> 32 x 7 x 7 -> 1568 -> labels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from finetune.errors import ModelError
from finetune.models.classic.base import (
    ClassicNet,
    ImageSize,
    build,
    configure,
    need_pixels,
    register,
    settings,
    sides,
)

__all__: list[str] = []

default_cfgs = configure(simple_cnn=settings(size=32, recipe="cifar"))

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class SimpleCNN(ClassicNet):
    """Blocks and a linear layer, ``(B, in_chans, H, W) -> (B, num_classes)``.

    Args:
        in_chans: Channels of the input.
        num_classes: Number of labels.
        img_size: Height and width of the input.
        widths: Output channels of each block; its length is the number of blocks.
        kernel_size: Side of the kernels, odd; the maps keep their size.
        pool_size: Side and stride of the poolings.
        activation: ``"relu"`` or ``"tanh"``.
        hidden: Widths of hidden linear layers before the last one.
        drop_rate: Dropout before each linear layer.

    Raises:
        ModelError: No blocks, an even kernel, an unknown activation, or too small an image.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 10,
        img_size: ImageSize = 32,
        *,
        widths: Sequence[int] = (16, 32),
        kernel_size: int = 5,
        pool_size: int = 2,
        activation: str = "relu",
        hidden: Sequence[int] = (),
        drop_rate: float = 0.0,
    ) -> None:
        height, width = sides(img_size, 32)
        _check(widths, kernel_size, activation)
        shrink = pool_size ** len(widths)
        need_pixels("simple_cnn", height, width, shrink)
        layers: list[nn.Module] = []
        channels = in_chans
        for out in widths:
            layers += [
                nn.Conv2d(channels, out, kernel_size, padding=kernel_size // 2),
                nn.MaxPool2d(pool_size),
                ACTIVATIONS[activation](),
            ]
            channels = out
            height, width = height // pool_size, width // pool_size
        neck: list[nn.Module] = [nn.Flatten(), nn.Dropout(drop_rate)]
        inputs = channels * height * width
        for out in hidden:
            neck += [nn.Linear(inputs, out), ACTIVATIONS[activation](), nn.Dropout(drop_rate)]
            inputs = out
        super().__init__(
            nn.Sequential(*layers),
            nn.Sequential(*neck),
            num_features=inputs,
            in_chans=in_chans,
            num_classes=num_classes,
        )


def _check(widths: Sequence[int], kernel_size: int, activation: str) -> None:
    problems = []
    if not widths:
        problems.append("widths must name at least one block")
    if kernel_size % 2 == 0:
        problems.append(f"kernel_size must be odd, not {kernel_size}")
    if activation not in ACTIVATIONS:
        problems.append(f"activation must be {' or '.join(ACTIVATIONS)}, not {activation}")
    if problems:
        raise ModelError("simple_cnn cannot be built: " + "; ".join(problems) + ".")


@register
def simple_cnn(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns a net of two blocks for 32x32 images, unless `options` say otherwise."""
    return build(SimpleCNN, "simple_cnn", pretrained, **options)

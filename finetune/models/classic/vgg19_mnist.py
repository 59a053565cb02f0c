"""VGG-19 for small images such as MNIST's 28x28.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (2015),
configuration E. The convolutions and the hidden layers of 4096, 4096 and 1000 are the original's;
the last map is taken as it is, 1x1 at 28 pixels, where the original flattens 7x7. A linear layer
from the 1000 to the labels follows. At 28x28x1 that makes 42,988,096 weights before the last layer,
biases not counted, of which 20,017,728 are in the convolutions; at 224x224x3 it is 144 million.

Feature maps at 28x28: 28, 14, 7, 3, 1, 1; a pooling lets a map of one pixel pass.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from finetune.models.classic.base import (
    ClassicNet,
    ImageSize,
    SafeMaxPool2d,
    build,
    configure,
    need_pixels,
    register,
    settings,
    sides,
)

__all__: list[str] = []

default_cfgs = configure(vgg19_mnist=settings(size=28, channels=1, recipe="digits"))

BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and number of convolutions of each block, which a pooling ends."""


class Vgg19Mnist(ClassicNet):
    """VGG-19, ``(B, in_chans, H, W) -> (B, num_classes)``; any H and W.

    Args:
        in_chans: Channels of the input.
        num_classes: Number of labels.
        img_size: Height and width of the input.
        hidden: Widths of the hidden layers.
        batch_norm: Whether each convolution is followed by batch norm, which the original lacks.
        drop_rate: Dropout after the first two hidden layers.

    Raises:
        ModelError: The image is too small.
    """

    def __init__(
        self,
        in_chans: int = 1,
        num_classes: int = 10,
        img_size: ImageSize = 28,
        *,
        hidden: tuple[int, int, int] = (4096, 4096, 1000),
        batch_norm: bool = False,
        drop_rate: float = 0.5,
    ) -> None:
        height, width = sides(img_size, 28)
        need_pixels("vgg19_mnist", height, width, 1)
        layers: list[nn.Module] = []
        channels = in_chans
        for out, count in BLOCKS:
            for _ in range(count):
                layers.append(_convolution(channels, out, height, width))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(out))
                layers.append(nn.ReLU(inplace=True))
                channels = out
            layers.append(SafeMaxPool2d(2))
            if min(height, width) >= 2:
                height, width = height // 2, width // 2
        first, second, third = hidden
        neck = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * height * width, first),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(first, second),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(second, third),
            nn.ReLU(inplace=True),
        )
        super().__init__(
            nn.Sequential(*layers),
            neck,
            num_features=third,
            in_chans=in_chans,
            num_classes=num_classes,
        )
        for layer in neck:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)


def _convolution(channels: int, out: int, height: int, width: int) -> nn.Conv2d:
    """Returns a 3x3 convolution, initialized for maps of `height` x `width` pixels.

    Nineteen layers without normalization learn only from He's initialization ("Delving deep into
    rectifiers", 2015), deviation ``sqrt(2 / inputs)``. On maps of a few pixels most of a kernel
    lies on the zeros around them; counted as inputs, they would let the signal die out: of n pixels
    in a row a kernel of 3 sees (3n - 2) / n on average, which is 1 of 3 at n = 1.
    """
    layer = nn.Conv2d(channels, out, 3, padding=1)
    seen = (3 * height - 2) / height * (3 * width - 2) / width
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (channels * seen)))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


@register
def vgg19_mnist(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns VGG-19 for 28x28 images."""
    return build(Vgg19Mnist, "vgg19_mnist", pretrained, **options)

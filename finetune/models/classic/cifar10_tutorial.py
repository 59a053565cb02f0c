"""The CIFAR-10 net of the TensorFlow tutorials: two convolutions with local response normalization.

``conv1 pool1 norm1 conv2 norm2 pool2 local3 local4 softmax_linear``, trained there on random crops
of 24x24, flipped, with varied brightness and contrast, each image whitened by itself; about 86 %
after 60,000 to 100,000 steps. The widths and the way it is initialized are the tutorial's.

Response normalization is that of Krizhevsky, Sutskever and Hinton (2012), section 3.3, with radius
``n = 4``, bias 1, ``alpha = 0.001 / 9`` and ``beta = 0.75``; for channel i,

    b_i = a_i / (1 + alpha * sum over j = i - 4 .. i + 4 of a_j^2) ^ beta

======  ==================================  ===================
layer   what                                output at 24x24x3
======  ==================================  ===================
conv1   64 kernels 5x5                      64 x 24 x 24
pool1   3x3, stride 2, then normalized      64 x 12 x 12
conv2   64 kernels 5x5, then normalized     64 x 12 x 12
pool2   3x3, stride 2                       64 x 6 x 6
local3  384                                 384
local4  192                                 192
head    labels
======  ==================================  ===================
"""

from __future__ import annotations

from typing import Any

from timm.layers import create_pool2d
from torch import nn

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

# 24 of 32 pixels: the crop that the tutorial trains on and evaluates at.
default_cfgs = configure(cifar10_tutorial_cnn=settings(size=24, crop_pct=0.75, recipe="tutorial"))


class Cifar10TutorialCNN(ClassicNet):
    """The tutorial's net, ``(B, in_chans, H, W) -> (B, num_classes)``; any H and W.

    Args:
        in_chans: Channels of the input.
        num_classes: Number of labels.
        img_size: Height and width of the input.
        drop_rate: Dropout before ``local3`` and ``local4``; the tutorial has none.

    Raises:
        ModelError: The image is too small.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 10,
        img_size: ImageSize = 24,
        *,
        drop_rate: float = 0.0,
    ) -> None:
        height, width = sides(img_size, 24)
        need_pixels("cifar10_tutorial_cnn", height, width, 1)
        features = nn.Sequential(
            nn.Conv2d(in_chans, 64, 5, padding=2),
            nn.ReLU(inplace=True),
            _pool(),
            _response_norm(),
            nn.Conv2d(64, 64, 5, padding=2),
            nn.ReLU(inplace=True),
            _response_norm(),
            _pool(),
        )
        # "Same" pooling of stride 2, twice, rounds each half upwards.
        pixels = -(-height // 4) * -(-width // 4)
        neck = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(drop_rate),
            nn.Linear(64 * pixels, 384),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(384, 192),
            nn.ReLU(inplace=True),
        )
        super().__init__(
            features, neck, num_features=192, in_chans=in_chans, num_classes=num_classes
        )
        convolutions = (features[0], features[4])
        for layer, bias in zip(convolutions, (0.0, 0.1), strict=True):
            _truncated_normal(layer, deviation=5e-2, bias=bias)
        for layer in (neck[2], neck[5]):
            _truncated_normal(layer, deviation=0.04, bias=0.1)
        if isinstance(self.head, nn.Linear):
            _truncated_normal(self.head, deviation=1 / 192, bias=0.0)


def _pool() -> nn.Module:
    # TensorFlow pads "same" windows on the right and below first, which torch's padding cannot say.
    pool: nn.Module = create_pool2d("max", 3, 2, padding="same")
    return pool


def _response_norm() -> nn.Module:
    # torch divides alpha by the window of 9 channels, TensorFlow does not.
    return nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)


def _truncated_normal(layer: nn.Module, *, deviation: float, bias: float) -> None:
    weight, offset = layer.weight, layer.bias
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)  # type: ignore[arg-type]
    nn.init.constant_(offset, bias)  # type: ignore[arg-type]


@register
def cifar10_tutorial_cnn(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the TensorFlow tutorial's net for 24x24 crops of CIFAR-10."""
    return build(Cifar10TutorialCNN, "cifar10_tutorial_cnn", pretrained, **options)

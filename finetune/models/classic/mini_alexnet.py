"""Mini-AlexNet: AlexNet's layout in 3x3 kernels, for images of 32x32 pixels.

Five convolutions of stride 1 and padding 1, batch norm after the first two, three poolings and two
hidden layers with dropout, as in the CIFAR-10 experiment made with Sony's Neural Network Console
(73.07 % at 5 epochs, 74.26 % at 10, 75.53 % at 20). The layout follows Krizhevsky, Sutskever and
Hinton, "ImageNet classification with deep convolutional neural networks" (2012). The experiment's
widths are not published; these are torchvision's AlexNet's, with hidden layers of 1024.

======  =========================  ===================
layer   what                       output at 32x32x3
======  =========================  ===================
conv1   64, batch norm, pool       64 x 16 x 16
conv2   192, batch norm, pool      192 x 8 x 8
conv3   384                        384 x 8 x 8
conv4   256                        256 x 8 x 8
conv5   256, pool                  256 x 4 x 4
fc6     1024, dropout before it    1024
fc7     1024, dropout before it    1024
head    labels
======  =========================  ===================
"""

from __future__ import annotations

from typing import Any

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

default_cfgs = configure(mini_alexnet=settings(size=32, recipe="cifar"))


class MiniAlexNet(ClassicNet):
    """Mini-AlexNet, ``(B, in_chans, H, W) -> (B, num_classes)``; H and W at least 8.

    Args:
        in_chans: Channels of the input.
        num_classes: Number of labels.
        img_size: Height and width of the input.
        widths: Output channels of the five convolutions.
        hidden: Width of the two hidden layers.
        drop_rate: Dropout before each hidden layer.

    Raises:
        ModelError: The image is too small.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 10,
        img_size: ImageSize = 32,
        *,
        widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256),
        hidden: int = 1024,
        drop_rate: float = 0.5,
    ) -> None:
        height, width = sides(img_size, 32)
        need_pixels("mini_alexnet", height, width, 8)
        layers: list[nn.Module] = []
        channels = in_chans
        for index, out in enumerate(widths):
            layers.append(nn.Conv2d(channels, out, 3, padding=1))
            if index < 2:
                layers.append(nn.BatchNorm2d(out))
            layers.append(nn.ReLU(inplace=True))
            if index in (0, 1, 4):
                layers.append(nn.MaxPool2d(2))
            channels = out
        neck = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(drop_rate),
            nn.Linear(channels * (height // 8) * (width // 8), hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
        )
        super().__init__(
            nn.Sequential(*layers),
            neck,
            num_features=hidden,
            in_chans=in_chans,
            num_classes=num_classes,
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module is not self.head:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]


@register
def mini_alexnet(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns Mini-AlexNet for 32x32 images."""
    return build(MiniAlexNet, "mini_alexnet", pretrained, **options)

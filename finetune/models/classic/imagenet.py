"""AlexNet and VGG-19, at their own size and for small images.

``alexnet`` is torchvision's, so that its pretrained weights load: Krizhevsky, "One weird trick for
parallelizing convolutional neural networks" (2014), which is the network of 2012 on one GPU: five
convolutions, three overlapping poolings, two hidden layers of 4096. Feature maps are
``(B, 256, 6, 6)`` at 224x224 pixels and are pooled to 6x6 at any other size.

``mini_alexnet`` has AlexNet's layout in 3x3 kernels, for images of 32x32 pixels: five convolutions
of stride 1 and padding 1, batch norm after the first two, three poolings and two hidden layers with
dropout, as in the CIFAR-10 experiment made with Sony's Neural Network Console (73.07 % at 5 epochs,
74.26 % at 10, 75.53 % at 20). The experiment's widths are not published; these are those of
torchvision's AlexNet, with hidden layers of 1024.

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

``vgg19_mnist`` is configuration E of Simonyan and Zisserman, "Very deep convolutional networks for
large-scale image recognition" (2015). The convolutions and the hidden layers of 4096, 4096 and 1000
are the original's; the last map is used directly, 1x1 at 28 pixels, where the original flattens
7x7. At 28x28x1 it has 42,988,096 weights before the last layer, biases not counted, of which
20,017,728 are in the convolutions; at 224x224x3 it has 144 million. Poolings round the size up, as
in Caffe, where the network was first trained. Feature maps at 28x28: 28, 14, 7, 4, 2, 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from finetune.models.classic.base import (
    ClassicNet,
    ImageSize,
    TimmNet,
    input_sides,
    linear,
    pretrained_cfg,
    register,
)

VGG_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and number of convolutions of each VGG-19 block; a pooling ends each."""


class SafeMaxPool2d(nn.MaxPool2d):
    """Max pooling that returns maps smaller than its kernel unchanged.

    It lets a network designed for large images take small ones.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Returns the pooled maps ``(B, C, h, w)``, at least 1x1."""
        if min(maps.shape[-2:]) >= int(self.kernel_size):  # type: ignore[arg-type]
            maps = super().forward(maps)
        return maps


class AlexNet(TimmNet):
    """AlexNet for images of any size from 7x7.

    The parameters have torchvision's names: ``features.0`` to ``features.10`` are convolutions,
    ``classifier.1``, ``.4`` and ``.6`` are linear.

    Raises:
        ModelError: The image is too small.
    """

    head_name = "classifier.6"

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        img_size: ImageSize = None,
        *,
        drop_rate: float = 0.5,
    ) -> None:
        super().__init__()
        input_sides("alexnet", img_size, 224, minimum=7)
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 4096
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            SafeMaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            SafeMaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            SafeMaxPool2d(3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(drop_rate),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            linear(4096, num_classes),
        )

    def neck(self, maps: Tensor) -> Tensor:
        """Returns hidden activations ``(B, 4096)`` of feature maps."""
        hidden = torch.flatten(self.avgpool(maps), 1)
        for layer in list(self.classifier)[:-1]:
            hidden = layer(hidden)
        return hidden


class MiniAlexNet(ClassicNet):
    """Mini-AlexNet for images of any size from 8x8.

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
        height, width = input_sides("mini_alexnet", img_size, 32, minimum=8)
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


class Vgg19Mnist(ClassicNet):
    """VGG-19 for images of any size.

    Args:
        in_chans: Channels of the input.
        num_classes: Number of labels.
        img_size: Height and width of the input.
        hidden: Widths of the hidden layers.
        batch_norm: Whether batch norm follows each convolution; the original has none.
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
        height, width = input_sides("vgg19_mnist", img_size, 28)
        layers: list[nn.Module] = []
        channels = in_chans
        for out, count in VGG_BLOCKS:
            for _ in range(count):
                layers.append(_convolution(channels, out, height, width))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(out))
                layers.append(nn.ReLU(inplace=True))
                channels = out
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        convolutions = [
            f"conv{block}_{layer}"
            for block, (_, count) in enumerate(VGG_BLOCKS, 1)
            for layer in range(1, count + 1)
        ]
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
            titles=[*convolutions, "fc6", "fc7", "fc8", "head"],
        )
        for layer in neck:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)


def _convolution(channels: int, out: int, height: int, width: int) -> nn.Conv2d:
    """Returns a 3x3 convolution, initialized for maps of `height` x `width` pixels.

    Nineteen layers without normalization train only from He's initialization ("Delving deep into
    rectifiers", 2015), standard deviation ``sqrt(2 / inputs)``. On maps of a few pixels most of a
    kernel lies on the zero padding; counted as inputs, these zeros would make the signal vanish: of
    n pixels in a row a kernel of 3 covers (3n - 2) / n on average, which is 1 of 3 at n = 1.
    """
    layer = nn.Conv2d(channels, out, 3, padding=1)
    covered = (3 * height - 2) / height * (3 * width - 2) / width
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (channels * covered)))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


register(
    "alexnet",
    AlexNet,
    pretrained_cfg(
        size=224,
        num_classes=1000,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop_pct=0.875,
        fixed_input_size=False,
        classifier="classifier.6",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        license="bsd-3-clause",
    ),
)
register("mini_alexnet", MiniAlexNet, pretrained_cfg(size=32), recipe="cifar")
register("vgg19_mnist", Vgg19Mnist, pretrained_cfg(size=28, channels=1), recipe="digits")

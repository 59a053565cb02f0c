"""Residual networks for small images: He's CIFAR ResNets and timm's ResNets with a small stem.

``cifar_resnet`` (He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016,
section 4.2): a 3x3 convolution of 16 channels, three stages of n basic blocks with 16, 32 and 64
channels on maps of 32, 16 and 8 pixels, and global average pooling. Where a stage begins, the
shortcut takes every other pixel and fills the new channels with zeros (option A), so it has no
parameters. Table 6 of the paper: 0.27 M parameters at 20 layers, 0.46 M at 32, 0.66 M at 44,
0.85 M at 56, 1.7 M at 110 and 19.4 M at 1202.

``resnet18_small`` to ``resnet152_small``: the usual stem (7x7 of stride 2, then pooling) leaves 8x8
of a 32x32 image before the first block; here one 3x3 convolution of stride 1 leaves all 32x32, as
is common for CIFAR. At 32x32 the last map is 4x4 instead of 1x1. ``resnet18_small`` has 11,173,962
parameters with 10 labels.
"""

from __future__ import annotations

from typing import Any

from timm.models import resnet
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import ModelError
from finetune.models.classic.base import ClassicNet, ImageSize, pretrained_cfg, register

DEPTHS = (20, 32, 44, 56, 110, 1202)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut, ``(B, C, H, W) -> (B, C', H', W')``."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out - channels
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns the block's output maps."""
        inner = functional.relu(self.bn1(self.conv1(maps)), inplace=True)
        inner = self.bn2(self.conv2(inner))
        if self.stride > 1 or self.new_channels:
            short = maps[:, :, :: self.stride, :: self.stride]
            before = self.new_channels // 2
            maps = functional.pad(short, (0, 0, 0, 0, before, self.new_channels - before))
        return functional.relu(inner + maps, inplace=True)


class CifarResNet(ClassicNet):
    """Residual network of `depth` = 6n + 2 layers with weights, for images of any size.

    Dropout comes before the last layer.

    Raises:
        ModelError: The depth is not 6n + 2.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 10,
        img_size: ImageSize = None,
        *,
        depth: int = 20,
        drop_rate: float = 0.0,
    ) -> None:
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            near = f"{6 * blocks + 2} and {6 * blocks + 8}" if blocks > 0 else "8"
            raise ModelError(
                f"A CIFAR ResNet has 6n + 2 layers, at least 8; {depth} is none such. "
                f"Nearest: {near}."
            )
        layers: list[nn.Module] = [
            nn.Conv2d(in_chans, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
        ]
        channels = 16
        for stage, out in enumerate((16, 32, 64)):
            for index in range(blocks):
                layers.append(BasicBlock(channels, out, 2 if stage and index == 0 else 1))
                channels = out
        neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(drop_rate))
        super().__init__(
            nn.Sequential(*layers),
            neck,
            num_features=64,
            in_chans=in_chans,
            num_classes=num_classes,
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def small_stem_resnet(img_size: ImageSize = None, **options: Any) -> nn.Module:
    """Returns timm's ResNet with a 3x3 stem of stride 1, for images of any size."""
    net: Any = resnet.ResNet(**options)
    stem = nn.Conv2d(net.conv1.in_channels, net.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    net.conv1 = stem
    net.maxpool = nn.Identity()
    for stage in net.feature_info:
        stage["reduction"] = max(1, stage["reduction"] // 4)
    module: nn.Module = net
    return module


_CIFAR = pretrained_cfg(
    size=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    fixed_input_size=False,
)
register("cifar_resnet", CifarResNet, _CIFAR, recipe="cifar")
for _depth in DEPTHS:
    register(f"cifar_resnet{_depth}", CifarResNet, _CIFAR, recipe="cifar", depth=_depth)

_SMALL_STEM = pretrained_cfg(
    size=32,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    fixed_input_size=False,
    first_conv="conv1",
    classifier="fc",
)
for _name, _block, _layers in (
    ("resnet18_small", resnet.BasicBlock, (2, 2, 2, 2)),
    ("resnet34_small", resnet.BasicBlock, (3, 4, 6, 3)),
    ("resnet50_small", resnet.Bottleneck, (3, 4, 6, 3)),
    ("resnet101_small", resnet.Bottleneck, (3, 4, 23, 3)),
    ("resnet152_small", resnet.Bottleneck, (3, 8, 36, 3)),
):
    register(_name, small_stem_resnet, _SMALL_STEM, recipe="cifar", block=_block, layers=_layers)

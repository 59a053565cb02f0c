"""The deep residual nets for CIFAR, of any depth 6n + 2.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016), section 4.2: a 3x3
convolution of 16 channels, three stages of n basic blocks with 16, 32 and 64 channels on maps of
32, 16 and 8 pixels, and a mean over the last map. Where a stage begins, the shortcut takes every
other pixel and fills the new channels with zeros (option A), so that it has no parameters.

Table 6 of the paper: 0.27 M parameters at 20 layers, 0.46 M at 32, 0.66 M at 44, 0.85 M at 56,
1.7 M at 110 and 19.4 M at 1202.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import ModelError
from finetune.models.classic.base import (
    ClassicNet,
    ImageSize,
    build,
    configure,
    register,
    settings,
)

__all__: list[str] = []

DEPTHS = (20, 32, 44, 56, 110, 1202)
_SETTINGS = settings(
    size=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    fixed_input_size=False,
    first_conv="features.0",
    recipe="cifar",
)
default_cfgs = configure(
    cifar_resnet=_SETTINGS, **{f"cifar_resnet{depth}": _SETTINGS for depth in DEPTHS}
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a plain shortcut, ``(B, C, H, W) -> (B, C', H', W')``."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out - channels
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns what the block makes of its maps."""
        inner = functional.relu(self.bn1(self.conv1(maps)), inplace=True)
        inner = self.bn2(self.conv2(inner))
        if self.stride > 1 or self.new_channels:
            short = maps[:, :, :: self.stride, :: self.stride]
            before = self.new_channels // 2
            maps = functional.pad(short, (0, 0, 0, 0, before, self.new_channels - before))
        return functional.relu(inner + maps, inplace=True)


class CifarResNet(ClassicNet):
    """A residual net of `depth` layers, ``(B, in_chans, H, W) -> (B, num_classes)``; any H and W.

    Args:
        in_chans: Channels of the input.
        num_classes: Number of labels.
        img_size: Not needed: this net takes any size.
        depth: Layers with weights, 6n + 2.
        drop_rate: Dropout before the last layer.

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


@register
def cifar_resnet(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns a CIFAR ResNet of 20 layers, or of as many as `depth` says."""
    return build(CifarResNet, "cifar_resnet", pretrained, **options)


@register
def cifar_resnet20(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the CIFAR ResNet of 20 layers."""
    return build(CifarResNet, "cifar_resnet20", pretrained, depth=20, **options)


@register
def cifar_resnet32(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the CIFAR ResNet of 32 layers."""
    return build(CifarResNet, "cifar_resnet32", pretrained, depth=32, **options)


@register
def cifar_resnet44(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the CIFAR ResNet of 44 layers."""
    return build(CifarResNet, "cifar_resnet44", pretrained, depth=44, **options)


@register
def cifar_resnet56(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the CIFAR ResNet of 56 layers."""
    return build(CifarResNet, "cifar_resnet56", pretrained, depth=56, **options)


@register
def cifar_resnet110(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the CIFAR ResNet of 110 layers."""
    return build(CifarResNet, "cifar_resnet110", pretrained, depth=110, **options)


@register
def cifar_resnet1202(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the CIFAR ResNet of 1202 layers."""
    return build(CifarResNet, "cifar_resnet1202", pretrained, depth=1202, **options)

"""timm's ResNets with a stem for small images.

The usual stem (7x7 of stride 2, then a pooling) leaves 8x8 of a 32x32 image before the first block;
here one 3x3 convolution of stride 1 leaves all 32x32, as is common for CIFAR. At 32x32 the last map
is 4x4 instead of 1x1. ``resnet18_small`` has 11,173,962 parameters with 10 labels.
"""

from __future__ import annotations

from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from finetune.models.classic.base import ImageSize, build, configure, register, settings

__all__: list[str] = []

_SETTINGS = settings(
    size=32,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    fixed_input_size=False,
    first_conv="conv1",
    classifier="fc",
    recipe="cifar",
)
default_cfgs = configure(
    resnet18_small=_SETTINGS,
    resnet34_small=_SETTINGS,
    resnet50_small=_SETTINGS,
    resnet101_small=_SETTINGS,
    resnet152_small=_SETTINGS,
)


def small_stem_resnet(img_size: ImageSize = None, **options: Any) -> nn.Module:
    """Returns timm's ResNet with a 3x3 stem of stride 1; it takes images of any size."""
    net: Any = ResNet(**options)
    stem = nn.Conv2d(net.conv1.in_channels, net.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    net.conv1 = stem
    net.maxpool = nn.Identity()
    for stage in net.feature_info:
        stage["reduction"] = max(1, stage["reduction"] // 4)
    module: nn.Module = net
    return module


def _build(
    name: str, block: Any, layers: tuple[int, ...], pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    return build(small_stem_resnet, name, pretrained, block=block, layers=layers, **options)


@register
def resnet18_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns ResNet-18 with a stem for small images."""
    return _build("resnet18_small", BasicBlock, (2, 2, 2, 2), pretrained, options)


@register
def resnet34_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns ResNet-34 with a stem for small images."""
    return _build("resnet34_small", BasicBlock, (3, 4, 6, 3), pretrained, options)


@register
def resnet50_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns ResNet-50 with a stem for small images."""
    return _build("resnet50_small", Bottleneck, (3, 4, 6, 3), pretrained, options)


@register
def resnet101_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns ResNet-101 with a stem for small images."""
    return _build("resnet101_small", Bottleneck, (3, 4, 23, 3), pretrained, options)


@register
def resnet152_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns ResNet-152 with a stem for small images."""
    return _build("resnet152_small", Bottleneck, (3, 8, 36, 3), pretrained, options)

"""Two backbones side by side: one linear head on their concatenated features.

A pair is named ``A+B``. timm finds it under the names of the two architectures, without tags, once
`register_pair` was called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from timm.models import group_parameters, is_model
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.models.classic.base import TimmNet, linear, register
from finetune.photos.preprocessing import Preprocessing

SIGN = "+"


def pair_parts(name: str) -> tuple[str, str] | None:
    """Returns the two model names of a pair, or None for any other name.

    Example:
        >>> pair_parts("resnet18.a1_in1k+mobilenetv2_100")
        ('resnet18.a1_in1k', 'mobilenetv2_100')
    """
    first, sign, second = name.partition(SIGN)
    return (first, second) if sign else None


def register_pair(first: str, second: str) -> str:
    """Registers a pair of timm models with timm, where it is not yet, and returns its name.

    Raises:
        ModelError: One of them takes images of a single size only.
    """
    for part in (first, second):
        config = timm.get_pretrained_cfg(part)
        if config is not None and config.fixed_input_size:
            raise ModelError(
                f"--model {first}{SIGN}{second}: {part} takes images of one size only and cannot "
                "be part of a pair. Use convolutional networks, such as a ResNet or EfficientNet."
            )
    architectures = [part.partition(".")[0] for part in (first, second)]
    name = SIGN.join(architectures)
    if not is_model(name):
        config = timm.get_pretrained_cfg(first)
        known = config.to_dict() if config is not None else {}
        kept = ("input_size", "mean", "std", "interpolation", "crop_pct")
        cfg = {key: known[key] for key in kept if key in known}
        parts = {"first": architectures[0], "second": architectures[1]}
        register(name, BackbonePair, {**cfg, "num_classes": 0, "classifier": "head"}, **parts)
    return name


class BackbonePair(TimmNet):
    """Two timm networks on the same images, and a linear head on both their features.

    Args:
        first: Architecture of the network whose preprocessing the images have.
        second: Architecture of the other; it gets the pixels in its own normalization.
        num_classes: Outputs of the head; 0: none.
        in_chans: Channels of the images.
        **options: Arguments of both networks, such as ``drop_path_rate``.
    """

    def __init__(
        self, first: str, second: str, *, num_classes: int = 0, in_chans: int = 3, **options: Any
    ) -> None:
        super().__init__()
        self.first = timm.create_model(first, num_classes=0, in_chans=in_chans, **options)
        self.second = timm.create_model(second, num_classes=0, in_chans=in_chans, **options)
        self.in_chans, self.num_classes = in_chans, num_classes
        self.num_features = self.head_hidden_size = sum(
            int(getattr(net, "head_hidden_size", net.num_features))
            for net in (self.first, self.second)
        )
        self.second_scale: Tensor
        self.second_shift: Tensor
        self.register_buffer("second_scale", torch.ones(in_chans, 1, 1))
        self.register_buffer("second_shift", torch.zeros(in_chans, 1, 1))
        self.head = linear(self.num_features, num_classes)

    def normalize_second(self, of_first: Preprocessing, of_second: Preprocessing) -> None:
        """Makes the second network see pixels with its own mean and deviation."""
        mean, std = (torch.tensor(values) for values in (of_first.mean, of_first.std))
        own_mean, own_std = (torch.tensor(values) for values in (of_second.mean, of_second.std))
        self.second_scale.copy_((std / own_std)[:, None, None])
        self.second_shift.copy_(((mean - own_mean) / own_std)[:, None, None])

    def check_maps(self, size: int) -> None:
        """Raises ModelError unless the feature maps of both have the same shape."""
        with torch.inference_mode():
            images = torch.zeros(1, self.in_chans, size, size)
            shapes = [net.forward_features(images).shape for net in (self.first, self.second)]
        widths = [int(net.num_features) for net in (self.first, self.second)]
        fits = all(
            len(shape) == 4 and shape[1] == width
            for shape, width in zip(shapes, widths, strict=True)
        )
        if not fits or shapes[0][2:] != shapes[1][2:]:
            names = SIGN.join(type(net).__name__ for net in (self.first, self.second))
            found = " and ".join("x".join(map(str, shape[1:])) for shape in shapes)
            raise ModelError(
                f"{names}: their feature maps ({found} at {size} pixels) cannot be put together. "
                "Choose another pair."
            )

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns the maps of both networks, one after the other in the channels."""
        other = images * self.second_scale + self.second_shift
        maps = [self.first.forward_features(images), self.second.forward_features(other)]
        return torch.cat(maps, dim=1)

    def neck(self, maps: Tensor) -> Tensor:
        """Returns the features ``(B, num_features)`` of the two heads' inputs."""
        width = int(self.first.num_features)
        features = [
            self.first.forward_head(maps[:, :width], pre_logits=True),
            self.second.forward_head(maps[:, width:], pre_logits=True),
        ]
        return torch.cat(features, dim=1)

    def group_matcher(  # type: ignore[override]
        self, coarse: bool = False
    ) -> Callable[[str], float]:
        """Returns the depth of each parameter: that in its own network, the head's the largest."""
        places: dict[str, float] = {}
        for part, net in (("first", self.first), ("second", self.second)):
            depths: Mapping[str, int] = dict.fromkeys(dict(net.named_parameters()), 0)
            if hasattr(net, "group_matcher"):
                depths = group_parameters(net, net.group_matcher(coarse=coarse), reverse=True)
            places |= {f"{part}.{name}": depth for name, depth in depths.items()}
        return lambda name: places.get(name, math.inf)


def assemble_pair(
    name: str, members: tuple[nn.Module, nn.Module], preprocessings: tuple[Preprocessing, ...]
) -> BackbonePair:
    """Returns a registered pair with two networks in it, and no head.

    Raises:
        ModelError: Their feature maps cannot be put together.
    """
    channels = preprocessings[0].channels
    pair: BackbonePair = timm.create_model(name, num_classes=0, in_chans=channels)
    pair.first, pair.second = members
    for member in members:
        member.reset_classifier(0)  # type: ignore[operator, unused-ignore]
    pair.normalize_second(*preprocessings)
    pair.eval().check_maps(preprocessings[0].size)
    return pair

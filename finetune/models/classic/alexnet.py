"""AlexNet as torchvision has it, so that its pretrained weights load.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014), which is the
net of 2012 on one GPU: five convolutions, three overlapping poolings, two hidden layers of 4096.
Feature maps are ``(B, 256, 6, 6)`` at 224x224 pixels and are brought to 6x6 at any other size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from finetune.models.classic.base import (
    ImageSize,
    SafeMaxPool2d,
    TimmNet,
    build,
    configure,
    need_pixels,
    register,
    settings,
    sides,
)

__all__: list[str] = []

default_cfgs = configure(
    alexnet=settings(
        size=224,
        classes=1000,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop_pct=0.875,
        fixed_input_size=False,
        classifier="classifier.6",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        license="bsd-3-clause",
    )
)


class AlexNet(TimmNet):
    """AlexNet, ``(B, in_chans, H, W) -> (B, num_classes)``; H and W at least 7.

    The parameters have torchvision's names: ``features.0`` to ``features.10`` are convolutions,
    ``classifier.1``, ``.4`` and ``.6`` are linear.

    Args:
        in_chans: Channels of the input.
        num_classes: Number of labels.
        img_size: Checked only: this net takes any size.
        drop_rate: Dropout before each hidden layer.

    Raises:
        ModelError: The image is too small.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        img_size: ImageSize = None,
        *,
        drop_rate: float = 0.5,
    ) -> None:
        super().__init__()
        need_pixels("alexnet", *sides(img_size, 224), 7)
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
            nn.Linear(4096, num_classes) if num_classes > 0 else nn.Identity(),
        )

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits ``(B, num_classes)``, or with `pre_logits` ``(B, 4096)``."""
        hidden = torch.flatten(self.avgpool(maps), 1)
        for layer in list(self.classifier)[:-1]:
            hidden = layer(hidden)
        if not pre_logits:
            hidden = self.classifier[-1](hidden)
        return hidden

    def get_classifier(self) -> nn.Module:
        """Returns the last layer."""
        return self.classifier[-1]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer by a new one; this net has no `global_pool` to choose."""
        old = next(self.parameters())
        fresh = nn.Linear(4096, num_classes) if num_classes > 0 else nn.Identity()
        self.num_classes = num_classes
        self.classifier[6] = fresh.to(device=old.device, dtype=old.dtype)


@register
def alexnet(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns torchvision's AlexNet for 224x224 images."""
    return build(AlexNet, "alexnet", pretrained, **options)

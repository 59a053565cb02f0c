"""The two-layer net of TensorFlow's tutorial "Deep MNIST for experts".

At 28x28x1: ``32 kernels 5x5 -> pool to 14x14 -> 64 kernels 5x5 -> pool to 7x7 -> 1024 -> dropout ->
labels``; 3,274,634 parameters with 10 labels; about 99.2 % after 20,000 steps in the tutorial.
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

default_cfgs = configure(
    mnist_experts_cnn=settings(size=28, channels=1, mean=(0.0,), std=(1.0,), recipe="digits")
)


class MnistExpertsCNN(ClassicNet):
    """The tutorial's net, ``(B, in_chans, H, W) -> (B, num_classes)``; H and W at least 4.

    Args:
        in_chans: Channels of the input.
        num_classes: Number of labels.
        img_size: Height and width of the input.
        drop_rate: Dropout before the last layer.

    Raises:
        ModelError: The image is too small.
    """

    def __init__(
        self,
        in_chans: int = 1,
        num_classes: int = 10,
        img_size: ImageSize = 28,
        *,
        drop_rate: float = 0.5,
    ) -> None:
        height, width = sides(img_size, 28)
        need_pixels("mnist_experts_cnn", height, width, 4)
        features = nn.Sequential(
            nn.Conv2d(in_chans, 32, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        neck = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 1024),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
        )
        super().__init__(
            features, neck, num_features=1024, in_chans=in_chans, num_classes=num_classes
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.1, a=-0.2, b=0.2)
                nn.init.constant_(module.bias, 0.1)  # type: ignore[arg-type]


@register
def mnist_experts_cnn(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the net of "Deep MNIST for experts" for 28x28 images."""
    return build(MnistExpertsCNN, "mnist_experts_cnn", pretrained, **options)

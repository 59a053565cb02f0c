"""First networks of well-known tutorials.

``simple_cnn`` has blocks of convolution, max pooling and activation, and one linear layer: the
first network of Neural Network Console and most tutorials; LeNet-5 (LeCun et al., "Gradient-based
learning applied to document recognition", 1998) with tanh is of this kind. Two blocks at 28x28x1:
``1 x 28 x 28 -> 16 x 14 x 14 -> 32 x 7 x 7 -> 1568 -> labels``.

``mnist_experts_cnn`` is the two-layer network of TensorFlow's "Deep MNIST for experts". At 28x28x1:
``32 kernels 5x5 -> pool to 14x14 -> 64 kernels 5x5 -> pool to 7x7 -> 1024 -> dropout -> labels``;
3,274,634 parameters with 10 labels; about 99.2 % after 20,000 steps in the tutorial.

``cifar10_tutorial_cnn`` is the CIFAR-10 network of the TensorFlow tutorials, ``conv1 pool1 norm1
conv2 norm2 pool2 local3 local4 softmax_linear``, trained there on random crops of 24x24, flipped,
with random brightness and contrast, each image standardized; about 86 % after 60,000 to 100,000
steps. The widths and the initialization are the tutorial's. Response normalization is that of
Krizhevsky, Sutskever and Hinton (2012), section 3.3, with radius ``n = 4``, bias 1,
``alpha = 0.001 / 9`` and ``beta = 0.75``; for channel i,

    b_i = a_i / (1 + alpha * sum over j = i - 4 .. i + 4 of a_j^2) ^ beta

==============  ==================================  ===================
layer           what                                output at 24x24x3
==============  ==================================  ===================
conv1           64 kernels 5x5                      64 x 24 x 24
pool1           3x3, stride 2, then normalized      64 x 12 x 12
conv2           64 kernels 5x5, then normalized     64 x 12 x 12
pool2           3x3, stride 2                       64 x 6 x 6
local3          384                                 384
local4          192                                 192
softmax_linear  one per label                       labels
==============  ==================================  ===================
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import create_pool2d
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import ModelError
from finetune.models.classic.base import (
    ClassicNet,
    ImageSize,
    input_sides,
    pretrained_cfg,
    register,
)

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
"""Choices of `SimpleCNN`."""


class SimpleCNN(ClassicNet):
    """Convolution, pooling and activation blocks, then linear layers.

    Args:
        in_chans: Channels of the input.
        num_classes: Number of labels.
        img_size: Height and width of the input.
        widths: Output channels of each block; its length is the number of blocks.
        kernel_size: Side of the kernels, odd; the maps keep their size.
        pool_size: Side and stride of the poolings.
        activation: ``"relu"`` or ``"tanh"``.
        hidden: Widths of hidden linear layers before the last one.
        drop_rate: Dropout before each linear layer.

    Raises:
        ModelError: No blocks, an even kernel, an unknown activation, or too small an image.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 10,
        img_size: ImageSize = 32,
        *,
        widths: Sequence[int] = (16, 32),
        kernel_size: int = 5,
        pool_size: int = 2,
        activation: str = "relu",
        hidden: Sequence[int] = (),
        drop_rate: float = 0.0,
    ) -> None:
        _check(widths, kernel_size, activation)
        height, width = input_sides("simple_cnn", img_size, 32, minimum=pool_size ** len(widths))
        layers: list[nn.Module] = []
        channels = in_chans
        for out in widths:
            layers += [
                nn.Conv2d(channels, out, kernel_size, padding=kernel_size // 2),
                nn.MaxPool2d(pool_size),
                ACTIVATIONS[activation](),
            ]
            channels = out
            height, width = height // pool_size, width // pool_size
        neck: list[nn.Module] = [nn.Flatten(), nn.Dropout(drop_rate)]
        inputs = channels * height * width
        for out in hidden:
            neck += [nn.Linear(inputs, out), ACTIVATIONS[activation](), nn.Dropout(drop_rate)]
            inputs = out
        super().__init__(
            nn.Sequential(*layers),
            nn.Sequential(*neck),
            num_features=inputs,
            in_chans=in_chans,
            num_classes=num_classes,
        )


def _check(widths: Sequence[int], kernel_size: int, activation: str) -> None:
    problems = []
    if not widths:
        problems.append("widths must name at least one block")
    if kernel_size % 2 == 0:
        problems.append(f"kernel_size must be odd, not {kernel_size}")
    if activation not in ACTIVATIONS:
        problems.append(f"activation must be {' or '.join(ACTIVATIONS)}, not {activation}")
    if problems:
        raise ModelError("simple_cnn cannot be built: " + "; ".join(problems) + ".")


class MnistExpertsCNN(ClassicNet):
    """Network of "Deep MNIST for experts"; dropout comes before the last layer.

    Raises:
        ModelError: The image is smaller than 4x4.
    """

    def __init__(
        self,
        in_chans: int = 1,
        num_classes: int = 10,
        img_size: ImageSize = 28,
        *,
        drop_rate: float = 0.5,
    ) -> None:
        height, width = input_sides("mnist_experts_cnn", img_size, 28, minimum=4)
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
                _truncated_normal(module, std=0.1, bias=0.1)


class LocalResponseNorm(nn.LocalResponseNorm):
    """`nn.LocalResponseNorm` with the sum over channels as a 1x1 convolution.

    On a CPU the pooling in three dimensions of the original takes five times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``(B, C, H, W)`` divided by the responses of neighboring channels."""
        channel = torch.arange(x.shape[1], device=x.device)
        distance = channel[:, None] - channel
        in_window = (distance <= self.size // 2) & (distance > self.size // 2 - self.size)
        weight = in_window.to(x.dtype) * (self.alpha / self.size)
        sums = functional.conv2d(x * x, weight[:, :, None, None])
        return x * (self.k + sums).pow(-self.beta)


class Cifar10TutorialCNN(ClassicNet):
    """CIFAR-10 tutorial network, for images of any size.

    `drop_rate` is the dropout before ``local3`` and ``local4``; the tutorial has none.

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
        height, width = input_sides("cifar10_tutorial_cnn", img_size, 24)
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
            features,
            neck,
            num_features=192,
            in_chans=in_chans,
            num_classes=num_classes,
            titles=("conv1", "conv2", "local3", "local4", "softmax_linear"),
        )
        _truncated_normal(features[0], std=5e-2, bias=0.0)
        _truncated_normal(features[4], std=5e-2, bias=0.1)
        _truncated_normal(neck[2], std=0.04, bias=0.1)
        _truncated_normal(neck[5], std=0.04, bias=0.1)
        if isinstance(self.head, nn.Linear):
            _truncated_normal(self.head, std=1 / 192, bias=0.0)


def _pool() -> nn.Module:
    # TensorFlow pads "same" windows on the right and below first; torch's pooling cannot.
    pool: nn.Module = create_pool2d("max", 3, 2, padding="same")
    return pool


def _response_norm() -> nn.Module:
    # torch divides alpha by the window of 9 channels, TensorFlow does not.
    return LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)


def _truncated_normal(layer: nn.Module, *, std: float, bias: float) -> None:
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)  # type: ignore[arg-type]
    nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]


register("simple_cnn", SimpleCNN, pretrained_cfg(size=32), recipe="cifar")
register(
    "mnist_experts_cnn",
    MnistExpertsCNN,
    pretrained_cfg(size=28, channels=1, mean=(0.0,), std=(1.0,)),
    recipe="digits",
)
register(
    "cifar10_tutorial_cnn",
    Cifar10TutorialCNN,
    # 24 of 32 pixels: the crop that the tutorial trains on and evaluates at.
    pretrained_cfg(size=24, crop_pct=0.75),
    recipe="tutorial",
)

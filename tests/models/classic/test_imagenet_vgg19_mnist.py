from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import finetune.models.classic  # noqa: F401 - registers the nets


@pytest.fixture(scope="module")
def net() -> Any:
    with torch.device("meta"):
        return timm.create_model("vgg19_mnist", in_chans=1).eval()


def test_it_has_the_published_42_988_096_weights_before_the_last_layer(net: Any) -> None:
    weights = sum(p.numel() for name, p in net.named_parameters() if name.endswith("weight"))
    assert weights - net.head.weight.numel() == 42_988_096


def test_its_convolutions_are_those_of_torchvisions_vgg19(net: Any) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.vgg19(weights=None)

    def convolutions(features: nn.Module) -> list[tuple[int, int, tuple[int, ...]]]:
        return [
            (m.in_channels, m.out_channels, m.kernel_size)
            for m in features.modules()
            if isinstance(m, nn.Conv2d)
        ]

    ours, original = convolutions(net.features), convolutions(theirs.features)
    assert len(ours) == 16
    assert ours[1:] == original[1:]
    assert ours[0] == (1, *original[0][1:])


def test_at_224_it_is_the_original_up_to_the_hidden_layers() -> None:
    """torchvision states 143,667,240 parameters for VGG-19 at 224x224x3 with 1000 labels."""
    with torch.device("meta"):
        large = timm.create_model("vgg19_mnist", img_size=224, in_chans=3)
    stated = torchvision.models.VGG19_Weights.IMAGENET1K_V1.meta["num_params"]
    parameters = sum(p.numel() for p in large.parameters())
    assert parameters - sum(p.numel() for p in large.head.parameters()) == stated == 143_667_240


def test_its_feature_maps_are_those_of_torchvisions_vgg19() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.vgg19(num_classes=1).features.eval()
    ours = timm.create_model("vgg19_mnist", in_chans=3, hidden=(1, 1, 1)).features.eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=0)


def test_poolings_round_sizes_up(net: Any) -> None:
    sizes = []
    maps = torch.zeros(1, 1, 28, 28, device="meta")
    for layer in net.features:
        maps = layer(maps)
        if isinstance(layer, nn.MaxPool2d):
            sizes.append(maps.shape[-1])
    assert sizes == [14, 7, 4, 2, 1]


def test_the_signal_survives_nineteen_layers() -> None:
    torch.manual_seed(0)
    net = timm.create_model("vgg19_mnist", in_chans=1, hidden=(64, 64, 32)).eval()
    with torch.inference_mode():
        hidden = net.forward_head(net.forward_features(torch.randn(16, 1, 28, 28)), pre_logits=True)
    assert 0.05 < hidden.std(dim=0).mean().item() < 20


def test_batch_norm_follows_every_convolution_with_the_option() -> None:
    net = timm.create_model("vgg19_mnist", hidden=(8, 8, 8), batch_norm=True)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 16

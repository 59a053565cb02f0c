from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import finetune.models.classic  # noqa: F401 - registers the nets

# Parameters with 10 labels, as commonly stated for CIFAR ResNets with a 3x3 stem.
STATED = {18: 11_173_962, 34: 21_282_122, 50: 23_520_842, 101: 42_512_970, 152: 58_156_618}


@pytest.mark.parametrize("depth", STATED)
def test_parameters_are_those_of_the_nets_with_a_cifar_stem(depth: int) -> None:
    with torch.device("meta"):
        net = timm.create_model(f"resnet{depth}_small")
    assert sum(p.numel() for p in net.parameters()) == STATED[depth]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_last_map_of_a_32_pixel_image_has_4_pixels(channels: int) -> None:
    net = timm.create_model("resnet18_small", in_chans=channels).eval()
    assert net.conv1.weight.shape == (64, channels, 3, 3)
    assert net.forward_features(torch.zeros(1, channels, 32, 32)).shape == (1, 512, 4, 4)


def test_behind_its_stem_it_is_timms_resnet() -> None:
    small = timm.create_model("resnet18_small", num_classes=4).eval()
    plain = timm.create_model("resnet18", num_classes=4).eval()
    state = {k: v for k, v in small.state_dict().items() if k != "conv1.weight"}
    assert plain.load_state_dict(state, strict=False).missing_keys == ["conv1.weight"]
    plain.conv1, plain.maxpool = small.conv1, nn.Identity()
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(small(image), plain(image))


def test_stages_state_by_how_much_they_reduce() -> None:
    net = timm.create_model("resnet18_small", features_only=True).eval()
    maps = net(torch.zeros(1, 3, 32, 32))
    assert [32 // m.shape[-1] for m in maps] == net.feature_info.reduction() == [1, 1, 2, 4, 8]

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

import finetune.models.classic  # noqa: F401 - registers the nets
from finetune.errors import ModelError

TABLE_6 = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 1202: 19.4}
"""Millions of parameters, in He et al. (2016)."""


@pytest.mark.parametrize("depth", TABLE_6)
def test_parameters_are_those_of_the_papers_table(depth: int) -> None:
    with torch.device("meta"):
        net = timm.create_model(f"cifar_resnet{depth}")
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    digits = 1 if depth >= 110 else 2
    assert round(millions, digits) == TABLE_6[depth]


@pytest.mark.parametrize("depth", [8, 20, 32])
def test_depth_counts_the_layers_with_weights(depth: int) -> None:
    net = timm.create_model("cifar_resnet", depth=depth)
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in net.modules()) == depth


def test_stages_have_32_16_and_8_pixels() -> None:
    net = timm.create_model("cifar_resnet20").eval()
    maps, seen = torch.zeros(1, 3, 32, 32), []
    for layer in net.features:
        maps = layer(maps)
        seen.append(tuple(maps.shape[1:]))
    assert sorted(set(seen), reverse=True) == [(64, 8, 8), (32, 16, 16), (16, 32, 32)]


def test_a_stages_first_shortcut_takes_every_other_pixel_and_adds_empty_channels() -> None:
    torch.manual_seed(0)
    block = timm.create_model("cifar_resnet20").features[6].eval()
    maps = torch.rand(2, 16, 8, 8)
    inner = functional.conv2d(maps, block.conv1.weight, stride=2, padding=1)
    inner = block.bn2(functional.conv2d(block.bn1(inner).relu(), block.conv2.weight, padding=1))
    expected = inner.clone()
    expected[:, 8:24] += maps[:, :, ::2, ::2]
    with torch.inference_mode():
        torch.testing.assert_close(block(maps), expected.relu())


@pytest.mark.parametrize(("depth", "near"), [(18, "14 and 20"), (1000, "998 and 1004"), (2, "8")])
def test_a_depth_that_is_not_6n_plus_2_is_refused_with_the_nearest(depth: int, near: str) -> None:
    with pytest.raises(ModelError) as error:
        timm.create_model("cifar_resnet", depth=depth)
    assert str(error.value) == (
        f"A CIFAR ResNet has 6n + 2 layers, at least 8; {depth} is none such. Nearest: {near}."
    )

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import finetune.models.classic  # noqa: F401 - registers the nets
from finetune.errors import ModelError


@pytest.mark.parametrize(
    ("activation", "kind"), [("relu", nn.ReLU), ("tanh", nn.Tanh)], ids=["relu", "tanh"]
)
def test_blocks_are_convolution_pooling_activation(activation: str, kind: type[nn.Module]) -> None:
    net = timm.create_model("simple_cnn", widths=(4, 6, 8), activation=activation)
    assert [type(layer) for layer in net.features] == [nn.Conv2d, nn.MaxPool2d, kind] * 3


def test_two_blocks_leave_7x7_of_28x28() -> None:
    net = timm.create_model("simple_cnn", img_size=28, in_chans=1).eval()
    assert net.forward_features(torch.zeros(1, 1, 28, 28)).shape == (1, 32, 7, 7)
    assert net.num_features == 32 * 7 * 7


def test_hidden_layers_are_added_by_the_option() -> None:
    net = timm.create_model("simple_cnn", hidden=(120, 84), num_classes=7)
    linear = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(2048, 120), (120, 84), (84, 7)]


def test_parameters_are_those_of_lenet_like_sizes() -> None:
    net = timm.create_model(
        "simple_cnn", in_chans=1, img_size=28, widths=(6, 16), hidden=(120, 84), activation="tanh"
    )
    expected = (25 * 6 + 6) + (25 * 6 * 16 + 16) + (16 * 49 * 120 + 120)
    expected += (120 * 84 + 84) + (84 * 10 + 10)
    assert sum(p.numel() for p in net.parameters()) == expected


def test_bad_sizes_are_all_named_in_one_message() -> None:
    with pytest.raises(ModelError) as error:
        timm.create_model("simple_cnn", widths=(), kernel_size=4, activation="gelu")
    assert str(error.value) == (
        "simple_cnn cannot be built: widths must name at least one block; kernel_size must be odd, "
        "not 4; activation must be relu or tanh, not gelu."
    )


def test_more_poolings_than_pixels_are_refused() -> None:
    with pytest.raises(ModelError) as error:
        timm.create_model("simple_cnn", widths=(4, 4, 4), img_size=6)
    assert str(error.value) == (
        "simple_cnn needs images of at least 8x8 pixels; --size 6 is too small."
    )

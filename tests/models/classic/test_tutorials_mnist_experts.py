from __future__ import annotations

import numpy as np
import timm
import torch
from torch import nn

import finetune.models.classic  # noqa: F401 - registers the nets


def test_it_has_the_tutorials_number_of_parameters() -> None:
    net = timm.create_model("mnist_experts_cnn", in_chans=1)
    expected = (25 * 32 + 32) + (25 * 32 * 64 + 64) + (7 * 7 * 64 * 1024 + 1024) + (1024 * 10 + 10)
    assert sum(p.numel() for p in net.parameters()) == expected == 3_274_634


def test_maps_are_14_and_7_pixels_wide() -> None:
    net = timm.create_model("mnist_experts_cnn", in_chans=1).eval()
    first = net.features[:3](torch.zeros(1, 1, 28, 28))
    assert first.shape == (1, 32, 14, 14)
    assert net.forward_features(torch.zeros(1, 1, 28, 28)).shape == (1, 64, 7, 7)


def test_dropout_stands_before_the_last_layer_alone() -> None:
    net = timm.create_model("mnist_experts_cnn")
    assert [type(m) for m in net.neck] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout]
    assert net.neck[3].p == 0.5


def test_it_starts_from_the_tutorials_distributions() -> None:
    torch.manual_seed(0)
    net = timm.create_model("mnist_experts_cnn", in_chans=1)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # A normal distribution cut at two deviations keeps 0.8796 of its deviation.
            np.testing.assert_allclose(module.weight.std().item(), 0.08796, rtol=0.06)
            assert module.weight.abs().max().item() <= 0.2
            assert module.bias is not None
            assert module.bias.eq(0.1).all()


def test_a_gray_image_gives_what_its_copy_in_three_channels_gives() -> None:
    torch.manual_seed(0)
    gray = timm.create_model("mnist_experts_cnn", in_chans=1).eval()
    color = timm.create_model("mnist_experts_cnn", in_chans=3).eval()
    state = gray.state_dict()
    state["features.0.weight"] = state["features.0.weight"].repeat(1, 3, 1, 1) / 3
    color.load_state_dict(state)
    image = torch.rand(2, 1, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(
            gray(image), color(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4
        )

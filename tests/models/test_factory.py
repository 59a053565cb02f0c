from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import ConfigError, ModelError, WeightsUnavailable
from finetune.models import weights
from finetune.models.factory import (
    ModelRequest,
    create_model,
    rebuild,
    replace_head,
)
from finetune.models.feature_backends import features_of
from finetune.models.features import weights_digest
from finetune.models.heads import (
    backbone_parameters,
    write_head,
)
from finetune.models.registry import resolve_preprocessing

TINY = "test_resnet"


def test_weights_from_a_file_are_those_of_the_file(tiny_weights: Path) -> None:
    loaded = create_model(ModelRequest(name=TINY, weights=str(tiny_weights)))
    note = replace_head(loaded, 3, seed=0)
    assert note == f"The head of {tiny_weights} (1000 outputs) was replaced by a new one (3)."
    state, expected = loaded.module.state_dict(), load_file(tiny_weights)
    head = {"fc.weight", "fc.bias"}
    assert all(torch.equal(state[name], expected[name]) for name in set(expected) - head)
    assert state["fc.weight"].shape[0] == 3


def test_a_head_of_the_right_width_is_kept(tmp_path: Path) -> None:
    module = timm.create_model(TINY, num_classes=3)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    loaded = create_model(ModelRequest(name=TINY, weights=str(tmp_path / "w.safetensors")))
    note = replace_head(loaded, 3, seed=0)
    assert note is not None
    assert note.endswith("has one output per label (3) and was kept.")
    network: Any = loaded.module
    assert torch.equal(network.get_classifier().weight, module.get_classifier().weight)


def test_a_file_without_a_head_fits(tmp_path: Path) -> None:
    module = timm.create_model(TINY, num_classes=0)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    loaded = create_model(ModelRequest(name=TINY, weights=str(tmp_path / "w.safetensors")))
    assert replace_head(loaded, 4, seed=0) is None
    assert loaded.module(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_pth_file_is_read_with_its_wrapping(tmp_path: Path, wrapper: str | None) -> None:
    state = {f"module.{k}": v for k, v in timm.create_model(TINY).state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    loaded = create_model(ModelRequest(name=TINY, weights=str(tmp_path / "w.pth")))
    network: Any = loaded.module
    assert torch.equal(network.get_classifier().weight, state["module.fc.weight"])


class Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": Bomb(trace)}, path)
    with pytest.raises(ModelError) as error:
        create_model(ModelRequest(name=TINY, weights=str(path)))
    assert str(error.value) == (
        f"--weights {path} was refused: it holds more than tensors, and opening it could run "
        "code. Nothing was run. Ask for a .safetensors file of the same weights."
    )
    assert not trace.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"hello")
    with pytest.raises(ModelError, match=f"--weights .*{name}"):
        create_model(ModelRequest(name=TINY, weights=str(path)))
    with pytest.raises(ModelError, match="there is no such file"):
        create_model(ModelRequest(name=TINY, weights=str(tmp_path / "none.pth")))
    torch.save({"a": 1}, tmp_path / "n.pth")
    with pytest.raises(ModelError, match="has no named tensors"):
        create_model(ModelRequest(name=TINY, weights=str(tmp_path / "n.pth")))


def test_weights_of_another_architecture_name_the_keys(tiny_weights: Path) -> None:
    with pytest.raises(ModelError) as error:
        create_model(ModelRequest(name="test_vit", weights=str(tiny_weights)))
    text = str(error.value)
    assert text.startswith(f"--weights {tiny_weights} does not fit test_vit: Missing key(s)")
    assert '"cls_token"' in text
    assert "Unexpected key(s)" in text
    assert "\n" not in text
    assert len(text) < 800


def test_an_unknown_model_offers_the_nearest() -> None:
    with pytest.raises(ModelError) as error:
        create_model(ModelRequest(name="resnt50"))
    assert str(error.value).startswith(
        "--model resnt50: there is no such model; did you mean resnet50"
    )
    with pytest.raises(ModelError, match="see: finetune models"):
        create_model(ModelRequest(name="qqqqqqqqqq"))


def test_offline_the_hub_is_not_used_and_the_error_has_the_next_step() -> None:
    with pytest.raises(WeightsUnavailable) as error:
        create_model(ModelRequest(name="resnet50"))
    assert str(error.value) == (
        "The pretrained weights of resnet50 are not on this machine and cannot be "
        "downloaded: HF_HUB_OFFLINE is set. Connect to the internet once, give a file with "
        "--weights FILE, leave --model out to use the packaged weights, or start from scratch with "
        "--weights none."
    )


def test_an_unreachable_hub_is_detected_by_one_quick_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub.constants

    asked = []

    def refuse(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append((address, timeout))
        raise OSError("unreachable")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(WeightsUnavailable, match="cannot be reached"):
        create_model(ModelRequest(name="resnet50"))
    assert len(asked) == 1
    assert asked[0][1] == weights.CONNECT_TIMEOUT_SECONDS


def test_pretrained_weights_come_through_timms_own_loading(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in for the download: what huggingface_hub would have fetched, lying in the cache.
    asked = []

    def cached(repository: str, file: str, **_: object) -> str | None:
        asked.append((repository, file))
        return str(tiny_weights) if file == "model.safetensors" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    loaded = create_model(ModelRequest(name=TINY))
    assert asked[0] == ("timm/test_resnet.r160_in1k", "model.safetensors")
    assert loaded.origin == "timm/test_resnet.r160_in1k"
    expected = load_file(tiny_weights)
    state = loaded.module.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert replace_head(loaded, 2, seed=0) is None


def test_the_download_itself_is_timms(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.models._builder as builder

    monkeypatch.setattr(weights, "require_reachable_hub", lambda name, config: None)
    monkeypatch.setattr(builder, "load_state_dict_from_hf", lambda *a, **k: load_file(tiny_weights))
    loaded = create_model(ModelRequest(name=TINY))
    assert torch.equal(loaded.module.state_dict()["fc.bias"], load_file(tiny_weights)["fc.bias"])


def test_a_failed_download_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.models._builder as builder

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("connection reset\nmore text")

    monkeypatch.setattr(weights, "require_reachable_hub", lambda name, config: None)
    monkeypatch.setattr(builder, "load_state_dict_from_hf", fail)
    with pytest.raises(WeightsUnavailable, match=r"cannot be downloaded: connection reset\."):
        create_model(ModelRequest(name=TINY))


def test_an_architecture_without_pretrained_weights_is_an_error() -> None:
    with pytest.raises(WeightsUnavailable, match="There are no pretrained weights of"):
        create_model(ModelRequest(name=WITHOUT_WEIGHTS))


WITHOUT_WEIGHTS = next(
    name
    for name in timm.list_models("resnet*", include_tags=False)
    if not (c := timm.get_pretrained_cfg(name)).hf_hub_id and not c.url and not c.file
)


def test_from_scratch_depends_on_the_seed_alone() -> None:
    one, two = (create_model(ModelRequest(name=TINY, weights="none", seed=3)) for _ in range(2))
    other = create_model(ModelRequest(name=TINY, weights="none", seed=4))
    for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(one.module.parameters()), next(other.module.parameters()))


def test_creating_leaves_the_global_generator_alone(tiny_weights: Path) -> None:
    before = torch.get_rng_state()
    replace_head(create_model(ModelRequest(name=TINY, weights=str(tiny_weights))), 3, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_preprocessing_is_the_models_own_by_default() -> None:
    config = timm.get_pretrained_cfg("vit_small_patch16_224")
    preprocessing = resolve_preprocessing("vit_small_patch16_224")
    assert (preprocessing.size, preprocessing.mean, preprocessing.crop_pct) == (
        224,
        tuple(config.mean),
        config.crop_pct,
    )
    assert resolve_preprocessing("resnet50", size=96).size == 96


def test_small_images_are_seen_whole_and_not_enlarged() -> None:
    assert resolve_preprocessing("resnet50", size=32).working_size == 32
    assert resolve_preprocessing("resnet50", size=96).working_size > 96
    # The tutorial's own size is a crop of 24 of 32 pixels.
    assert resolve_preprocessing("cifar10_tutorial_cnn").working_size == 32
    assert resolve_preprocessing("cifar10_tutorial_cnn", size=24).working_size == 32


def test_gray_has_the_average_of_the_colors_means_and_deviations() -> None:
    preprocessing = resolve_preprocessing("resnet50", channels=1)
    assert (preprocessing.channels, len(preprocessing.mean), len(preprocessing.std)) == (1, 1, 1)
    assert preprocessing.mean[0] == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    assert preprocessing.std[0] == pytest.approx((0.229 + 0.224 + 0.225) / 3)


@pytest.mark.parametrize("name", ["vgg19_mnist", "mnist_experts_cnn"])
def test_the_mnist_networks_are_gray_by_default(name: str) -> None:
    assert resolve_preprocessing(name).channels == 1
    color = resolve_preprocessing(name, channels=3)
    assert color.mean == resolve_preprocessing(name).mean * 3


def test_pretrained_color_weights_are_summed_for_a_gray_input(tiny_weights: Path) -> None:
    gray = create_model(ModelRequest(name=TINY, weights=str(tiny_weights), channels=1)).module
    first = timm.get_pretrained_cfg(TINY).first_conv
    expected = load_file(tiny_weights)[f"{first}.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(gray.state_dict()[f"{first}.weight"], expected)
    assert gray(torch.zeros(1, 1, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize("name", [TINY, "test_vit", "mnist_experts_cnn", "finetune_small"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_is_rebuilt_with_the_channels_of_its_tensors(name: str, channels: int) -> None:
    made = create_model(ModelRequest(name=name, weights="none", channels=channels))
    network: Any = made.module
    again = rebuild(name, network.num_classes, made.preprocessing.size, made.module.state_dict())
    inputs = torch.zeros(1, channels, made.preprocessing.size, made.preprocessing.size)
    torch.testing.assert_close(again.eval()(inputs), made.module.eval()(inputs))


def test_two_channels_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        create_model(ModelRequest(name=TINY, weights="none", channels=2))
    assert str(error.value) == "--channels 2: a network sees photos in 1 channel (gray) or 3."


def test_a_fixed_size_transformer_takes_another_size() -> None:
    loaded = create_model(ModelRequest(name="test_vit", weights="none", size=96))
    assert loaded.preprocessing.size == 96
    assert loaded.module(torch.zeros(1, 3, 96, 96)).shape[0] == 1
    again = rebuild("test_vit", 1000, 96, loaded.module.state_dict())
    assert again(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)


def test_tensors_of_another_network_do_not_rebuild() -> None:
    with pytest.raises(ModelError, match="The weights of this run do not fit test_resnet"):
        rebuild(TINY, 3, 64, timm.create_model("test_vit").state_dict())


def test_features_through_the_head_are_the_networks_logits() -> None:
    module = timm.create_model(TINY, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(module.get_classifier()(features_of(module, images)), module(images))


def test_the_backbones_digest_leaves_the_head_out() -> None:
    module = timm.create_model(TINY, num_classes=5)
    first = weights_digest(module)
    write_head(module, torch.ones(5, module.num_features), torch.zeros(5))
    assert weights_digest(module) == first
    with torch.no_grad():
        next(p for _, p in backbone_parameters(module)).add_(1)
    assert weights_digest(module) != first
    with pytest.raises(ModelError):
        write_head(module, torch.ones(4, module.num_features), torch.zeros(4))

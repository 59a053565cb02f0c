from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import timm
import torch
from torch import Tensor, nn

from finetune.models import feature_backends
from finetune.models.feature_backends import fastest_backend, features_of, relative_difference
from finetune.models.features import FeatureCache
from finetune.photos.preprocessing import Preprocessing

SHAPE = (3, 32, 32)
ENOUGH = 1 + (feature_backends.MIN_ONNX_PHOTOS * 224**2 - 1) // (SHAPE[1] * SHAPE[2])


class Exported(NamedTuple):
    module: nn.Module
    folder: Path
    backend: feature_backends.FeatureBackend


def make_module() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network: nn.Module = timm.create_model("test_resnet", num_classes=3)
        return network.eval()


@pytest.fixture
def module() -> nn.Module:
    return make_module()


def pixels(count: int = 3) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(9))


def backend_of(module: nn.Module, folder: Path, photos: int) -> feature_backends.FeatureBackend:
    return fastest_backend(module, shape=SHAPE, photos=photos, graph=folder / "backbone.onnx")


def test_few_photos_use_torch(module: nn.Module, tmp_path: Path) -> None:
    found = backend_of(module, tmp_path, ENOUGH - 1)
    assert (found.name, found.note) == ("torch", None)
    assert not list(tmp_path.iterdir())
    with torch.inference_mode():
        assert torch.allclose(found.features(pixels()), features_of(module, pixels()), atol=1e-6)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The ONNX Runtime backend of a network, in the folder that keeps its graph."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("graph")
    module = make_module()
    return Exported(module, folder, backend_of(module, folder, ENOUGH))


def test_onnxruntime_gives_torchs_features_for_any_number_of_photos(exported: Exported) -> None:
    module, _, found = exported
    assert found.name == "onnxruntime"
    assert found.note is not None
    assert found.note.startswith(
        f"Features of {ENOUGH:,} photos by ONNX Runtime (differs from torch by "
    )
    for photos in (1, 3, 5):
        with torch.inference_mode():
            expected = features_of(module, pixels(photos))
        assert torch.allclose(found.features(pixels(photos)), expected, atol=1e-4)
    # What one batch gave is not overwritten by the next.
    first = found.features(pixels(2))
    kept = first.clone()
    found.features(pixels(2) + 1)
    assert torch.equal(first, kept)


def test_the_exported_graph_is_kept_and_found_again(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (exported.folder / "backbone.onnx").is_file()

    def fail(*args: object, **keywords: object) -> None:
        raise AssertionError("exported twice")

    monkeypatch.setattr(torch.onnx, "export", fail)
    assert backend_of(exported.module, exported.folder, ENOUGH).name == "onnxruntime"


def put(monkeypatch: pytest.MonkeyPatch, make: Callable[..., feature_backends.Features]) -> None:
    monkeypatch.setattr(feature_backends, "onnxruntime_features", make)


def test_onnxruntime_that_differs_is_not_used(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(backbone: nn.Module, probe: Tensor, graph: Path) -> feature_backends.Features:
        return lambda photos: features_of(backbone, photos).detach() * 1.01

    put(monkeypatch, make)
    found = backend_of(module, tmp_path, ENOUGH)
    assert found.name == "torch"
    assert found.note == (
        "Features by ONNX Runtime differ from torch's by 0.01 of the largest (0.0001 is allowed); "
        "torch is used."
    )


def test_onnxruntime_that_cannot_be_made_is_not_used(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(backbone: nn.Module, probe: Tensor, graph: Path) -> feature_backends.Features:
        raise ValueError("no such operator\nand much more")

    put(monkeypatch, make)
    found = backend_of(module, tmp_path, ENOUGH)
    assert (found.name, found.note) == (
        "torch",
        "ONNX Runtime cannot run this backbone (no such operator); torch is used.",
    )


def test_onnxruntime_that_is_not_installed_is_skipped(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = backend_of(module, tmp_path, ENOUGH)
    assert (found.name, found.note) == ("torch", None)


def test_difference_is_a_share_of_the_largest_feature() -> None:
    expected = torch.tensor([[1.0, -4.0]])
    assert relative_difference(torch.tensor([[1.0, -3.0]]), expected) == 0.25
    assert relative_difference(torch.zeros(1, 3), expected) == float("inf")
    assert not relative_difference(torch.tensor([[float("nan"), 0.0]]), expected) <= 1


def test_cache_makes_its_backend_when_a_feature_is_missing(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    def make(backbone: nn.Module, probe: Tensor, graph: Path) -> feature_backends.Features:
        return lambda photos: features_of(backbone, photos).detach()

    put(monkeypatch, make)
    preprocessing = Preprocessing(size=32, crop_pct=1.0)
    cache = FeatureCache(tmp_path, module, preprocessing, expected=ENOUGH, note=notes.append)
    assert notes == []
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    by_backend = cache.compute(images)
    assert len(notes) == 1
    assert notes[0].startswith(
        f"Features of {ENOUGH:,} photos by ONNX Runtime (differs from torch by "
    )
    plain = FeatureCache(tmp_path / "other", module, preprocessing)
    assert abs(by_backend - plain.compute(images)).max() < 1e-5
    cache.close()
    plain.close()

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from finetune import train
from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.center_crop import center_crop
from finetune.augmentation.recipes import named
from finetune.config_io import resolve
from finetune.data.dataset import PhotoDataset
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.models.feature_backends import features_of
from finetune.models.features import AugmentedView, FeatureCache
from finetune.photos.analyze import digest_of
from finetune.photos.preprocessing import Preprocessing

SPEC = Preprocessing(size=32, crop_pct=0.8)


@pytest.fixture
def dataset(make_photos: Callable[..., Path], tmp_path: Path) -> PhotoDataset:
    root = make_photos({"a": 6})
    samples = [
        Sample(path=str(f.relative_to(root)), digest=digest_of(f.read_bytes()), crop=None, target=0)
        for f in sorted(root.rglob("*.jpg"))
    ]
    return PhotoDataset(root, samples, PixelCache(tmp_path / "pixels", SPEC, limit_gb=1))


@pytest.fixture
def module() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network: torch.nn.Module = timm.create_model("test_resnet", num_classes=3).eval()
        return network


def test_features_are_those_of_the_network_and_are_computed_once(
    dataset: PhotoDataset, module: torch.nn.Module, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "f", module, SPEC)
    assert cache.fill(dataset) == 6
    assert cache.fill(dataset) == 0
    cache.close()
    again = FeatureCache(tmp_path / "f", module, SPEC)
    assert again.fill(dataset) == 0
    images = dataset.__getitems__(range(6)).images
    with torch.inference_mode():
        expected = features_of(module, center_crop(images, 32, SPEC.mean, SPEC.std))
    assert torch.allclose(again.read(again.keys(dataset)), expected, atol=1e-5)
    again.close()


def test_views_are_the_augmented_photos_and_kept_apart(
    dataset: PhotoDataset, module: torch.nn.Module, tmp_path: Path
) -> None:
    augment = BatchAugment(named("light"), size=32, mean=SPEC.mean, std=SPEC.std, seed=5)
    cache = FeatureCache(tmp_path / "f", module, SPEC)
    views = [
        None,
        AugmentedView(augment=augment, number=1),
        AugmentedView(augment=augment, number=2),
    ]
    for view in views:
        assert cache.fill(dataset, view=view) == 6
    batch = dataset.__getitems__(range(6))
    with torch.inference_mode():
        expected = features_of(module, augment(batch.images, batch.indices, 2))
    assert torch.allclose(cache.read(cache.keys(dataset, views[2])), expected, atol=1e-5)
    assert len({key for view in views for key in cache.keys(dataset, view)}) == 18
    other = BatchAugment(named("light"), size=32, mean=SPEC.mean, std=SPEC.std, seed=6)
    fresh = cache.keys(dataset, AugmentedView(augment=other, number=1))
    assert not set(fresh) & set(cache.keys(dataset, views[1]))
    cache.close()


def test_another_backbone_has_features_of_its_own(
    dataset: PhotoDataset, module: torch.nn.Module, tmp_path: Path
) -> None:
    with FeatureCache(tmp_path / "f", module, SPEC).records as records:
        assert len(records) == 0
    with torch.no_grad():
        next(module.parameters()).add_(0.5)
    cache = FeatureCache(tmp_path / "f", module, SPEC)
    assert cache.fill(dataset) == 6
    cache.close()


def test_a_head_trains_on_views(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    photos = make_photos({"a": 8, "b": 8})
    flags = {**tiny_settings, "mode": "head", "views": 3}
    one = train(photos, resolve({}, flags), run="one", runs=tmp_path)
    two = train(photos, resolve({}, flags), run="two", runs=tmp_path)
    assert one.run.model_file.read_bytes() == two.run.model_file.read_bytes()
    config = one.run.read(one.run.config_file)
    assert config["settings"]["augmentation"]["augment"] == "light"
    plain = train(photos, resolve({}, {**flags, "views": 1}), run="plain", runs=tmp_path)
    assert plain.run.model_file.read_bytes() != one.run.model_file.read_bytes()

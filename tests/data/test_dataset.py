from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finetune.data.dataset import DeviceDataset, PhotoDataset, bytes_of, load_to_device
from finetune.data.loaders import load_batches
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.photos.analyze import digest_of
from finetune.photos.preprocessing import Preprocessing

CPU = torch.device("cpu")


@pytest.fixture
def dataset(make_photos: Callable[..., Path], tmp_path: Path) -> PhotoDataset:
    root = make_photos({"a": 5, "b": 4})
    samples = [
        Sample(
            path=str(file.relative_to(root)),
            digest=digest_of(file.read_bytes()),
            crop=None,
            target=number % 2,
        )
        for number, file in enumerate(sorted(root.rglob("*.jpg")))
    ]
    cache = PixelCache(tmp_path / "cache", Preprocessing(size=32), limit_gb=1)
    return PhotoDataset(root, samples, cache)


def test_batches_are_those_of_the_ordinary_path(dataset: PhotoDataset) -> None:
    there = DeviceDataset(dataset, CPU)
    assert len(there) == 9
    batches = [torch.tensor([8, 0, 3]).numpy(), torch.tensor([5]).numpy()]
    pairs = zip(load_batches(dataset, batches), load_batches(there, batches), strict=True)
    for plain, near in pairs:
        assert torch.equal(plain.images, near.images)
        assert torch.equal(plain.targets, near.targets)
        assert torch.equal(plain.indices, near.indices)
        assert near.images.is_contiguous(memory_format=torch.channels_last)


def test_what_lies_on_the_device_is_not_pinned(dataset: PhotoDataset) -> None:
    there = DeviceDataset(dataset, CPU)
    batch = next(load_batches(there, [torch.tensor([1, 2]).numpy()], workers=2, pin=True))
    assert torch.equal(batch.images, dataset.__getitems__([1, 2]).images)


def test_several_labels_go_along(make_photos: Callable[..., Path], tmp_path: Path) -> None:
    root = make_photos({"a": 2})
    samples = [
        Sample(
            path=f"a/00{n}.jpg",
            digest=digest_of((root / f"a/00{n}.jpg").read_bytes()),
            crop=None,
            target=(n, 2),
        )
        for n in range(2)
    ]
    cache = PixelCache(tmp_path / "cache", Preprocessing(size=32), limit_gb=1)
    there = DeviceDataset(PhotoDataset(root, samples, cache, labels=3), CPU)
    assert there.__getitems__([1, 0]).targets.tolist() == [[0, 1, 1], [1, 0, 1]]


def test_the_cpu_needs_no_copy(dataset: PhotoDataset) -> None:
    assert load_to_device(dataset, CPU) is dataset
    size = dataset.cache.size
    assert bytes_of(dataset) == 9 * size * size * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_collection_that_fits_lies_on_the_gpu(
    dataset: PhotoDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda")
    assert load_to_device(dataset, device) is dataset, "nothing is cached yet"
    dataset.__getitems__(range(9))
    there = load_to_device(dataset, device)
    assert isinstance(there, DeviceDataset)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = there.__getitems__([4, 2])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(batch.images.cpu(), dataset.__getitems__([4, 2]).images)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (bytes_of(dataset), 0))
    assert load_to_device(dataset, device) is dataset

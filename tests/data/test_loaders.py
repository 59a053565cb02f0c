from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finetune.data import loaders
from finetune.data.dataset import PhotoDataset
from finetune.data.loaders import (
    epoch_batches,
    epoch_order,
    evaluation_batches,
    load_batches,
    steps_per_epoch,
)
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.errors import DecodeError
from finetune.files import collection_cache_dir
from finetune.photos.analyze import digest_of
from finetune.photos.crops import Crop, load_image
from finetune.photos.preprocessing import Preprocessing

SPEC = Preprocessing(size=32, crop_pct=0.8)


@pytest.fixture
def dataset(make_photos: Callable[..., Path], tmp_path: Path) -> PhotoDataset:
    root = make_photos({"a": 5, "b": 4})
    files = sorted(root.rglob("*.jpg"))
    samples = [
        Sample(
            path=file.relative_to(root).as_posix(),
            digest=digest_of(file.read_bytes()),
            crop=Crop(side=0.5) if number == 3 else None,
            target=0 if file.parent.name == "a" else 1,
        )
        for number, file in enumerate(files)
    ]
    return PhotoDataset(root, samples, PixelCache(tmp_path / "cache", SPEC, limit_gb=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_lost_photos_are_left_out_and_named(dataset: PhotoDataset, workers: int) -> None:
    files = [dataset.root / sample.path for sample in dataset.samples]
    files[1].unlink()
    shutil.copyfile(files[6], files[4])
    files[5].write_bytes(files[5].read_bytes()[:300])
    plan = [np.array([0, 1, 2]), np.array([4, 5]), np.array([8, 3])]
    batches = list(load_batches(dataset, plan, workers=workers, leave_out=True))
    assert [batch.indices.tolist() for batch in batches] == [[0, 2], [], [8, 3]]
    assert len(batches[0].images) == len(batches[0].targets) == 2
    assert set(dataset.lost) == {1, 4, 5}
    if workers == 0:
        assert dataset.lost[1] == "is gone since the photos were scanned"
        assert dataset.lost[4] == "has changed since the photos were scanned"
    # Nothing of another photo is cached under its digest.
    assert dataset.cache.key(dataset.samples[4].digest, None) not in dataset.cache.records
    with pytest.raises(DecodeError, match=r"001\.jpg: (is gone|has vanished)"):
        list(load_batches(dataset, plan, workers=workers))


def test_every_photo_is_seen_once_an_epoch() -> None:
    for count, size in [(1, 8), (7, 3), (64, 8), (65, 8)]:
        steps = epoch_batches(count, size, seed=1, epoch=2)
        assert len(steps) == steps_per_epoch(count, size)
        assert sorted(np.concatenate(steps)) == list(range(count))
        sizes = [len(step) for step in steps]
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first = epoch_order(50, seed=3, epoch=4)
    assert np.array_equal(first, epoch_order(50, seed=3, epoch=4))
    assert not np.array_equal(first, epoch_order(50, seed=3, epoch=5))
    assert not np.array_equal(first, epoch_order(50, seed=4, epoch=4))


def test_pixels_are_those_of_load_image_cached_or_not(dataset: PhotoDataset) -> None:
    size = SPEC.working_size
    assert size == 40
    expected = [load_image(dataset.root / s.path, size=size, crop=s.crop) for s in dataset.samples]
    for _ in ("decoded", "cached"):
        batch = dataset.__getitems__([3, 0, 8])
        assert batch.images.shape == (3, 3, size, size)
        got = batch.images.permute(0, 2, 3, 1).numpy()
        assert np.array_equal(got, np.stack([expected[i] for i in (3, 0, 8)]))
        assert batch.targets.tolist() == [0, 0, 1]
        assert batch.indices.tolist() == [3, 0, 8]
    image, target, index = dataset[8]
    assert np.array_equal(image, expected[8])
    assert (target, index) == (1, 8)


def test_a_dataset_knows_when_it_is_cached(dataset: PhotoDataset) -> None:
    assert not dataset.cached
    dataset.__getitems__(range(9))
    assert dataset.cached


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_for_any_number_of_workers(
    dataset: PhotoDataset, workers: int
) -> None:
    plan = epoch_batches(9, 4, seed=0, epoch=1)
    batches = list(load_batches(dataset, plan, workers=workers))
    assert [batch.indices.tolist() for batch in batches] == [step.tolist() for step in plan]
    for batch in batches:
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            sample = dataset.samples[index]
            expected = load_image(dataset.root / sample.path, size=40, crop=sample.crop)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_evaluation_keeps_the_order() -> None:
    steps = evaluation_batches(7, 3)
    assert [step.tolist() for step in steps] == [[0, 1, 2], [3, 4, 5], [6]]
    assert evaluation_batches(0, 3) == []


def test_a_crop_or_a_fit_is_another_square(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, SPEC, limit_gb=1)
    padded = PixelCache(tmp_path, Preprocessing(size=32, crop_pct=0.8, fit="pad"), limit_gb=1)
    keys = {cache.key("d", None), cache.key("e", None), cache.key("d", Crop(side=0.5))}
    assert len(keys | {padded.key("d", None)}) == 4
    assert padded.key("d", Crop(side=0.5)) == cache.key("d", Crop(side=0.5))


def test_a_photo_that_goes_bad_after_the_scan_is_named(dataset: PhotoDataset) -> None:
    path = dataset.root / dataset.samples[2].path
    path.write_bytes(b"no photo any more")
    with pytest.raises(DecodeError) as error:
        next(load_batches(dataset, [np.array([2])]))
    assert error.value.path == path
    assert error.value.reason == "has changed since the photos were scanned"


def test_caches_lie_with_the_photos_or_with_the_user(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    assert collection_cache_dir(root) == root / ".finetune"
    elsewhere = collection_cache_dir(root, tmp_path / "my.sqlite3")
    assert elsewhere.is_relative_to(tmp_path / "user-cache")
    assert elsewhere != collection_cache_dir(tmp_path, tmp_path / "my.sqlite3")
    assert list(root.iterdir()) == []


def test_a_dataset_works_in_a_spawned_worker(dataset: PhotoDataset) -> None:
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset,
        batch_sampler=[[3, 0], [8]],
        num_workers=1,
        multiprocessing_context="spawn",
        collate_fn=loaders._identity,
        worker_init_fn=loaders._start_worker,
    )
    for batch, indices in zip(loader, ([3, 0], [8]), strict=True):
        assert batch.indices.tolist() == indices
        expected = dataset.__getitems__(indices)
        assert np.array_equal(batch.images.numpy(), expected.images.numpy())

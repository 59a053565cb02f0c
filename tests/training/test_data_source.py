from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.recipes import named
from finetune.data.dataset import PhotoDataset
from finetune.data.loaders import epoch_batches
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.models.stages import HEAD_ONLY, all_stages
from finetune.photos.analyze import digest_of
from finetune.photos.preprocessing import Preprocessing
from finetune.training.data_source import LoaderConfig, PhotoSource, split_epoch


def loading(batch_size: int, accumulate: int) -> LoaderConfig:
    return LoaderConfig(
        batch_size=batch_size,
        seed=4,
        workers=0,
        device=torch.device("cpu"),
        accumulate=accumulate,
    )


@pytest.mark.parametrize("count", [1, 7, 24, 25, 61])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 1), (4, 3), (5, 2)])
def test_portions_make_up_the_steps_of_the_large_batch(
    count: int, batch_size: int, accumulate: int
) -> None:
    how = loading(batch_size, accumulate)
    cuts = split_epoch(count, how, epoch=2, first_step=0)
    steps: list[list[int]] = [[]]
    shares: list[float] = [0.0]
    for cut in cuts:
        assert 0 < len(cut.indices) <= batch_size
        steps[-1] += cut.indices.tolist()
        shares[-1] += cut.share
        if cut.completes:
            steps.append([])
            shares.append(0.0)
    assert steps.pop() == []
    assert shares.pop() == 0
    large = epoch_batches(count, batch_size * accumulate, seed=4, epoch=2)
    assert steps == [step.tolist() for step in large]
    assert shares == pytest.approx([1.0] * len(steps), abs=1e-12)
    numbers = [cut.number for cut in cuts]
    assert len(set(numbers)) == len(numbers), "what is drawn by number must differ"
    for first in range(len(steps) + 1):
        rest = split_epoch(count, how, epoch=2, first_step=first)
        left = [i for step in steps[first:] for i in step]
        assert [i for cut in rest for i in cut.indices.tolist()] == left
        assert [cut.number for cut in rest] == numbers[len(numbers) - len(rest) :]


def test_a_smaller_input_shows_the_same_part_of_the_photo_in_one_resample() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (5, 5, 3)).astype(np.uint8)
    photo = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
    batch = torch.from_numpy(photo[None].copy()).permute(0, 3, 1, 2)
    full = BatchAugment(named("none"), size=48, mean=(0.0,) * 3, std=(1.0,) * 3, seed=0)
    small = full.at_size(24)
    shown = small(batch, torch.arange(1), 0)[0].permute(1, 2, 0).numpy() * 255
    # The center crop of 48 pixels behind the blur of the factor 2, each 2 x 2 of them as one.
    wide = np.pad(photo.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="symmetric")
    rows = (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4
    smooth = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    expected = smooth[8:56, 8:56].reshape(24, 2, 24, 2, 3).mean((1, 3))
    # Beside the border, where the blur ends.
    assert np.abs(shown - expected)[1:-1, 1:-1].max() <= 1.5
    assert np.abs(shown - expected).max() <= 8
    again = small.at_size(48)
    assert torch.equal(again(batch, torch.arange(1), 0), full(batch, torch.arange(1), 0))


@pytest.mark.parametrize("recipe", ["none", "light", "mobius"])
def test_a_smaller_input_is_drawn_alike(recipe: str) -> None:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 255, (6, 4, 4, 3)).astype(np.uint8)
    photos = np.stack([cv2.resize(p, (64, 64), interpolation=cv2.INTER_CUBIC) for p in coarse])
    batch = torch.from_numpy(photos).permute(0, 3, 1, 2)
    full = BatchAugment(named(recipe), size=48, mean=(0.0,) * 3, std=(1.0,) * 3, seed=3)
    small = full.at_size(24)(batch, torch.arange(6), 1)
    large = torch.nn.functional.avg_pool2d(full(batch, torch.arange(6), 1), 2)
    assert float((small - large).abs().mean()) < 0.02


@pytest.fixture
def dataset(make_photos: Callable[..., Path], tmp_path: Path) -> tuple[PhotoDataset, Preprocessing]:
    root = make_photos({"a": 5, "b": 5})
    files = sorted(root.rglob("*.jpg"))
    samples = [
        Sample(
            path=str(f.relative_to(root)),
            digest=digest_of(f.read_bytes()),
            crop=None,
            target=i // 5,
        )
        for i, f in enumerate(files)
    ]
    preprocessing = Preprocessing(size=48)
    return PhotoDataset(
        root, samples, PixelCache(tmp_path / "cache", preprocessing, limit_gb=1)
    ), preprocessing


def test_inputs_grow_and_stages_open_with_the_epochs(
    dataset: tuple[PhotoDataset, Preprocessing],
) -> None:
    photos, preprocessing = dataset
    module = timm.create_model("test_resnet", num_classes=2)
    source = PhotoSource(
        module,
        preprocessing,
        photos,
        photos,
        augment=BatchAugment(
            named("light", {"mix_probability": 1.0}),
            size=48,
            mean=preprocessing.mean,
            std=preprocessing.std,
            seed=0,
        ),
        trainable=lambda epoch: all_stages(module) if epoch else HEAD_ONLY,
        size=lambda epoch: (32, 40, 48)[epoch],
        loading=loading(4, 2),
    )
    for epoch, size in enumerate((32, 40, 48)):
        source.begin_epoch(epoch)
        portions = list(source.batches(epoch, 0))
        assert {tuple(p.inputs.shape[1:]) for p in portions} == {(3, size, size)}
        assert [len(p.inputs) for p in portions] == [3, 2, 3, 2]
        assert all(p.targets.shape == (len(p.inputs), 2) for p in portions)
        assert module.layer1[0].conv1.weight.requires_grad == (epoch > 0)
        assert module.fc.weight.requires_grad
        outputs = source.validate()
        assert outputs.logits.shape == (10, 2)
        assert outputs.targets.tolist() == [0] * 5 + [1] * 5
        assert module.training
        assert module.conv1.training == (epoch > 0)
    # What an epoch shows does not depend on the epochs before it: a resume begins anywhere.
    again = dataclasses.replace(source)
    source.begin_epoch(1)
    again.begin_epoch(1)
    one, other = list(source.batches(1, 0)), list(again.batches(1, 1))
    assert torch.equal(one[2].inputs, other[0].inputs)
    assert torch.equal(one[3].targets, other[1].targets)

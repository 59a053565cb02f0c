"""Images of 28 and 32 pixels: moved, never resampled; and networks that see one channel."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.center_crop import center_crop, luma
from finetune.augmentation.pipelines import PipelineAugment
from finetune.augmentation.recipes import RECIPES, Recipe, named
from finetune.photos.crops import load_image
from finetune.photos.decode.color import to_gray
from finetune.photos.preprocessing import Preprocessing

PLAIN: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
GRAY: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}


@pytest.fixture
def images() -> Tensor:
    """``(6, 3, 32, 32) uint8`` of noise, in which every pixel differs from its neighbors."""
    pixels = np.random.default_rng(2).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def levels(inputs: Tensor) -> NDArray[np.float64]:
    return inputs.double().numpy() * 255


def gray_of(images: Tensor) -> NDArray[np.uint8]:
    """Pillow's own gray, ``(B, 1, H, W)``."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    return np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in pixels])[:, None]


@pytest.mark.parametrize("size", [28, 32])
def test_the_pixels_of_a_small_png_reach_the_network_unchanged(size: int) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    preprocessing = Preprocessing(size=size, crop_pct=1.0, interpolation="bilinear", **PLAIN)
    assert preprocessing.working_size == size
    square = load_image(
        file.getvalue(), size=preprocessing.working_size, interpolation=preprocessing.interpolation
    )
    batch = torch.from_numpy(square)[None].permute(0, 3, 1, 2)
    seen = center_crop(batch, size, preprocessing.mean, preprocessing.std)
    trained = BatchAugment(named("none"), size=size, seed=0, **PLAIN)(batch, torch.arange(1), 0)
    for inputs in (seen, trained):
        shown = levels(inputs)[0].transpose(1, 2, 0)
        np.testing.assert_allclose(shown, pixels, atol=1e-4)


@pytest.mark.parametrize("form", ["forward", "as_batch"])
def test_cifar_pads_by_4_crops_and_mirrors_without_resampling(images: Tensor, form: str) -> None:
    augment = BatchAugment(named("cifar"), size=32, seed=1, **PLAIN)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="symmetric")
    mirrored_ones = 0
    for epoch in range(8):
        shown = levels(getattr(augment, form)(images, torch.arange(6), epoch))
        for photo, image in zip(padded, shown, strict=True):
            places = [
                (top, left, mirrored)
                for top in range(9)
                for left in range(9)
                for mirrored in (False, True)
                if np.allclose(
                    photo[:, top : top + 32, left : left + 32][..., :: -1 if mirrored else 1],
                    image,
                    atol=0.01,
                )
            ]
            assert len(places) == 1
            mirrored_ones += places[0][2]
    assert 0 < mirrored_ones < 48


def test_tutorial_crops_24_of_32_pixels_and_whitens(images: Tensor) -> None:
    recipe = named("tutorial", {"brightness": 0, "contrast": 0, "flip_probability": 0})
    augment = BatchAugment(recipe, size=24, seed=0, **PLAIN)
    inputs = augment(images, torch.arange(6), 3)
    crops = images.double().numpy()
    for crop, image in zip(crops, inputs.double().numpy(), strict=True):
        np.testing.assert_allclose((image.mean(), image.std()), (0, 1), atol=1e-6)
        found = 0
        for top in range(9):
            for left in range(9):
                part = crop[:, top : top + 24, left : left + 24]
                found += np.allclose((part - part.mean()) / part.std(), image, atol=1e-4)
        assert found == 1


def test_evaluation_of_24_of_32_pixels_takes_the_middle(images: Tensor) -> None:
    shown = levels(center_crop(images, 24, **PLAIN))
    np.testing.assert_allclose(shown, images[:, :, 4:28, 4:28].numpy(), atol=1e-4)


def test_gray_is_pillows_bit_by_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 400, 500, 3), dtype=np.uint8)
    expected = gray_of(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(to_gray(pixels)[..., 0], expected[:, 0])
    on_device = luma(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(on_device.numpy(), expected)


def test_a_gray_photo_keeps_its_levels() -> None:
    grays = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    np.testing.assert_array_equal(to_gray(grays)[:, 0], np.arange(256))


def test_a_network_of_one_channel_sees_the_luma(images: Tensor) -> None:
    for inputs in (
        center_crop(images, 32, **GRAY),
        BatchAugment(named("none"), size=32, seed=0, **GRAY)(images, torch.arange(6), 0),
        BatchAugment(named("none"), size=32, seed=0, **GRAY).as_batch(images, torch.arange(6), 0),
    ):
        assert inputs.shape == (6, 1, 32, 32)
        np.testing.assert_allclose(levels(inputs), gray_of(images), atol=1e-3)


def test_gray_is_normalized_by_its_own_mean_and_deviation(images: Tensor) -> None:
    inputs = center_crop(images, 32, (0.4,), (0.2,)).double().numpy()
    np.testing.assert_allclose(inputs, (gray_of(images) / 255 - 0.4) / 0.2, atol=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("name", ["standard", "digits", "strong"])
def test_both_forms_agree_for_one_channel(photos: Tensor, name: str, whiten: bool) -> None:
    recipe = named(name, {"whiten": whiten, "erase_probability": 0})
    augment = BatchAugment(recipe, size=64, mean=(0.5,), std=(0.5,), seed=3)
    one, other = (form(photos, torch.arange(8), 1) for form in (augment, augment.as_batch))
    assert one.shape == other.shape == (8, 1, 64, 64)
    # One gray level on average, in units of the deviation.
    spread = 1.0 if not whiten else 0.25
    assert (one - other).abs().mean(dim=(1, 2, 3)).max() < 1 / 127.5 / spread


def test_whitened_gray_has_mean_0_and_deviation_1(images: Tensor) -> None:
    for inputs in (
        center_crop(images, 28, (0.5,), (0.5,), whiten=True),
        BatchAugment(named("tutorial"), size=28, seed=0, **GRAY)(images, torch.arange(6), 0),
    ):
        flat = inputs.double().flatten(1)
        np.testing.assert_allclose(flat.mean(1), 0, atol=1e-6)
        np.testing.assert_allclose(flat.std(1, correction=0), 1, atol=1e-5)


def test_what_a_preview_shows_of_a_gray_input_is_gray(images: Tensor) -> None:
    augment = BatchAugment(RECIPES["cifar"], size=32, seed=0, **GRAY)
    shown = augment.pixels(images, torch.arange(6), 0)
    assert shown.shape == (6, 3, 32, 32)
    assert (shown == shown[:, :1]).all()
    inputs = augment(images, torch.arange(6), 0)
    np.testing.assert_allclose(levels(inputs), shown[:, :1].numpy(), atol=1e-3)


def test_erased_pixels_of_a_gray_input_are_the_mean(images: Tensor) -> None:
    recipe = Recipe(erase_probability=1.0, erase_area_min=0.2, erase_area_max=0.2)
    augment = BatchAugment(recipe, size=32, mean=(0.4,), std=(0.2,), seed=0)
    boxes = augment.sample(torch.arange(6), 0, height=32, width=32).erase
    for form, level in ((augment, 0.0), (augment.as_batch, 1 / 51)):
        inputs = form(images, torch.arange(6), 0)
        for image, (top, left, bottom, right) in zip(inputs, boxes, strict=True):
            assert image[:, top:bottom, left:right].abs().max() <= level + 1e-6


def test_a_pipeline_file_serves_a_network_of_one_channel(images: Tensor, tmp_path: Path) -> None:
    from finetune.augmentation.pipelines import compose, write_pipeline

    path = write_pipeline(compose(named("cifar"), size=32), tmp_path / "mine.yaml")
    preprocessing = Preprocessing(size=32, crop_pct=1.0, channels=1, **GRAY)
    augment = PipelineAugment(path, preprocessing, seed=0)
    inputs = augment(images, torch.arange(6), 0)
    shown = augment.pixels(images, torch.arange(6), 0)
    assert inputs.shape == (6, 1, 32, 32)
    np.testing.assert_allclose(levels(inputs), gray_of(shown), atol=1e-3)


def test_a_composed_pipeline_moves_by_whole_pixels(images: Tensor, tmp_path: Path) -> None:
    from finetune.augmentation.pipelines import compose, write_pipeline

    recipe = named("cifar", {"flip_probability": 0})
    path = write_pipeline(compose(recipe, size=32), tmp_path / "mine.yaml")
    augment = PipelineAugment(path, Preprocessing(size=32, crop_pct=1.0, **PLAIN), seed=0)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="symmetric")
    places = set()
    for epoch in range(4):
        for photo, image in zip(
            padded, augment.pixels(images, torch.arange(6), epoch), strict=True
        ):
            found = [
                (top, left)
                for top in range(9)
                for left in range(9)
                if (photo[:, top : top + 32, left : left + 32] == image.numpy()).all()
            ]
            assert len(found) == 1
            places.update(found)
    assert len(places) > 8

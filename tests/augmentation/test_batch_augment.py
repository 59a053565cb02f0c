from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.center_crop import center_crop
from finetune.augmentation.recipes import RECIPES, Recipe
from finetune.errors import AugmentError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 64


def module(recipe: Recipe, *, size: int = SIZE, seed: int = 0) -> BatchAugment:
    return BatchAugment(recipe, size=size, mean=MEAN, std=STD, seed=seed)


def levels(images: Tensor) -> Tensor:
    """Normalized pixels back in gray levels, float64."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images.double() * std + mean) * 255


def normalized(images: Tensor) -> NDArray[np.float64]:
    """(pixel / 255 - mean) / std in float64."""
    pixels = images.numpy().astype(np.float64) / 255
    mean, std = np.reshape(MEAN, (1, 3, 1, 1)), np.reshape(STD, (1, 3, 1, 1))
    result: NDArray[np.float64] = (pixels - mean) / std
    return result


@pytest.mark.parametrize("name", RECIPES)
def test_opencv_and_grid_sample_agree_to_two_gray_levels(photos: Tensor, name: str) -> None:
    augment, indices = module(RECIPES[name]), torch.arange(8)
    for epoch in range(4):
        one = levels(augment(photos, indices, epoch))
        other = levels(augment.as_batch(photos, indices, epoch))
        inside = (one - other).abs()[:, :, 2:-2, 2:-2]
        assert inside.mean(dim=(1, 2, 3)).max() <= 2, epoch


def test_all_steps_at_once_agree_too(photos: Tensor, everything: Recipe) -> None:
    augment, indices = module(everything), torch.arange(8)
    for epoch in range(12):
        one = levels(augment(photos, indices, epoch))
        inside = (one - levels(augment.as_batch(photos, indices, epoch))).abs()[..., 2:-2, 2:-2]
        assert inside.mean(dim=(1, 2, 3)).max() <= 2, epoch


def test_an_affine_draw_shows_what_float64_bilinear_sampling_shows(photos: Tensor) -> None:
    recipe = Recipe(crop_probability=1.0, rotation_degrees=30.0)
    augment, indices = module(recipe), torch.arange(8)
    params = augment.sample(indices, 0, height=80, width=80)
    axis = (np.arange(SIZE) + 0.5) * 2 / SIZE - 1
    u, v = np.meshgrid(axis, axis)
    for row in range(8):
        x, y = ((line[0] * u + line[1] * v + line[2] + 1) * 40 - 0.5 for line in params.affine[row])
        x, y = (np.where(p < 0, -1 - p, np.where(p > 79, 159 - p, p)) for p in (x, y))
        x, y = np.clip(x, 0, 79), np.clip(y, 0, 79)
        left, top = np.minimum(x.astype(int), 78), np.minimum(y.astype(int), 78)
        image = photos[row].numpy().astype(np.float64)
        across = [
            image[:, top + down, left] * (1 - (x - left))
            + image[:, top + down, left + 1] * (x - left)
            for down in (0, 1)
        ]
        expected = across[0] * (1 - (y - top)) + across[1] * (y - top)
        for path in (augment, augment.as_batch):
            got = levels(path(photos, indices, 0))[row].numpy()
            assert np.abs(got - expected).mean() < 0.6


def test_mobius_at_strength_0_shows_the_very_pixels(photos: Tensor) -> None:
    recipe = Recipe(
        mobius_probability=1.0,
        mobius_bound=1.0,
        mobius_rotation_degrees=0.0,
        mobius_shift=0.0,
    )
    crop = photos[:, :, 8:72, 8:72]
    assert torch.equal(module(recipe).pixels(photos, torch.arange(8), 0), crop)
    batch = levels(module(recipe).as_batch(photos, torch.arange(8), 0))
    assert torch.equal(batch.round().to(torch.uint8), crop)


def test_a_mirror_shows_the_very_pixels_mirrored(photos: Tensor) -> None:
    both = Recipe(flip_probability=1.0, vertical_flip_probability=1.0)
    crop = photos[:, :, 8:72, 8:72]
    pixels = module(both).pixels(photos, torch.arange(8), 0)
    assert torch.equal(pixels, crop.flip(2, 3))
    across = module(Recipe(flip_probability=1.0)).pixels(photos, torch.arange(8), 0)
    assert torch.equal(across, crop.flip(3))


def test_none_is_the_center_crop_bit_by_bit(photos: Tensor) -> None:
    augmented = module(RECIPES["none"])(photos, torch.arange(8), 3)
    assert torch.equal(augmented, center_crop(photos, SIZE, MEAN, STD))


def test_center_is_the_exact_crop_normalized(photos: Tensor) -> None:
    expected = normalized(photos[:, :, 8:72, 8:72])
    np.testing.assert_allclose(center_crop(photos, SIZE, MEAN, STD).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(
        center_crop(photos, 80, MEAN, STD).numpy(), normalized(photos), atol=1e-6
    )


@pytest.mark.parametrize("whiten", [False, True])
def test_center_gives_a_photo_the_same_bits_in_every_batch(photos: Tensor, whiten: bool) -> None:
    whole = center_crop(photos, SIZE, MEAN, STD, whiten=whiten)
    for part in (photos[3:4], photos[3:6], photos[[3, 3, 3, 3, 3, 0, 1]], photos[3:].contiguous()):
        assert torch.equal(center_crop(part, SIZE, MEAN, STD, whiten=whiten)[0], whole[3])


def test_center_refuses_photos_that_are_too_small(photos: Tensor) -> None:
    with pytest.raises(AugmentError) as error:
        center_crop(photos, 96, MEAN, STD)
    assert str(error.value) == (
        "A center crop of 96 pixels does not fit into photos of 80 x 80; "
        "cache them at 96 or larger."
    )


def test_the_result_is_float32_in_channels_last_and_the_photos_stay(
    photos: Tensor, everything: Recipe
) -> None:
    before = photos.clone()
    for path in (module(everything), module(everything).as_batch):
        result = path(photos, torch.arange(8), 0)
        assert result.dtype == torch.float32
        assert result.shape == (8, 3, SIZE, SIZE)
        assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(photos, before)


def test_memory_layout_of_the_photos_changes_nothing(photos: Tensor, everything: Recipe) -> None:
    augment, indices = module(everything), torch.arange(8)
    assert torch.equal(augment(photos, indices, 0), augment(photos.contiguous(), indices, 0))


def test_the_same_seed_epoch_and_index_give_the_same_pixels(
    photos: Tensor, everything: Recipe
) -> None:
    indices = torch.arange(100, 108)
    whole = module(everything)(photos, indices, 5)
    assert torch.equal(module(everything)(photos, indices, 5), whole)
    assert torch.equal(module(everything)(photos[2:3], indices[2:3], 5)[0], whole[2])
    assert torch.equal(module(everything)(photos.flip(0), indices.flip(0), 5).flip(0), whole)
    assert not torch.equal(module(everything)(photos, indices, 6), whole)
    assert not torch.equal(module(everything, seed=1)(photos, indices, 5), whole)


def test_the_number_of_threads_changes_nothing(photos: Tensor, everything: Recipe) -> None:
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(module(everything)(photos, torch.arange(8), 1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


class Numbered(Dataset[tuple[Tensor, int]]):
    def __init__(self, photos: Tensor) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.photos[index], index


class AugmentInWorker:
    """Augments where the batch is put together: in the worker process."""

    def __init__(self, augment: BatchAugment) -> None:
        self.augment = augment

    def __call__(self, items: list[tuple[Tensor, int]]) -> Tensor:
        indices = torch.tensor([index for _, index in items])
        inputs: Tensor = self.augment(torch.stack([image for image, _ in items]), indices, 2)
        return inputs


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning")
def test_0_2_and_4_workers_give_the_same_pixels(photos: Tensor, everything: Recipe) -> None:
    augment = module(everything)
    expected = augment(photos, torch.arange(8), 2)
    for workers in (0, 2, 4):
        loader = DataLoader(
            Numbered(photos), batch_size=3, num_workers=workers, collate_fn=AugmentInWorker(augment)
        )
        assert torch.equal(torch.cat(list(loader)), expected), workers


def test_no_recipe_brings_in_a_color_that_is_not_in_the_photo(everything: Recipe) -> None:
    """Black corners would show in a white picture."""
    white = torch.full((16, 3, 80, 80), 255, dtype=torch.uint8)
    recipe = dataclasses.replace(
        everything, color_probability=0.0, erase_probability=0.0, mobius_probability=1.0
    )
    for epoch in range(4):
        assert (module(recipe).pixels(white, torch.arange(16), epoch) == 255).all()


def test_erased_pixels_are_the_mean_and_the_others_stay(photos: Tensor) -> None:
    recipe = Recipe(erase_probability=1.0)
    augment, indices = module(recipe), torch.arange(8)
    plain = center_crop(photos, SIZE, MEAN, STD)
    boxes = augment.sample(indices, 0, height=80, width=80).erase
    for path in (augment, augment.as_batch):
        result = path(photos, indices, 0)
        for row, (top, left, bottom, right) in enumerate(boxes):
            inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            assert (result[row][:, inside] == 0).all()
            assert (result[row] - plain[row])[:, ~inside].abs().max() < 1e-4


def test_whitened_photos_have_mean_0_and_deviation_1(photos: Tensor) -> None:
    augment = module(dataclasses.replace(RECIPES["light"], whiten=True))
    for path in (augment, augment.as_batch):
        result = path(photos, torch.arange(8), 0).double().flatten(1)
        torch.testing.assert_close(
            result.mean(1), torch.zeros(8, dtype=torch.float64), atol=1e-5, rtol=0
        )
        deviation = result.square().mean(1).sqrt()
        torch.testing.assert_close(deviation, torch.ones(8, dtype=torch.float64), atol=1e-4, rtol=0)


def test_a_photo_of_one_color_whitens_to_numbers() -> None:
    flat = torch.full((2, 3, 64, 64), 77, dtype=torch.uint8)
    augment = BatchAugment(Recipe(whiten=True), size=64, mean=(0.5,) * 3, std=(0.5,) * 3, seed=0)
    for path in (augment, augment.as_batch):
        assert path(flat, torch.arange(2), 0).abs().max() < 1e-3


def test_sampled_params_match_the_pixels(photos: Tensor, everything: Recipe) -> None:
    augment, indices = module(everything), torch.arange(8)
    params = augment.sample(indices, 4, height=80, width=80)
    assert torch.equal(augment.replay(photos, params), augment.pixels(photos, indices, 4))
    shown = levels(augment(photos, indices, 4))
    assert (augment.pixels(photos, indices, 4).double() - shown).abs().max() <= 0.5


def test_the_module_has_no_state_and_can_be_copied_and_sent(photos: Tensor) -> None:
    augment = module(RECIPES["mobius"])
    assert augment.state_dict() == {}
    assert list(augment.parameters()) == []
    expected = augment(photos, torch.arange(8), 0)
    for other in (copy.deepcopy(augment), pickle.loads(pickle.dumps(augment))):  # noqa: S301
        assert torch.equal(other(photos, torch.arange(8), 0), expected)


# In a process of its own: a compiler cannot read functions that a coverage tool has rewritten.
COMPILED = """
import sys, torch
from finetune.augmentation.batch_augment import render
augment, photos, plan, size = torch.load(sys.argv[1], weights_only=False)
whole = torch.compile(render, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(
    whole(photos, plan, size), render(photos, plan, size), atol=1e-5, rtol=0
)
indices = torch.arange(8)
compiled = torch.compile(augment, backend="eager")
assert torch.equal(compiled(photos, indices, 0), augment(photos, indices, 0))
"""


def test_rendering_compiles_as_one_graph_and_a_compiled_module_gives_the_same_pixels(
    photos: Tensor,
    everything: Recipe,
    tmp_path: Path,
    run_child: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    plan, blur = module(dataclasses.replace(everything, zoom=1.0))._plan(photos, torch.arange(8), 0)
    assert not blur.any()
    torch.save((module(everything), photos, plan, SIZE), tmp_path / "given.pt")
    done = run_child(COMPILED, str(tmp_path / "given.pt"))
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_shows_the_same_pixels_without_waiting_for_the_device(
    photos: Tensor, everything: Recipe
) -> None:
    augment, indices = module(everything), torch.arange(8)
    on_device = photos.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = augment(on_device, indices, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    inside = (levels(result.cpu()) - levels(augment(photos, indices, 0))).abs()[..., 2:-2, 2:-2]
    assert inside.mean(dim=(1, 2, 3)).max() <= 2

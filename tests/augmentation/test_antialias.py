from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.augmentation import warp
from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.recipes import Recipe
from finetune.augmentation.sampling import Frame, center_params, sample_params
from finetune.augmentation.warp import blur_batch, blur_levels, blur_photo, tent


@pytest.mark.parametrize("level", [1, 2, 3])
def test_photo_and_batch_are_blurred_alike_and_as_numpy_does(photos: Tensor, level: int) -> None:
    weights, reach = tent(level), 2**level - 1
    image = photos[0].numpy().astype(np.float64)
    wide = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    across = np.apply_along_axis(np.convolve, 2, wide, weights, "valid")
    expected = np.apply_along_axis(np.convolve, 1, across, weights, "valid")
    batch = blur_batch(photos[:1].float(), level)[0].numpy()
    np.testing.assert_allclose(batch, expected, atol=1e-3)
    photo = blur_photo(np.ascontiguousarray(photos[0].permute(1, 2, 0).numpy()), level)
    np.testing.assert_allclose(photo.transpose(2, 0, 1), expected, atol=1)


def test_a_tent_is_a_box_twice() -> None:
    for level in (1, 2, 3):
        box = np.full(2**level, 1 / 2**level)
        np.testing.assert_allclose(tent(level), np.convolve(box, box))


def test_levels_follow_the_shrinking() -> None:
    for working, level in ((64, 0), (104, 0), (112, 1), (208, 1), (224, 2), (448, 3)):
        frame = Frame(height=working, width=working, size=64)
        recipe = Recipe(crop_probability=1.0, crop_area_min=1.0, crop_ratio_max=1.0)
        drawn = sample_params(recipe, frame, seed=0, epoch=0, indices=[0])
        polynomials = warp.rational(drawn.mobius, drawn.affine)
        assert blur_levels(polynomials, working, working, 64).tolist() == [level], working


def test_the_center_crop_is_never_blurred() -> None:
    plain = center_params(Frame(height=500, width=400, size=64))
    polynomials = warp.rational(plain.mobius, plain.affine)
    assert blur_levels(polynomials, 500, 400, 64).tolist() == [0]


def test_fine_stripes_become_gray_instead_of_coarse_stripes() -> None:
    stripes = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    stripes[..., ::2] = 255
    whole = Recipe(crop_probability=1.0, crop_area_min=1.0, crop_ratio_max=1.0)
    augment = BatchAugment(whole, size=66, mean=(0.5,) * 3, std=(1,) * 3, seed=0)
    pixels = augment.pixels(stripes, torch.tensor([0]), 0).float()
    assert pixels.std() < 5
    assert abs(float(pixels.mean()) - 127.5) < 2

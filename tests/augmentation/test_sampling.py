from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.augmentation import mobius
from finetune.augmentation.recipes import Recipe
from finetune.augmentation.sampling import Frame, SampledParams, center_params, sample_params

FRAME = Frame(height=256, width=256, size=224)
COUNT = 4000


def many(recipe: Recipe, frame: Frame = FRAME, count: int = COUNT) -> SampledParams:
    return sample_params(recipe, frame, seed=0, epoch=0, indices=np.arange(count))


def corners(drawn: SampledParams) -> NDArray[np.float64]:
    """Left, top, right, bottom of each crop in the photo's [-1, 1]², the Möbius map left out."""
    square = np.array([[-1, -1, 1, 1], [-1, 1, -1, 1], [1, 1, 1, 1]])
    places = drawn.affine @ square
    return np.concatenate([places.min(axis=2), places.max(axis=2)], axis=1)


def test_an_empty_recipe_is_the_center_crop() -> None:
    drawn, plain = many(Recipe(), count=5), center_params(FRAME, 5)
    for item in dataclasses.fields(SampledParams):
        np.testing.assert_array_equal(getattr(drawn, item.name), getattr(plain, item.name))
    np.testing.assert_allclose(corners(drawn), [[-0.875, -0.875, 0.875, 0.875]] * 5)


def test_the_same_photo_has_the_same_draw_in_any_batch(everything: Recipe) -> None:
    whole = many(everything, count=50)
    alone = sample_params(everything, FRAME, seed=0, epoch=0, indices=[31])
    for item in dataclasses.fields(SampledParams):
        np.testing.assert_array_equal(
            getattr(alone, item.name)[0], getattr(whole, item.name)[31], err_msg=item.name
        )


def test_the_next_epoch_and_another_seed_draw_anew(everything: Recipe) -> None:
    base = many(everything, count=20).affine
    for seed, epoch in ((1, 0), (0, 1)):
        other = sample_params(
            everything, FRAME, seed=seed, epoch=epoch, indices=np.arange(20)
        ).affine
        assert (np.abs(base - other).max(axis=(1, 2)) > 0).all()


def test_one_probability_does_not_move_the_other_draws(everything: Recipe) -> None:
    without = dataclasses.replace(everything, mobius_probability=0.0, erase_probability=0.0)
    np.testing.assert_array_equal(many(everything).affine, many(without).affine)
    np.testing.assert_array_equal(many(everything).color, many(without).color)


def test_crops_have_integer_coordinates_inside_the_photo_and_the_set_area_and_ratio() -> None:
    recipe = Recipe(crop_probability=1.0, crop_area_min=0.3, crop_ratio_max=4 / 3)
    edges = (corners(many(recipe)) + 1) * 128
    np.testing.assert_allclose(edges, np.rint(edges), atol=1e-9)
    assert edges.min() >= 0
    assert edges.max() <= 256
    width, height = (edges[:, 2:] - edges[:, :2]).T
    areas = width * height / 256**2
    assert 0.28 < areas.min() < 0.33
    # Wide crops of nearly the whole photo are cut to it.
    assert areas.max() > 0.95
    assert (width / height).max() < 4 / 3 + 0.01
    assert (height / width).max() < 4 / 3 + 0.01
    assert abs(np.log(width / height).mean()) < 0.02


def test_crops_of_photos_that_are_not_square_keep_their_ratio_in_pixels() -> None:
    recipe = Recipe(crop_probability=1.0, crop_area_min=0.2, crop_area_max=0.2, crop_ratio_max=1.0)
    drawn = many(recipe, Frame(height=100, width=300, size=64), 50)
    width, height = (corners(drawn)[:, 2:] - corners(drawn)[:, :2]).T * [[150], [50]]
    np.testing.assert_allclose(width, height, atol=1)


def test_flips_and_maps_have_the_set_probability() -> None:
    recipe = Recipe(flip_probability=0.3, vertical_flip_probability=0.1, mobius_probability=0.2)
    recipe = dataclasses.replace(recipe, mobius_mode="on_top")
    drawn = many(recipe)
    shares = [
        (drawn.affine[:, 0, 0] < 0).mean(),
        (drawn.affine[:, 1, 1] < 0).mean(),
        drawn.is_warped.mean(),
    ]
    # Four standard errors of a share of 4000.
    np.testing.assert_allclose(shares, [0.3, 0.1, 0.2], atol=0.03)


def test_replace_gives_warped_photos_the_center_crop_and_on_top_leaves_the_drawn_one(
    everything: Recipe,
) -> None:
    on_top = many(everything)
    replaced = many(dataclasses.replace(everything, mobius_mode="replace"))
    np.testing.assert_array_equal(on_top.mobius, replaced.mobius)
    warped = on_top.is_warped
    assert 0 < warped.sum() < COUNT
    np.testing.assert_array_equal(replaced.affine[~warped], on_top.affine[~warped])
    np.testing.assert_array_equal(
        replaced.affine[warped], np.tile(center_params(FRAME).affine, (warped.sum(), 1, 1))
    )


def test_the_mobius_part_is_admissible_whatever_it_is_composed_with(everything: Recipe) -> None:
    drawn = many(everything)
    low, high = mobius.magnification_bounds(drawn.mobius[drawn.is_warped])
    assert low.min() > 0.5
    assert high.max() < 2


def test_turning_does_not_shear() -> None:
    recipe = Recipe(rotation_degrees=30.0, zoom=1.5, crop_probability=1.0)
    frame = Frame(height=200, width=400, size=64)
    pixels = many(recipe, frame).affine[:, :, :2] * np.array([[200], [100]])
    dots = (pixels[:, :, 0] * pixels[:, :, 1]).sum(axis=1)
    np.testing.assert_allclose(dots, 0, atol=1e-9)
    angles = np.degrees(np.arctan2(pixels[:, 1, 0], pixels[:, 0, 0]))
    assert 29 < np.abs(angles).max() <= 30


def colors(recipe: Recipe, pixel: tuple[float, float, float]) -> NDArray[np.float64]:
    changed: NDArray[np.float64] = many(recipe).color @ np.array([*pixel, 1.0])
    return changed


def test_brightness_multiplies() -> None:
    changed = colors(Recipe(color_probability=1.0, brightness=0.4), (0.2, 0.4, 0.5))
    factors = changed / [0.2, 0.4, 0.5]
    np.testing.assert_allclose(factors, factors[:, :1].repeat(3, axis=1), rtol=1e-9)
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4


def test_contrast_multiplies_the_distance_to_mid_gray() -> None:
    changed = colors(Recipe(color_probability=1.0, contrast=0.4), (0.2, 0.4, 0.9)) - 0.5
    factors = changed / [-0.3, -0.1, 0.4]
    np.testing.assert_allclose(factors, factors[:, :1].repeat(3, axis=1), rtol=1e-9)
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4


def test_saturation_moves_between_the_pixel_and_its_luma() -> None:
    pixel = np.array([0.2, 0.4, 0.9])
    luma = pixel @ [0.299, 0.587, 0.114]
    changed = colors(Recipe(color_probability=1.0, saturation=0.4), (0.2, 0.4, 0.9)) - luma
    factors = changed / (pixel - luma)
    np.testing.assert_allclose(factors, factors[:, :1].repeat(3, axis=1), rtol=1e-9)
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4


def test_gray_is_the_luma_in_all_channels() -> None:
    changed = colors(Recipe(gray_probability=1.0), (0.2, 0.4, 0.9))
    np.testing.assert_allclose(changed, 0.2 * 0.299 + 0.4 * 0.587 + 0.9 * 0.114, rtol=1e-9)


def test_hue_turns_colors_and_keeps_grays_and_luma() -> None:
    recipe = Recipe(color_probability=1.0, hue=0.1)
    np.testing.assert_allclose(colors(recipe, (0.3, 0.3, 0.3)), 0.3, atol=1e-9)
    red = colors(recipe, (0.6, 0.3, 0.3))
    np.testing.assert_allclose(red @ [0.299, 0.587, 0.114], 0.6 * 0.299 + 0.3 * 0.701, rtol=1e-9)
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in red])
    turns = (hues + 0.5) % 1 - 0.5
    # The color circle of HSV is a hexagon: the turn agrees with the plane's to a few hundredths.
    assert 0.05 < turns.max() < 0.16
    assert -0.16 < turns.min() < -0.05


def test_what_has_no_strength_is_not_counted_as_colored() -> None:
    assert not many(Recipe(color_probability=1.0)).is_colored.any()
    assert many(Recipe(color_probability=1.0, hue=0.1)).is_colored.all()


@pytest.mark.parametrize("size", [8, 224])
def test_erased_rectangles_lie_inside_and_have_the_set_area(size: int) -> None:
    recipe = Recipe(erase_probability=0.5, erase_area_min=0.05, erase_area_max=0.2)
    boxes = many(recipe, Frame(height=256, width=256, size=size)).erase
    drawn = boxes[boxes.any(axis=1)]
    assert abs(len(drawn) / COUNT - 0.5) < 0.04
    assert drawn.min() >= 0
    assert drawn.max() <= size
    sides = drawn[:, 2:] - drawn[:, :2]
    assert sides.min() >= 1
    if size == 224:
        areas = sides.prod(axis=1) / size**2
        assert 0.045 < areas.min() < 0.06
        assert 0.19 < areas.max() < 0.21


def test_a_shift_moves_the_crop_by_whole_pixels_each_as_likely() -> None:
    frame = Frame(height=32, width=32, size=32)
    edges = (corners(many(Recipe(shift_pixels=4), frame)) + 1) * 16
    np.testing.assert_allclose(edges, np.rint(edges), atol=1e-9)
    for side in (0, 1):
        moves, counts = np.unique(np.rint(edges[:, side]), return_counts=True)
        assert moves.tolist() == list(range(-4, 5))
        # 4000 draws of 9 moves: 444 each, four standard errors are 80.
        assert np.abs(counts - COUNT / 9).max() < 80
    np.testing.assert_allclose(edges[:, 2:] - edges[:, :2], 32)


def test_a_shift_of_4_is_the_random_crop_of_24_of_32_pixels() -> None:
    frame = Frame(height=32, width=32, size=24)
    edges = np.rint((corners(many(Recipe(shift_pixels=4), frame)) + 1) * 16)
    assert edges[:, :2].min() == 0
    assert edges[:, 2:].max() == 32
    np.testing.assert_array_equal(edges[:, 2:] - edges[:, :2], 24)
    assert len(np.unique(edges[:, :2], axis=0)) == 81


def test_a_shift_leaves_all_other_draws_as_they_were(everything: Recipe) -> None:
    moved, still = many(dataclasses.replace(everything, shift_pixels=3)), many(everything)
    np.testing.assert_array_equal(moved.affine[:, :, :2], still.affine[:, :, :2])
    for name in ("mobius", "color", "erase"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(still, name))

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.augmentation import mobius, warp
from finetune.augmentation.recipes import Recipe
from finetune.augmentation.sampling import Frame, SampledParams, center_params, sample_params

WORKING, SIZE = 256, 224
FRAME = Frame(height=WORKING, width=WORKING, size=SIZE)


def drawn(recipe: Recipe, count: int = 60) -> SampledParams:
    return sample_params(recipe, FRAME, seed=1, epoch=0, indices=np.arange(count))


def output_points(size: int) -> NDArray[np.complex128]:
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    return axis[None, :] + 1j * axis[:, None]


def exact_pixels(draws: SampledParams, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Plain complex arithmetic in float64, then the affine map, then pixels."""
    (a, b), (c, d) = draws.mobius[row]
    w = output_points(SIZE)
    z = (a * w + b) / (c * w + d)
    x, y = (line[0] * z.real + line[1] * z.imag + line[2] for line in draws.affine[row])
    return (x + 1) * WORKING / 2 - 0.5, (y + 1) * WORKING / 2 - 0.5


def test_pixel_maps_are_within_a_hundredth_of_a_pixel_of_float64(everything: Recipe) -> None:
    draws = drawn(everything)
    pixels = warp.pixel_polynomials(warp.rational(draws.mobius, draws.affine), WORKING, WORKING)
    maps = warp.PixelMaps(SIZE, SIZE)
    for row in range(len(draws)):
        for got, expected in zip(maps.fill(pixels[row]), exact_pixels(draws, row), strict=True):
            assert np.abs(got - expected).max() < 0.01


def test_the_batch_grid_is_within_a_hundredth_of_a_pixel_of_float64(everything: Recipe) -> None:
    draws = drawn(everything)
    polynomials = torch.from_numpy(warp.rational(draws.mobius, draws.affine).astype(np.float32))
    grid = warp.sampling_grid(polynomials, SIZE)
    assert grid.shape == (len(draws), SIZE, SIZE, 2)
    assert grid.dtype == torch.float32
    pixels = (grid.double().numpy() + 1) * WORKING / 2 - 0.5
    for row in range(len(draws)):
        x, y = exact_pixels(draws, row)
        assert np.abs(pixels[row, :, :, 0] - x).max() < 0.01
        assert np.abs(pixels[row, :, :, 1] - y).max() < 0.01


def test_nothing_cancels_where_a_map_is_almost_affine() -> None:
    """The form A/C - 1/(C²z + CD) loses all digits there."""
    numbers = np.random.default_rng(0).random((40, 6))
    maps = mobius.admissible(numbers, bound=1 + 1e-7, max_rotation_degrees=20, max_shift=0.1)
    plain = center_params(FRAME, 40)
    pixels = warp.pixel_polynomials(warp.rational(maps, plain.affine), WORKING, WORKING)
    draws = SampledParams(**{**vars(plain), "mobius": maps})
    for row in range(40):
        x, _ = exact_pixels(draws, row)
        assert np.abs(warp.PixelMaps(SIZE, SIZE).fill(pixels[row])[0] - x).max() < 1e-3


def test_the_center_crop_maps_to_whole_pixels_exactly() -> None:
    plain = center_params(FRAME)
    pixels = warp.pixel_polynomials(warp.rational(plain.mobius, plain.affine), WORKING, WORKING)
    x, y = warp.PixelMaps(SIZE, SIZE).fill(pixels[0])
    np.testing.assert_array_equal(x, np.tile(np.arange(16, 240, dtype=np.float32), (SIZE, 1)))
    np.testing.assert_array_equal(y, x.T)


def test_an_odd_margin_starts_at_a_whole_pixel() -> None:
    frame = Frame(height=11, width=8, size=6)
    plain = center_params(frame)
    pixels = warp.pixel_polynomials(warp.rational(plain.mobius, plain.affine), 11, 8)
    x, y = warp.PixelMaps(6, 6).fill(pixels[0])
    assert (x[0, 0], y[0, 0], y[-1, 0]) == (1, 2, 7)


def test_maps_of_pictures_that_are_not_square_keep_angles() -> None:
    maps = mobius.admissible(np.full((1, 6), 0.6), bound=2, max_rotation_degrees=30, max_shift=0.1)
    height, width = 60, 100
    affine = np.array([[[1, 0, 0], [0, width / height, 0]]])
    pixels = warp.pixel_polynomials(warp.rational(maps, affine), height, width)[0]
    x, y = (part.astype(np.float64) for part in warp.PixelMaps(height, width).fill(pixels))
    right = np.diff(x, axis=1)[1:] + 1j * np.diff(y, axis=1)[1:]
    down = np.diff(x, axis=0)[:, 1:] + 1j * np.diff(y, axis=0)[:, 1:]
    # A conformal map sends a small square to a small square: down is right, turned by 90 degrees.
    np.testing.assert_allclose(down / right, 1j, atol=0.02)


def test_affine_matrices_are_the_maps_without_mobius(everything: Recipe) -> None:
    recipe = Recipe(crop_probability=1.0, rotation_degrees=30, flip_probability=0.5)
    draws = drawn(recipe)
    polynomials = warp.rational(draws.mobius, draws.affine)
    assert warp.is_affine(polynomials).all()
    pixels = warp.pixel_polynomials(polynomials, WORKING, WORKING)
    matrices = warp.affine_matrices(pixels, SIZE)
    places = np.array([[0, 223, 50], [0, 100, 223], [1, 1, 1]])
    for row in range(len(draws)):
        x, y = exact_pixels(draws, row)
        expected = [[part[v, u] for u, v in places[:2].T] for part in (x, y)]
        np.testing.assert_allclose(matrices[row] @ places, expected, atol=1e-9)
    warped = drawn(everything)
    affine = warp.is_affine(warp.rational(warped.mobius, warped.affine))
    np.testing.assert_array_equal(affine, ~warped.is_warped)


def test_margins_hold_all_that_lies_beyond_the_photo(everything: Recipe) -> None:
    draws = drawn(everything, 200)
    pixels = warp.pixel_polynomials(warp.rational(draws.mobius, draws.affine), WORKING, WORKING)
    margins = warp.margins(pixels, WORKING, WORKING)
    assert (margins.max(axis=1) > 0).any()
    for row in range(len(draws)):
        x, y = exact_pixels(draws, row)
        beyond = [-x.min(), -y.min(), x.max() - 255, y.max() - 255]
        assert (margins[row] >= beyond).all()
        assert (margins[row] <= np.maximum(beyond, 0) + 6).all()


def test_to_source_is_the_exact_map(everything: Recipe) -> None:
    draws = drawn(everything, 10)
    polynomials = warp.rational(draws.mobius, draws.affine)
    for row in range(10):
        x, y = exact_pixels(draws, row)
        reached = warp.to_source(polynomials[row], output_points(SIZE))
        np.testing.assert_allclose((reached.real + 1) * WORKING / 2 - 0.5, x, atol=1e-9)
        np.testing.assert_allclose((reached.imag + 1) * WORKING / 2 - 0.5, y, atol=1e-9)


def test_the_grid_stays_float32_where_bfloat16_would_miss_by_a_fifth_of_a_pixel() -> None:
    polynomials = torch.zeros(1, 3, 4)
    polynomials[:, 0, 1] = polynomials[:, 1, 2] = 0.97
    polynomials[:, 2, 3] = 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grid = warp.sampling_grid(polynomials, SIZE)
    assert grid.dtype == torch.float32
    assert (grid.bfloat16().float() - grid).abs().max() * SIZE / 2 > 0.2

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Exif

from finetune.config import Fit
from finetune.errors import ConfigError, DecodeError, PhotoError
from finetune.photos.crops import PADDING, Crop, crop_and_resize, load_image, needed_side


def scene(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth picture with some edges and grain, float-free: (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack(
        [
            120 + 90 * np.sin(x / 37) * np.cos(y / 53),
            120 + 100 * np.cos((x + y) / 71),
            90 + 80 * ((x // 60 + y // 60) % 2),
        ],
        axis=-1,
    )
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def jpeg(image: NDArray[np.uint8], **options: Exif) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def bicubic_matrix(length: int, start: float, stop: float, size: int) -> NDArray[np.float64]:
    """Antialiased Keys kernel (a = -0.5) in float64: (size, length) weights, rows sum to 1."""
    scale = (stop - start) / size
    stretch = max(scale, 1.0)
    centers = start + (np.arange(size) + 0.5) * scale
    t = np.abs((np.arange(length)[None, :] + 0.5 - centers[:, None]) / stretch)
    weights = np.where(
        t < 1,
        1.5 * t**3 - 2.5 * t**2 + 1,
        np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0.0),
    )
    sums = weights.sum(axis=1, keepdims=True)
    return weights / np.where(sums == 0, 1, sums)  # a row beyond the photo stays zero


# Pillow rounds to whole levels after each of its two passes: 1.5 levels is the most it may be off.
def reference_square(
    image: NDArray[np.uint8], box: tuple[float, ...], size: int
) -> NDArray[np.float64]:
    left, top, right, bottom = box
    height, width = image.shape[:2]
    columns = bicubic_matrix(width, left, right, size)
    rows = bicubic_matrix(height, top, bottom, size)
    resized: NDArray[np.float64] = np.einsum(
        "ry,yxc,kx->rkc", rows, image.astype(np.float64), columns, optimize=True
    )
    return resized


def mean_distance(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    return float(np.abs(first.astype(np.float64) - second).mean())


@pytest.mark.parametrize("shape", [(400, 300), (300, 400), (97, 211), (60, 40)])
def test_center_crop_matches_float64_bicubic(shape: tuple[int, int]) -> None:
    image = scene(*shape)
    width, height = shape
    side = min(shape)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    expected = np.clip(reference_square(image, box, 64), 0, 255)
    assert np.abs(crop_and_resize(image, size=64) - expected).max() <= 1.5


def test_crop_box_matches_float64_bicubic_at_fractions_of_a_pixel() -> None:
    image = scene(333, 251)
    crop = Crop(center_x=0.413, center_y=0.587, side=0.371)
    expected = np.clip(reference_square(image, crop.box(333, 251), 48), 0, 255)
    assert np.abs(crop_and_resize(image, size=48, crop=crop) - expected).max() <= 1.5


def test_squash_matches_float64_bicubic_of_the_whole_photo() -> None:
    image = scene(300, 180)
    expected = np.clip(reference_square(image, (0, 0, 300, 180), 50), 0, 255)
    assert np.abs(crop_and_resize(image, size=50, fit="squash") - expected).max() <= 1.5


def test_pad_keeps_the_whole_photo_between_bars() -> None:
    image = scene(400, 200)
    result = crop_and_resize(image, size=100, fit="pad")
    assert (result[:25] == PADDING).all()
    assert (result[75:] == PADDING).all()
    expected = np.clip(reference_square(image, (0, -100, 400, 300), 100), 0, 255)[25:75]
    assert np.abs(result[25:75] - expected).max() <= 1.5


def test_crop_beyond_the_photo_is_padded_and_its_pixels_stay_in_place() -> None:
    image = scene(200, 200)
    crop = Crop(center_x=0.0, center_y=0.5, side=1.0)
    result = crop_and_resize(image, size=80, crop=crop)
    assert (result[:, :40] == PADDING).all()
    expected = np.clip(reference_square(image, (-100, 0, 100, 200), 80), 0, 255)[:, 40:]
    assert np.abs(result[:, 40:] - expected).max() <= 1.5


def test_a_crop_overrides_fit() -> None:
    image = scene(120, 90)
    crop = Crop(side=0.5)
    assert np.array_equal(
        crop_and_resize(image, size=32, fit="pad", crop=crop),
        crop_and_resize(image, size=32, crop=crop),
    )


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (2000, 3), (5, 5)])
def test_extreme_shapes_give_a_square(fit: Fit, shape: tuple[int, int]) -> None:
    image = np.full((shape[1], shape[0], 3), 200, dtype=np.uint8)
    result = crop_and_resize(image, size=32, fit=fit)
    assert result.shape == (32, 32, 3)
    assert result.dtype == np.uint8
    assert (result == 200).all(axis=-1).any()


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0.01, 4),
    st.integers(1, 40),
)
def test_any_crop_of_a_plain_photo_shows_only_photo_and_padding(
    width: int, height: int, x: float, y: float, side: float, size: int
) -> None:
    image = np.full((height, width, 3), 10, dtype=np.uint8)
    result = crop_and_resize(image, size=size, crop=Crop(center_x=x, center_y=y, side=side))
    photo = (result == 10).all(axis=-1)
    padding = (result == PADDING).all(axis=-1)
    assert (photo | padding).all()
    assert photo.any()


def test_a_square_owns_its_pixels_and_leaves_the_photo_alone() -> None:
    image = scene(64, 64)
    before = image.copy()
    result = crop_and_resize(image, size=64)
    result[:] = 0
    assert np.array_equal(image, before)


def test_crop_survives_json() -> None:
    crop = Crop(center_x=0.25, center_y=0.75, side=0.6)
    assert Crop.from_dict(json.loads(json.dumps(crop.to_dict()))) == crop


@given(
    st.integers(10, 500), st.integers(10, 500), st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 3)
)
def test_inside_moves_a_crop_into_the_photo(
    width: int, height: int, x: float, y: float, side: float
) -> None:
    crop = Crop(center_x=x, center_y=y, side=side).inside(width, height)
    left, top, right, bottom = crop.box(width, height)
    assert left >= -1e-6
    assert top >= -1e-6
    assert right <= width + 1e-6
    assert bottom <= height + 1e-6
    assert math.isclose(crop.side, min(side, 1.0))


def test_from_box_holds_the_box_in_a_square() -> None:
    crop = Crop.from_box((10, 20, 50, 30), 100, 80)
    assert crop.box(100, 80) == pytest.approx((10, 5, 50, 45))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"center_x": 1.5},
            "A crop's center_x is 1.5; it must be a number from 0 to 1.",
        ),
        (
            {"side": math.nan},
            "A crop's side is nan; it must be a number from 0.001 to 100.",
        ),
        (
            {"center_y": "a"},
            "A crop's center_y is 'a'; it must be a number from 0 to 1.",
        ),
    ],
)
def test_impossible_crop_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PhotoError) as caught:
        Crop(**values)
    assert str(caught.value) == message


def test_crop_from_other_keys_is_refused() -> None:
    with pytest.raises(PhotoError) as caught:
        Crop.from_dict({"x": 1, "side": 2})
    assert str(caught.value) == (
        "A crop has the keys side, x; it needs exactly center_x, center_y and side."
    )


def test_unknown_option_values_are_refused() -> None:
    image = scene(20, 20)
    with pytest.raises(ConfigError) as caught:
        crop_and_resize(image, size=8, interpolation="cubic")
    assert str(caught.value) == (
        "interpolation 'cubic' is not one of nearest, box, bilinear, hamming, bicubic, lanczos."
    )
    with pytest.raises(ConfigError) as caught:
        crop_and_resize(image, size=8, fit="stretch")  # type: ignore[arg-type]
    assert str(caught.value) == "--fit stretch is not one of crop, pad, squash."
    with pytest.raises(ConfigError) as caught:
        crop_and_resize(image, size=0)
    assert str(caught.value) == "--size 0 must be at least 1."


def test_needed_side_grows_as_the_crop_shrinks() -> None:
    assert needed_side(224) == 448
    assert needed_side(224, Crop(side=0.5)) == 896
    assert needed_side(224, Crop(side=2)) == 224


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_load_image_is_close_to_the_full_decode(fit: Fit) -> None:
    image = scene(1600, 1200)
    data = jpeg(image)
    full = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (
        mean_distance(load_image(data, size=128, fit=fit), crop_and_resize(full, size=128, fit=fit))
        < 1
    )


def test_load_image_of_a_small_crop_keeps_its_detail() -> None:
    image = scene(1600, 1200)
    data = jpeg(image)
    crop = Crop(center_x=0.3, center_y=0.6, side=0.2)
    full = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    distance = mean_distance(
        load_image(data, size=128, crop=crop), crop_and_resize(full, size=128, crop=crop)
    )
    assert distance < 1


def test_load_image_turns_the_photo_upright() -> None:
    image = scene(320, 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = jpeg(np.ascontiguousarray(np.rot90(image)), exif=exif)
    upright = load_image(jpeg(image), size=64, fit="squash")
    assert mean_distance(load_image(sideways, size=64, fit="squash"), upright) < 2


def test_load_image_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(scene(900, 700)))
    first = load_image(path, size=96)
    assert np.array_equal(first, load_image(path, size=96))
    assert np.array_equal(first, load_image(path.read_bytes(), size=96))


def test_load_image_of_no_photo_is_a_decode_error() -> None:
    with pytest.raises(DecodeError):
        load_image(b"not a photo", size=32)

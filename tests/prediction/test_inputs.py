from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.errors import ConfigError, DecodeError
from finetune.photos.crops import Crop, load_image
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction.decision import PredictConfig
from finetune.prediction.inputs import working_image

SPEC = Preprocessing(size=40)


def test_the_pixels_are_those_that_training_saw(make_photos: Callable[..., Path]) -> None:
    path = make_photos({"a": 1}) / "a" / "000.jpg"
    for fit in ("crop", "pad", "squash"):
        for crop in (None, Crop(center_x=0.3, center_y=0.6, side=0.5)):
            preprocessing = Preprocessing(size=40, fit=fit)
            expected = load_image(
                path, size=preprocessing.working_size, fit=fit, crop=crop, interpolation="bicubic"
            )
            np.testing.assert_array_equal(working_image(path, preprocessing, crop=crop), expected)


def test_an_opened_image_is_turned_as_its_file_is(draw: Callable[..., Image.Image]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    draw(1, 1).save(buffer, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    np.testing.assert_array_equal(
        working_image(opened, SPEC), working_image(buffer.getvalue(), SPEC)
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F"])
def test_images_of_every_mode_are_taken(draw: Callable[..., Image.Image], mode: str) -> None:
    if mode == "LAB":
        image = Image.new("LAB", (80, 60), (128, 128, 128))
    elif mode in ("I;16", "F"):
        image = draw(0, 0).convert("L").convert("I" if mode == "F" else "I;16")
        image = image.convert("F") if mode == "F" else image
    else:
        image = draw(0, 0).convert(mode)
    assert working_image(image, SPEC).shape == (SPEC.working_size, SPEC.working_size, 3)


def test_what_is_no_photo_is_named() -> None:
    with pytest.raises(DecodeError) as error:
        working_image(3, SPEC)
    assert error.value.reason == "a photo is a path, bytes, a PIL image or an array, not int"
    with pytest.raises(DecodeError) as error:
        working_image(Image.new("HSV", (4, 4)), SPEC)
    assert error.value.reason == "a PIL image of mode HSV has no lossless file to go through"


def test_a_smaller_margin_decodes_as_libjpeg_scales(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    path = tmp_path / "large.jpg"
    photo.resize((400, 400), Image.Resampling.BICUBIC).save(path, quality=95)
    size = SPEC.working_size  # 46: 400 / 8 is enough, and 400 / 4 is for a margin of two
    exact = working_image(path, SPEC).astype(int)
    found = working_image(path, SPEC, decode_margin=1.0).astype(int)
    with Image.open(path) as image:
        image.draft(None, (size, size))
        assert image.size == (50, 50)
        expected = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    # Resized by other code than Pillow's.
    assert np.abs(found - np.asarray(expected, int)).mean() < 1
    assert 0 < np.abs(found - exact).mean() < 6
    small = tmp_path / "small.jpg"
    photo.resize((60, 60), Image.Resampling.BICUBIC).save(small, quality=95)
    np.testing.assert_array_equal(
        working_image(small, SPEC, decode_margin=1.0), working_image(small, SPEC)
    )


@pytest.mark.parametrize("margin", [0.9, 2.5])
def test_a_margin_out_of_bounds_is_an_error(margin: float) -> None:
    with pytest.raises(ConfigError) as error:
        PredictConfig(decode_margin=margin)
    assert str(error.value) == f"--decode-margin {margin} must lie between 1 and 2."

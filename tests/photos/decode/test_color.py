from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from finetune.photos.decode import color

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (37, 23, 4)).astype(np.uint8)
DEEP = RNG.integers(0, 65536, (37, 23)).astype(np.uint16)


def image_of(mode: str) -> Image.Image:
    match mode:
        case "I;16":
            return Image.fromarray(DEEP)
        case "I":
            return Image.fromarray(DEEP.astype(np.int32) * 2)
        case "F":
            values = DEEP.astype(np.float32) / 30_000
            values[3, 4] = np.nan
            return Image.fromarray(values)
        case "I;16 with a transparent level":
            image = Image.fromarray(DEEP)
            image.info["transparency"] = int(DEEP[2, 5])
            return image
        case "P with a transparent color":
            image = Image.fromarray(PIXELS).convert("RGB").convert("P")
            image.info["transparency"] = 3
            return image
    return Image.fromarray(PIXELS).convert("RGB" if mode == "CMYK" else "RGBA").convert(mode)


MODES = ("I;16", "I", "F", "I;16 with a transparent level", "P with a transparent color")


@pytest.mark.parametrize("mode", [*MODES, "RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
def test_strips_have_the_pixels_of_the_whole_image(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of(mode)
    whole = {turn: color.rgb_array(image, turn) for turn in (None, *Image.Transpose)}
    monkeypatch.setattr(color, "LARGE_PIXELS", 1)
    monkeypatch.setattr(color, "STRIP_PIXELS", 100)
    for turn, expected in whole.items():
        found = color.rgb_array(image, turn)
        assert np.array_equal(found, expected)
        assert found.flags.c_contiguous
        assert found.flags.writeable


@pytest.mark.parametrize("mode", ["RGB", "I;16", "P"])
@pytest.mark.parametrize(("side", "factor"), [(2, 8), (5, 4), (9, 2), (12, 1), (None, 1)])
def test_a_large_image_is_averaged_down_to_no_less_than_the_smallest_side(
    mode: str, side: int | None, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of(mode)
    whole = Image.fromarray(color.rgb_array(image))
    monkeypatch.setattr(color, "LARGE_PIXELS", 1)
    monkeypatch.setattr(color, "STRIP_PIXELS", 200)
    for turn in (None, *Image.Transpose):
        expected = whole.reduce(factor) if factor > 1 else whole
        found = color.rgb_array(image, turn, smallest_side=side)
        turned = expected if turn is None else expected.transpose(turn)
        assert np.array_equal(found, np.asarray(turned))


def test_deep_gray_needs_few_bytes_a_pixel() -> None:
    image = Image.fromarray(RNG.integers(0, 65536, (2000, 2000)).astype(np.uint16))
    color.rgb_array(image)
    tracemalloc.start()
    try:
        color.rgb_array(image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # In float64, it would be 24 and more.
    assert peak < 10 * 4_000_000


def test_deep_gray_is_scaled_by_its_full_range() -> None:
    expected = np.rint(DEEP.astype(np.float64) * (255 / 65535)).astype(np.uint8)
    assert np.array_equal(color.rgb_array(image_of("I;16"))[..., 0], expected)

"""Photos of more than 8 bits become the picture that their values show, whatever their range."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from finetune.photos.decode.decoder import read_photo
from finetune.photos.issues import find_issues
from finetune.photos.scan import scan

Array = NDArray[Any]

COLORS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).resize(
        (120, 90), Image.Resampling.BICUBIC
    )
).astype(np.float64)
COLORS = (COLORS - COLORS.min()) / (COLORS.max() - COLORS.min())
GRAY = COLORS.mean(-1)
GRAY = (GRAY - GRAY.min()) / (GRAY.max() - GRAY.min())


def tiff(values: Array, *, photometric: int | None = None, nodata: str = "") -> bytes:
    """Returns an uncompressed little-endian TIFF of gray ``(H, W)`` or RGB ``(H, W, 3)`` values."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = values.dtype.itemsize * 8
    text = nodata.encode() + b"\0"
    end = 8 + len(data)
    shape = [(256, 4, 1, width), (257, 4, 1, height), (278, 4, 1, height)]
    tags = [(259, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, channels), (279, 4, 1, len(data))]
    tags.append((262, 3, 1, photometric if photometric is not None else 1 + (channels > 1)))
    count = len(shape) + len(tags) + 2 + bool(nodata)
    extra = end + 2 + 12 * count + 4
    arrays = b""
    for tag, value in ((258, bits), (339, kind)):
        if channels == 1:
            tags.append((tag, 3, 1, value))
        else:
            tags.append((tag, 3, channels, extra + len(arrays)))
            arrays += struct.pack(f"<{channels}H", *[value] * channels)
    if nodata:
        tags.append((42113, 2, len(text), extra + len(arrays)))
        arrays += text
    entries = b"".join(struct.pack("<HHII", *entry) for entry in sorted([*shape, *tags]))
    head = b"II*\0" + struct.pack("<I", end) + data
    return head + struct.pack("<H", count) + entries + bytes(4) + arrays


def png(values: Array) -> bytes:
    """Returns a PNG of 16 bits: gray, RGB, or RGBA."""
    bgr = values if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]
    written, content = cv2.imencode(".png", bgr)
    assert written
    return content.tobytes()


def packed_tiff(values: Array) -> bytes:
    """Returns a TIFF compressed with LZW."""
    written, content = cv2.imencode(".tiff", values[..., ::-1])
    assert written
    return content.tobytes()


def stored(share: Array, white: float, dtype: Any) -> Array:
    return np.rint(share * white).astype(dtype)


def difference(content: bytes, expected: Array) -> float:
    """Returns the mean difference of the pixels from the expected shares of white."""
    found = read_photo(content).image / 255
    return float(np.abs(found - np.broadcast_to(expected.reshape(90, 120, -1), found.shape)).mean())


@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    ("write", "dtype", "share"),
    [
        (png, np.uint16, GRAY),
        (png, np.uint16, COLORS),
        (packed_tiff, np.uint16, COLORS),
        (tiff, np.uint16, GRAY),
        (tiff, np.uint16, COLORS),
        (tiff, np.uint32, GRAY),
        (tiff, np.int32, GRAY),
        (tiff, np.float32, GRAY),
    ],
)
def test_fewer_bits_than_stored_are_no_dark_photo(
    depth: int, write: Any, dtype: Any, share: Array
) -> None:
    content = write(stored(share, 2**depth - 1, dtype))
    assert difference(content, share) < 0.01
    told = read_photo(content).value_range
    is_usual = depth == (8 if dtype is np.float32 else 16 if dtype is np.uint16 else None)
    assert (told is None) == is_usual
    assert told is None or dtype is np.float32 or f"to {2**depth - 1} in" in told


@pytest.mark.parametrize("white", [1.0, 1.02, 1.5, 4.0, 255.0, 256.5, 65535.0, 1e6])
def test_floats_are_scaled_by_their_range(white: float) -> None:
    assert difference(tiff((GRAY * white).astype(np.float32)), GRAY) < 0.01


def test_uint32_beyond_int32_is_not_negative() -> None:
    assert difference(tiff(stored(GRAY, 2**32 - 1, np.uint32)), GRAY) < 0.01


@pytest.mark.parametrize(("low", "high"), [(-32768, 32767), (-1024, 3071), (0, 32767)])
def test_signed_values_span_their_range(low: int, high: int) -> None:
    values = np.rint(low + GRAY * (high - low)).astype(np.int16)
    assert difference(tiff(values), GRAY) < 0.01


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-2.1, 2.6)])
def test_normalized_floats_span_their_range(low: float, high: float) -> None:
    assert difference(tiff((low + GRAY * (high - low)).astype(np.float32)), GRAY) < 0.01


def test_pixels_that_are_no_numbers_do_not_change_the_others() -> None:
    values = GRAY.astype(np.float32)
    values[0, :4] = np.nan, np.inf, -np.inf, 3e38
    found = read_photo(tiff(values)).image
    assert found[0, :4, 0].tolist() == [0, 255, 0, 255]
    assert np.abs(found[1:, :, 0] / 255 - GRAY[1:]).max() < 0.003
    assert not read_photo(tiff(np.full((9, 9), np.nan, np.float32))).image.any()


def test_missing_values_are_black() -> None:
    values = (GRAY * 255).astype(np.float32)
    values[:20] = -9999
    found = read_photo(tiff(values, nodata="-9999")).image
    assert not found[:20].any()
    assert np.abs(found[20:, :, 0] / 255 - GRAY[20:]).max() < 0.003


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_white_is_zero_is_read_so(dtype: Any) -> None:
    white = {np.uint8: 255, np.uint16: 4095, np.float32: 1.0}[dtype]
    values = (1 - GRAY) * white
    values = values.astype(dtype) if dtype is np.float32 else np.rint(values).astype(dtype)
    assert difference(tiff(values, photometric=0), GRAY) < 0.003


def test_dead_pixels_do_not_make_a_photo_dark() -> None:
    values = stored(GRAY, 4095, np.uint16)
    values[3, [5, 9]] = 65535
    assert difference(png(values), GRAY) < 0.003


@pytest.mark.parametrize("alpha", [4095, 65535])
def test_alpha_is_scaled_as_colors_only_where_it_has_their_range(alpha: int) -> None:
    opaque = np.full((90, 120, 1), alpha, np.uint16)
    colors = stored(COLORS, 4095, np.uint16)
    assert difference(png(np.concatenate([colors, opaque], -1)), COLORS) < 0.003


def test_gray_with_alpha_is_scaled_too() -> None:
    pixels = np.stack([stored(GRAY, 4095, np.uint16), np.full((90, 120), 65535, np.uint16)], -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", 120, 90, 16, 4, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        check = zlib.crc32(kind + data)
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
    assert difference(content, GRAY) < 0.003


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((90, 120), np.uint16),
        np.zeros((90, 120, 3), np.uint16),
        stored(GRAY, 25, np.uint16) * 257,  # 8 bits that were expanded
        stored(GRAY, 400, np.uint16) << 4,  # 12 bits at the upper end
        stored(COLORS, 400, np.uint16) << 4,
    ],
)
def test_a_dark_photo_of_the_full_range_stays_dark(values: Array) -> None:
    found = read_photo(png(values))
    assert found.value_range is None
    expected = values.reshape(90, 120, -1) / 65535
    assert np.abs(found.image / 255 - np.broadcast_to(expected, (90, 120, 3))).max() < 0.005


def test_noise_of_a_covered_lens_is_not_amplified() -> None:
    noise = np.random.default_rng(0).integers(0, 6, (90, 120)).astype(np.uint16)
    assert read_photo(png(noise)).image.max() <= 6


def test_scan_names_photos_of_another_range(tmp_path: Path) -> None:
    (tmp_path / "gull").mkdir()
    (tmp_path / "gull/deep.png").write_bytes(png(stored(COLORS, 4095, np.uint16)))
    (tmp_path / "gull/full.png").write_bytes(png(stored(COLORS[::-1], 65535, np.uint16)))
    (issue,) = (issue for issue in find_issues(scan(tmp_path)) if issue.kind == "value_range")
    assert issue.title == "1 photo has another range of values than its format."
    assert [(item.paths, item.note) for item in issue.items] == [
        (("gull/deep.png",), "values from 0 to 4095 in 16 bits")
    ]
    # From the catalog as well.
    assert [photo.value_range is None for photo in scan(tmp_path).photos] == [False, True]

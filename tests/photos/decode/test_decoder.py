from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile

from finetune.errors import DecodeError
from finetune.photos.decode import decoder
from finetune.photos.decode.decoder import (
    MAX_PIXELS,
    _register_heif,
    bytes_needed,
    decode_photo,
    read_photo,
)
from finetune.photos.decode.exif import Exif, read_exif
from finetune.photos.decode.photo_names import is_photo_name

WritePhoto = Callable[..., Path]
Draw = Callable[..., NDArray[np.uint8]]

# The stored pixels [i, j] of each EXIF orientation in terms of the upright picture, from the
# standard's wording "the 0th row is the visual ... side, the 0th column is the visual ... side".
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".png", ".tif", ".webp"])
def test_every_orientation_is_decoded_upright(
    tmp_path: Path, draw: Draw, write_photo: WritePhoto, orientation: int, ending: str
) -> None:
    upright = draw(1)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    options = {"lossless": True} if ending == ".webp" else {}
    path = write_photo(tmp_path / f"a{ending}", stored, orientation=orientation, **options)
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.image, upright)
    assert (photo.width, photo.height) == (96, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sideways_jpeg_is_upright_at_draft_size_too(
    tmp_path: Path, draw: Draw, write_photo: WritePhoto, orientation: int
) -> None:
    upright = draw(2, 640, 400)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    path = write_photo(tmp_path / "a.jpg", stored, orientation=orientation, quality=95)
    photo = read_photo(path, min_side_pixels=100)
    assert photo.image.shape == (100, 160, 3)
    assert (photo.width, photo.height) == (640, 400)
    box_filtered = upright.reshape(100, 4, 160, 4, 3).mean(axis=(1, 3))
    assert np.abs(photo.image - box_filtered).mean() < 2


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_nonsense_orientation_is_ignored(
    tmp_path: Path, draw: Draw, write_photo: WritePhoto, value: int
) -> None:
    path = write_photo(tmp_path / "a.png", 3, orientation=value)
    np.testing.assert_array_equal(decode_photo(path), draw(3))


def test_broken_exif_block_is_ignored(draw: Draw) -> None:
    file = io.BytesIO()
    Image.fromarray(draw(0)).save(
        file, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 40
    )
    assert read_photo(file.getvalue()).exif.orientation == 1


@pytest.mark.parametrize("side", [1, 49, 50, 51, 100, 199, 200, 399, 400, 401, 5000])
def test_draft_is_never_smaller_than_min_side(
    tmp_path: Path, write_photo: WritePhoto, draw: Draw, side: int
) -> None:
    path = write_photo(tmp_path / "a.jpg", draw(0, 640, 400))
    image = decode_photo(path, min_side_pixels=side)
    assert min(image.shape[:2]) >= min(side, 400)
    scale = 400 // min(image.shape[:2])
    assert scale == max(s for s in (1, 2, 4, 8) if s == 1 or 400 / s >= side)


def test_full_size_is_the_default(tmp_path: Path, write_photo: WritePhoto, draw: Draw) -> None:
    assert decode_photo(write_photo(tmp_path / "a.jpg", draw(0, 640, 400))).shape == (400, 640, 3)


def test_result_is_contiguous_and_writable(tmp_path: Path, write_photo: WritePhoto) -> None:
    for ending in ("jpg", "png"):
        image = decode_photo(write_photo(tmp_path / f"a.{ending}", 0, orientation=6))
        assert image.flags.c_contiguous
        assert image.flags.writeable
        assert image.dtype == np.uint8


def test_bytes_and_file_give_the_same_pixels(tmp_path: Path, write_photo: WritePhoto) -> None:
    path = write_photo(tmp_path / "a.jpg", 5)
    np.testing.assert_array_equal(decode_photo(path), decode_photo(path.read_bytes()))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_alpha_is_laid_on_white(draw: Draw) -> None:
    rgba = np.dstack([draw(0), np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))])
    image = decode_photo(encode(Image.fromarray(rgba, "RGBA"), "PNG"))
    alpha = rgba[..., 3:] / 255
    np.testing.assert_allclose(image, rgba[..., :3] * alpha + 255 * (1 - alpha), atol=1)


def test_gray_with_alpha_is_laid_on_white() -> None:
    image = Image.fromarray(np.array([[[0, 255], [0, 0], [200, 128]]], np.uint8), "LA")
    pixels = decode_photo(encode(image, "PNG"))[0, :, 0]
    np.testing.assert_allclose(pixels, [0, 255, 200 * 128 / 255 + 255 * 127 / 255], atol=1)


def test_transparent_palette_color_becomes_white() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    pixels = decode_photo(encode(image, "PNG", transparency=1))
    np.testing.assert_array_equal(pixels[0], [[10, 20, 30], [255, 255, 255], [70, 80, 90]])


def test_transparent_color_of_rgb_becomes_white() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    pixels = decode_photo(encode(image, "PNG", transparency=(1, 2, 3)))
    np.testing.assert_array_equal(pixels[0], [[255, 255, 255], [4, 5, 6]])


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    levels = np.array([[0, 255, 256, 257, 1000, 32768, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = decode_photo(encode(Image.fromarray(levels), kind))[0, :, 0]
        np.testing.assert_array_equal(pixels, np.rint(levels[0] / 257))


def test_transparent_level_of_sixteen_bits_becomes_white() -> None:
    levels = np.array([[0, 500, 65535]], np.uint16)
    content = encode(Image.fromarray(levels), "PNG", transparency=500)
    np.testing.assert_array_equal(decode_photo(content)[0, :, 0], [0, 255, 255])


def test_twelve_bit_tiff_has_its_own_white() -> None:
    # A little-endian TIFF of 2 x 1 pixels with 12 bits each: 0xFFF and 0x800.
    pixels = bytes([0xFF, 0xF8, 0x00])
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, 1), (279, 4, len(pixels))]
    content = b"II*\0" + struct.pack("<I", 12) + pixels.ljust(4, b"\0")
    content += struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    content += struct.pack("<I", 0)
    np.testing.assert_array_equal(decode_photo(content)[0, :, 0], [255, round(0x800 / 4095 * 255)])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1.0, 500.0, 1000.0], [0, 128, 255]),
        ([float("nan"), 0.25, 1.0], [0, 64, 255]),
    ],
)
def test_float_image_is_scaled_by_its_range(values: list[float], expected: list[int]) -> None:
    content = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    np.testing.assert_array_equal(decode_photo(content)[0, :, 0], expected)


def test_one_bit_image_is_black_and_white() -> None:
    image = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(decode_photo(encode(image, "PNG"))[0, :, 0], [255, 0])


def test_gray_image_has_three_equal_channels(draw: Draw) -> None:
    gray = draw(0)[..., 0]
    pixels = decode_photo(encode(Image.fromarray(gray), "PNG"))
    np.testing.assert_array_equal(pixels, np.repeat(gray[..., None], 3, axis=2))


def test_cmyk_without_profile_follows_the_simple_formula() -> None:
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[:] = (50, 100, 150, 60)
    content = encode(Image.fromarray(cmyk, "CMYK"), "TIFF")
    expected = [(255 - ink) * (255 - 60) / 255 for ink in (50, 100, 150)]
    np.testing.assert_allclose(decode_photo(content)[8, 8], expected, atol=1)
    jpeg = encode(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=100)
    np.testing.assert_allclose(decode_photo(jpeg)[8, 8], expected, atol=3)


def test_lab_image_becomes_srgb() -> None:
    lab = np.zeros((2, 2, 3), np.uint8)
    lab[:] = (138, 81, 70)  # sRGB red adapted to D50: L 54.3, a 80.8, b 69.9
    content = encode(Image.fromarray(lab, "LAB"), "TIFF")
    np.testing.assert_allclose(decode_photo(content)[0, 0], [255, 0, 0], atol=6)


def swapped_primaries() -> bytes:
    """An sRGB profile with red and green swapped."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")
    assert swapped != srgb
    return swapped


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_embedded_profile_is_converted_to_srgb(draw: Draw, kind: str) -> None:
    upright = draw(4)
    content = encode(Image.fromarray(upright), kind, icc_profile=swapped_primaries())
    np.testing.assert_allclose(decode_photo(content), upright[..., [1, 0, 2]], atol=2)


def test_embedded_profile_and_alpha_go_together(draw: Draw) -> None:
    rgba = np.dstack([draw(4), np.full((64, 96), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    content = encode(Image.fromarray(rgba, "RGBA"), "PNG", icc_profile=swapped_primaries())
    pixels = decode_photo(content)
    np.testing.assert_array_equal(pixels[0, 0], [255, 255, 255])
    np.testing.assert_allclose(pixels[1:], rgba[1:, :, [1, 0, 2]], atol=2)


def test_srgb_profile_changes_no_pixel(draw: Draw) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = encode(Image.fromarray(draw(4)), "PNG", icc_profile=srgb)
    np.testing.assert_array_equal(decode_photo(content), draw(4))


@pytest.mark.parametrize(
    "profile",
    [b"not a profile", b"\0" * 200, swapped_primaries()[:200]],
    ids=["text", "zeros", "cut"],  # the profile itself has the time at which it was made
)
def test_broken_profile_is_ignored(draw: Draw, profile: bytes) -> None:
    content = encode(Image.fromarray(draw(4)), "PNG", icc_profile=profile)
    np.testing.assert_array_equal(decode_photo(content), draw(4))


def test_profile_for_another_kind_of_image_is_ignored(draw: Draw) -> None:
    gray = Image.fromarray(draw(4)[..., 0])
    content = encode(gray, "PNG", icc_profile=swapped_primaries())
    np.testing.assert_array_equal(decode_photo(content)[..., 0], draw(4)[..., 0])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation_counts(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    pixels = decode_photo(content)
    assert pixels.shape == (10, 20, 3)
    np.testing.assert_array_equal(pixels[5, 5], [255, 0, 0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"])
def test_common_formats_are_read(draw: Draw, kind: str) -> None:
    content = encode(Image.fromarray(draw(0)), kind)
    photo = read_photo(content)
    assert photo.format == kind
    assert np.abs(photo.image.astype(int) - draw(0)).mean() < 12


def test_avif_is_read_upright(draw: Draw) -> None:
    exif = Image.Exif()
    exif[274] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(draw(0), 1)))
    photo = read_photo(encode(stored, "AVIF", quality=90, exif=exif))
    assert photo.image.shape == draw(0).shape
    assert np.abs(photo.image.astype(int) - draw(0)).mean() < 6


def test_heic_is_read(draw: Draw) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    photo = read_photo(encode(Image.fromarray(draw(0)), "HEIF", quality=90))
    assert photo.format == "HEIF"
    assert photo.image.shape == draw(0).shape
    assert np.abs(photo.image.astype(int) - draw(0)).mean() < 6


def test_heic_without_its_package_names_the_extra(
    draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    content = encode(Image.fromarray(draw(0)), "HEIF")
    _register_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DecodeError) as caught:
        decode_photo(content)
    assert caught.value.reason == (
        "HEIC needs the package 'pillow-heif': pip install 'finetune-photos[heic]'"
    )


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 13_400, 30_000, 65_000])
def test_bomb_is_refused_before_pixels_are_allocated(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated: list[object] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", allocated.append)
    with pytest.raises(DecodeError, match="too many pixels"):
        decode_photo(png_header(side, side), max_pixels=90_000_000)
    assert not allocated


def test_pixel_bound_holds_for_the_full_size_not_the_draft(
    tmp_path: Path, draw: Draw, write_photo: WritePhoto
) -> None:
    path = write_photo(tmp_path / "a.jpg", draw(0, 640, 400))
    assert decode_photo(path, min_side_pixels=50, max_pixels=640 * 400).shape == (50, 80, 3)
    with pytest.raises(DecodeError, match="too many pixels"):
        decode_photo(path, min_side_pixels=50, max_pixels=640 * 400 - 1)


def saved(kind: str, **options: bool) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (80, 60), (9, 99, 199)).save(file, kind, **options)
    return file.getvalue()


def test_bytes_are_bounded_before_pixels_are_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved("PNG")
    assert bytes_needed(content) == 80 * 60 * (4 + 3)
    monkeypatch.setattr(decoder, "MAX_BYTES", 80 * 60 * 7 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("pixels were allocated"))
    with pytest.raises(DecodeError, match="too large: it needs"):
        read_photo(content)


def test_decoders_with_memory_of_their_own_count_it() -> None:
    needed = {}
    kinds: tuple[tuple[str, dict[str, bool]], ...] = (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
    )
    for kind, options in kinds:
        needed[kind, *options] = bytes_needed(saved(kind, **options)) // (80 * 60)
    assert needed == {("JPEG",): 7, ("JPEG", "progressive"): 13, ("WEBP",): 15}


def test_large_photos_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved("PNG")
    monkeypatch.setattr(decoder, "LARGE_BYTES", 1)
    entered = []
    turn = contextlib.nullcontext()
    monkeypatch.setattr(turn.__class__, "__enter__", lambda self: entered.append(1))
    monkeypatch.setattr(decoder, "_large_turn", turn)
    read_photo(content)
    assert entered == [1]


def test_pillows_log_lines_do_not_reach_the_terminal(caplog: pytest.LogCaptureFixture) -> None:
    read_photo(saved("TIFF"))
    logging.getLogger("PIL.TiffImagePlugin").error("odd")
    assert caplog.records == []


def test_bound_above_pillows_own_is_pillows_own() -> None:
    with pytest.raises(DecodeError, match="too many pixels"):
        decode_photo(png_header(20_000, 20_000), max_pixels=MAX_PIXELS * 10)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"Dear diary, today I saw a heron.", "not a photo"),
        (b"\x89PNG\r\n\x1a\n", "damaged, or of an unknown kind"),
        (b"\xff\xd8\xff\xe0", "damaged, or of an unknown kind"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "damaged, or of an unknown kind"),
    ],
)
def test_a_file_that_is_no_photo_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DecodeError) as caught:
        decode_photo(path)
    assert caught.value.reason == reason
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {reason}"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"])
def test_half_a_file_is_refused(draw: Draw, kind: str) -> None:
    content = encode(Image.fromarray(draw(0)), kind)
    with pytest.raises(DecodeError) as caught:
        decode_photo(content[: len(content) // 2])
    assert caught.value.reason in ("truncated", "damaged", "damaged, or of an unknown kind")
    assert caught.value.path is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_truncated_is_the_reason_of_half_a_file(draw: Draw, kind: str) -> None:
    content = encode(Image.fromarray(draw(0)), kind)
    with pytest.raises(DecodeError, match=r"^photo: truncated$"):
        decode_photo(content[: len(content) // 2])


def test_missing_file_folder_and_pipe_have_a_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in [
        ("missing.jpg", "no such file"),
        ("folder.jpg", "a folder, not a photo"),
        ("pipe.jpg", "not a regular file"),
    ]:
        with pytest.raises(DecodeError) as caught:
            decode_photo(tmp_path / name)
        assert caught.value.reason == reason


def test_unreadable_file_has_a_reason(
    tmp_path: Path, write_photo: WritePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_photo(tmp_path / "a.jpg", 0)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DecodeError, match="no permission to read it"):
        decode_photo(path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "not enough memory to decode it"),
        (OSError(5, "Input/output error"), "input/output error"),
        (EOFError(), "truncated"),
        (RecursionError(), "damaged"),
    ],
)
def test_whatever_a_decoder_raises_becomes_a_reason(
    draw: Draw,
    monkeypatch: pytest.MonkeyPatch,
    error: EOFError | MemoryError | OSError | RecursionError,
    reason: str,
) -> None:
    def fail(self: object) -> None:
        raise error

    content = encode(Image.fromarray(draw(0)), "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(DecodeError) as caught:
        decode_photo(content)
    assert caught.value.reason == reason


SEEDS = {
    kind: encode(Image.fromarray(np.arange(48 * 32 * 3, dtype=np.uint8).reshape(32, 48, 3)), kind)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(SEEDS)),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    kept=st.floats(0.1, 1),
)
def test_damaged_bytes_give_pixels_or_a_decode_error(
    kind: str, damage: list[tuple[float, int]], kept: float
) -> None:
    content = bytearray(SEEDS[kind])
    for place, value in damage:
        content[int(place * (len(content) - 1))] = value
    with contextlib.suppress(DecodeError):
        image = decode_photo(bytes(content[: int(kept * len(content))]), max_pixels=1_000_000)
        assert image.ndim == 3
        assert image.dtype == np.uint8


def complaining_photo() -> bytes:
    """A PNG that makes Pillow warn: its size is over the first of Pillow's two bounds."""
    return png_header(10_000, 9_500)


def test_warnings_of_the_decoder_do_not_leak_from_any_thread() -> None:
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        filters = list(warnings.filters)

        def attempt(_: int) -> None:
            with pytest.raises(DecodeError):
                decode_photo(complaining_photo(), max_pixels=1_000_000)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(attempt, range(200)))
        assert warnings.filters == filters
    assert leaked == []


def test_other_warnings_still_speak_afterwards(draw: Draw) -> None:
    decode_photo(encode(Image.fromarray(draw(0)), "PNG"))
    with pytest.warns(UserWarning, match="still here"):
        warnings.warn("still here", stacklevel=1)


def test_many_threads_decode_the_same_pixels(draw: Draw) -> None:
    content = encode(Image.fromarray(draw(4)), "JPEG", icc_profile=swapped_primaries())
    alone = decode_photo(content)
    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(decode_photo, [content] * 100):
            np.testing.assert_array_equal(image, alone)


def test_decode_error_crosses_process_borders() -> None:
    error = pickle.loads(pickle.dumps(DecodeError(Path("a.jpg"), "truncated")))  # noqa: S301
    assert (error.path, error.reason, str(error)) == (
        Path("a.jpg"),
        "truncated",
        "a.jpg: truncated",
    )


def test_hostile_tiff_writes_nothing_to_stderr(tmp_path: Path) -> None:
    content = bytearray(encode(Image.new("RGB", (64, 64)), "TIFF", compression="tiff_lzw"))
    content[8:60] = bytes(range(52))
    (tmp_path / "a.tif").write_bytes(content)
    code = (
        "import sys; from pathlib import Path\n"
        "from finetune.photos.decode.decoder import decode_photo\n"
        "try: decode_photo(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.tif"], capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"DecodeError\n", b"")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("B.JPEG", True),
        ("c.heic", True),
        ("d.hif", True),
        ("e.tiff", True),
        ("f.pgm", True),
        ("g.txt", False),
        ("jpg", False),
        (".jpg", False),
        ("h.jpg.part", False),
    ],
)
def test_photo_names(name: str, expected: bool) -> None:
    assert is_photo_name(name) is expected


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["Landscape", "Portrait"])
def test_real_sideways_photos_match_their_upright_copy(shared_photos: Path, kind: str) -> None:
    folder = shared_photos / "odd" / "orientation"
    upright = decode_photo(folder / f"{kind}_1.jpg").astype(int)
    for number in range(9):
        photo = decode_photo(folder / f"{kind}_{number}.jpg").astype(int)
        assert photo.shape == upright.shape
        # The files were encoded one by one: JPEG loss is all that may differ.
        assert np.abs(photo - upright).mean() < 4.5


BROKEN = {
    "broken.png": "damaged, or of an unknown kind",
    "broken_data_stream.png": "damaged",
    "crash-2020-10-test.tif": "damaged",
    "decompression_bomb.gif": "too many pixels",
    "empty.jpg": "empty file",
    "hopper_unknown_pixel_mode.tif": "damaged, or of an unknown kind",
    "png_decompression_dos.png": "decompression bomb",
    "text_named.jpg": "not a photo",
    "truncated_image.png": "truncated",
    "truncated_jpeg.jpg": "truncated",
}


@pytest.mark.shared
def test_real_odd_files_are_read_or_have_a_reason(shared_photos: Path) -> None:
    pytest.importorskip("pillow_heif")
    reasons = {}
    paths = [path for path in (shared_photos / "odd").rglob("*") if path.is_file()]
    for path in paths:
        try:
            assert decode_photo(path, min_side_pixels=200).ndim == 3
        except DecodeError as error:
            reasons[path.name] = error.reason
    assert len(paths) == 104
    # Which of its plugins gives up first differs from one Pillow to the next.
    shown = {name: reason.partition(",")[0] for name, reason in reasons.items()}
    assert shown == {name: reason.partition(",")[0] for name, reason in BROKEN.items()}


def read_back(fields: Mapping[int, object], details: Mapping[int, object] | None = None) -> Exif:
    exif = Image.Exif()
    exif.update(fields)
    exif.get_ifd(ExifTags.IFD.Exif).update(details or {})
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG", exif=exif)
    with Image.open(file) as image:
        image.load()
        return read_exif(image)


MAKE, MODEL, DATE_TIME = 0x010F, 0x0110, 0x0132
ORIGINAL, DIGITIZED, SUBSECOND = 0x9003, 0x9004, 0x9291


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 90D", "Canon EOS 90D"),
        ("NIKON CORPORATION", "NIKON D70", "NIKON D70"),
        ("Panasonic", "DMC-FZ30", "Panasonic DMC-FZ30"),
        ("Apple", "", "Apple"),
        ("", "X100", "X100"),
        ("SONY   \0\0rubbish", "DSC\x07A7 ", "SONY DSC A7"),
        ("", "", None),
    ],
)
def test_camera_names_the_maker_once(make: str, model: str, camera: str | None) -> None:
    assert read_back({MAKE: make, MODEL: model}).camera == camera


@pytest.mark.parametrize(
    ("text", "taken_at"),
    [
        ("2008:10:22 16:28:39", "2008-10-22T16:28:39"),
        ("2008-10-22T16:28:39", "2008-10-22T16:28:39"),
        ("2008:10:22 16:28:39\0\0", "2008-10-22T16:28:39"),
        ("0000:00:00 00:00:00", None),
        ("2008:13:22 16:28:39", None),
        ("2008:10:22 25:28:39", None),
        ("    :  :     :  :  ", None),
        ("yesterday", None),
    ],
)
def test_time_is_read_tolerantly(text: str, taken_at: str | None) -> None:
    assert read_back({}, {ORIGINAL: text}).taken_at == taken_at


def test_fraction_of_a_second_is_kept() -> None:
    exif = read_back({}, {ORIGINAL: "2008:10:22 16:28:39", SUBSECOND: "340"})
    assert exif.taken_at == "2008-10-22T16:28:39.34"


@pytest.mark.parametrize("fraction", ["", "00", "   ", "abc", "²"])
def test_meaningless_fraction_is_left_out(fraction: str) -> None:
    exif = read_back({}, {ORIGINAL: "2008:10:22 16:28:39", SUBSECOND: fraction})
    assert exif.taken_at == "2008-10-22T16:28:39"


def test_exposure_time_wins_over_the_time_of_editing() -> None:
    exif = read_back({DATE_TIME: "2020:01:01 00:00:00"}, {ORIGINAL: "2008:10:22 16:28:39"})
    assert exif.taken_at == "2008-10-22T16:28:39"


def test_other_times_stand_in_where_there_is_no_exposure_time() -> None:
    assert read_back({DATE_TIME: "2020:01:01 00:00:00"}).taken_at == "2020-01-01T00:00:00"
    unset = {ORIGINAL: "0000:00:00 00:00:00", DIGITIZED: "2009:10:22 16:28:39"}
    assert read_back({}, unset).taken_at == "2009-10-22T16:28:39"


def test_image_without_exif_has_none_of_it() -> None:
    assert read_exif(Image.new("RGB", (4, 4))) == Exif(orientation=1, taken_at=None, camera=None)


@settings(max_examples=200, deadline=None)
@given(block=st.binary(max_size=200))
def test_no_block_of_bytes_makes_it_raise(block: bytes) -> None:
    image = Image.new("RGB", (4, 4))
    image.info["exif"] = b"Exif\0\0" + block
    assert isinstance(read_exif(image), Exif)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_no_flipped_byte_makes_it_raise(position: int, value: int) -> None:
    exif = Image.Exif()
    exif[MAKE], exif[MODEL], exif[0x0112] = "Canon", "EOS", 6
    exif.get_ifd(ExifTags.IFD.Exif)[ORIGINAL] = "2008:10:22 16:28:39"
    block = bytearray(exif.tobytes())
    block[position % len(block)] = value
    image = Image.new("RGB", (4, 4))
    image.info["exif"] = bytes(block)
    assert 1 <= read_exif(image).orientation <= 8


def test_block_that_cannot_be_parsed_at_all_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise KeyError(0)

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert read_exif(Image.new("RGB", (4, 4))) == Exif()


@pytest.mark.shared
def test_real_camera_files_give_time_and_camera(shared_photos: Path) -> None:
    folder = shared_photos / "odd" / "exif"
    found = {}
    for name in ("jpg_Canon_PowerShot_S40.jpg", "jpg_gps_DSCN0010.jpg", "jpg_Nikon_D70.jpg"):
        with Image.open(folder / name) as image:
            found[name] = read_exif(image)
    assert found == {
        "jpg_Canon_PowerShot_S40.jpg": Exif(
            taken_at="2003-12-14T12:01:44", camera="Canon PowerShot S40"
        ),
        "jpg_gps_DSCN0010.jpg": Exif(
            taken_at="2008-10-22T16:28:39",
            camera="NIKON COOLPIX P6000",
            place=(43 + 28 / 60 + 2.814 / 3600, 11 + 53 / 60 + 6.45599999 / 3600),
        ),
        "jpg_Nikon_D70.jpg": Exif(taken_at="2008-03-15T09:52:01", camera="NIKON D70"),
    }

"""Conversion to 8-bit sRGB: color profiles, bit depth, palettes, transparency."""

from __future__ import annotations

import functools
import io
import mmap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from finetune.photos.decode.levels import WIDE_MODES, Levels, find_levels, strips

STRIP_PIXELS = 4 << 20
"""Pixels converted at once where a photo is converted in strips."""

LARGE_PIXELS = 50_000_000
"""Number of pixels from which on a photo is converted in strips."""

_Turn = Image.Transpose | None


def rgb_array(
    image: Image.Image,
    turn: _Turn = None,
    levels: Levels | None = None,
    *,
    smallest_side: int | None = None,
) -> NDArray[np.uint8]:
    """Returns a loaded image of any mode as ``(H, W, 3) uint8`` sRGB, turned, on white.

    A large image is converted strip by strip, with the same pixels, so that its memory is that of
    the image and of the result. The result is then mapped memory, which is free again at once.

    Args:
        image: A loaded image.
        turn: Makes it upright.
        levels: Of an image of more than 8 bits; None: found in its values.
        smallest_side: Allows a large image to be averaged down by 2, 4 or 8, as a JPEG is decoded,
            to a shorter side of at least so many pixels; None: it keeps its size.
    """
    if levels is None and image.mode in WIDE_MODES:
        levels = find_levels(image)
    if image.width * image.height <= LARGE_PIXELS:
        rgb = to_rgb(image, levels)
        return np.array(rgb if turn is None else rgb.transpose(turn))
    factor = _reduction(image, smallest_side)
    width, height = (-(-side // factor) for side in image.size)
    swapped = turn is not None and turn in _SWAPPING
    shape = (width, height, 3) if swapped else (height, width, 3)
    result = np.frombuffer(mmap.mmap(-1, width * height * 3), np.uint8).reshape(shape)
    source = _turned_back(result, turn)
    for top, strip in strips(image, STRIP_PIXELS, step=factor):
        rgb = to_rgb(strip, levels)
        if factor > 1:
            rgb = rgb.reduce(factor)
        source[top // factor : top // factor + rgb.height] = np.asarray(rgb)
    return result


def _reduction(image: Image.Image, smallest_side: int | None) -> int:
    if smallest_side is None:
        return 1
    return next(f for f in (8, 4, 2, 1) if f == 1 or min(image.size) >= f * smallest_side)


_SWAPPING = frozenset(
    (
        Image.Transpose.TRANSPOSE,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
        Image.Transpose.ROTATE_270,
    )
)


def _turned_back(result: NDArray[np.uint8], turn: _Turn) -> NDArray[np.uint8]:
    """Returns a view of a turned image ``(H, W, 3)`` whose pixels are those before the turn."""
    match turn:
        case Image.Transpose.FLIP_LEFT_RIGHT:
            return result[:, ::-1]
        case Image.Transpose.FLIP_TOP_BOTTOM:
            return result[::-1]
        case Image.Transpose.ROTATE_180:
            return result[::-1, ::-1]
        case Image.Transpose.TRANSPOSE:
            return result.transpose(1, 0, 2)
        case Image.Transpose.TRANSVERSE:
            return result[::-1, ::-1].transpose(1, 0, 2)
        case Image.Transpose.ROTATE_90:
            return np.rot90(result, -1)
        case Image.Transpose.ROTATE_270:
            return np.rot90(result, 1)
        case _:
            return result


def to_rgb(image: Image.Image, levels: Levels | None = None) -> Image.Image:
    """Returns a loaded image of any mode as 8-bit sRGB, composited on white.

    Args:
        image: The image, or a strip of one.
        levels: Of an image of more than 8 bits; None: found in its values.
    """
    profile = image.info.get("icc_profile")
    image, alpha = _split_alpha(image, levels)
    if image.mode == "LAB":
        rgb = _apply(_lab_to_srgb(), image)
    else:
        rgb = _apply(_srgb_transform(profile, image.mode), image)
    if alpha is not None:
        white_image = Image.new("RGB", rgb.size, (255, 255, 255))
        white_image.paste(rgb, mask=alpha)
        return white_image
    return rgb


def _split_alpha(
    image: Image.Image, levels: Levels | None
) -> tuple[Image.Image, Image.Image | None]:
    """Returns an 8-bit image without transparency, and its ``L`` mask or None."""
    if image.mode in WIDE_MODES:
        return _wide_to_gray(image, levels or find_levels(image))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = image.getchannel("A")
        return image.convert("RGB"), alpha if alpha.getextrema() != (255, 255) else None
    if image.mode in ("RGB", "L", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _wide_to_gray(image: Image.Image, levels: Levels) -> tuple[Image.Image, Image.Image | None]:
    """Returns a gray image of more than 8 bits as ``L``, and the mask of a transparent level."""
    gray = np.empty((image.height, image.width), np.uint8)
    transparent = image.info.get("transparency")
    mask = np.empty_like(gray) if isinstance(transparent, int) else None
    table = levels.apply(np.arange(65536)) if image.mode.startswith("I;16") else None
    for top, strip in strips(image, STRIP_PIXELS):
        values = np.asarray(strip)
        rows = slice(top, top + strip.height)
        if table is not None:
            gray[rows] = table[values]
        else:
            gray[rows] = levels.apply(values)
        if mask is not None:
            mask[rows] = np.where(values == transparent, 0, 255)
    return Image.fromarray(gray), None if mask is None else Image.fromarray(mask)


def _apply(transform: ImageCms.ImageCmsTransform | None, image: Image.Image) -> Image.Image:
    if transform is not None:
        try:
            converted = ImageCms.applyTransform(image, transform)
        except (ImageCms.PyCMSError, ValueError):
            converted = None
        if converted is not None:
            return converted
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _srgb_transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform from an embedded profile to sRGB, or None if none is needed.

    Nearly every camera embeds sRGB itself, spelled in a dozen ways: a profile that moves no color
    of a coarse cube by more than one level is treated as sRGB, which saves a pass over the pixels.
    """
    if not profile:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "RGB":
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
        moved = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform))
        if np.abs(moved.astype(int) - cube).max() <= 1:
            return None
    return transform


@functools.lru_cache(maxsize=1)
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )


LUMA = (19595, 38470, 7471)
"""Weights of R, G and B in units of 1/65536: 0.299, 0.587 and 0.114. With 8-bit levels every
product and sum stays below 2^24, so that float32 has them exactly, in any order."""

LUMA_SCALE = 65536
LUMA_HALF = LUMA_SCALE // 2


def to_gray(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the luma ``(..., 1) uint8`` of RGB pixels ``(..., 3) uint8``.

    ``L = floor((19595 R + 38470 G + 7471 B + 32768) / 65536)``, bit for bit what
    ``PIL.Image.convert("L")`` gives. A pixel that is gray already keeps its level.

    Example:
        >>> to_gray(np.array([[255, 0, 0], [7, 7, 7]], np.uint8)).tolist()
        [[76], [7]]
    """
    weights = np.array(LUMA, np.float32)[:, None]
    levels = (images.astype(np.float32) @ weights + LUMA_HALF) / LUMA_SCALE
    return levels.astype(np.uint8)

"""Conversion to 8-bit sRGB: color profiles, bit depth, palettes, transparency."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_WIDE_MODES = frozenset(("I", "F", "I;16", "I;16L", "I;16B", "I;16N"))


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns a loaded image of any mode as 8-bit sRGB, composited on white."""
    profile = image.info.get("icc_profile")
    image, alpha = _split_alpha(image)
    if image.mode == "LAB":
        rgb = _apply(_lab_to_srgb(), image)
    else:
        rgb = _apply(_srgb_transform(profile, image.mode), image)
    if alpha is not None:
        white = Image.new("RGB", rgb.size, (255, 255, 255))
        white.paste(rgb, mask=alpha)
        return white
    return rgb


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Returns an 8-bit image without transparency, and its ``L`` mask or None."""
    if image.mode in _WIDE_MODES:
        return _wide_to_gray(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = image.getchannel("A")
        return image.convert("RGB"), alpha if alpha.getextrema() != (255, 255) else None
    if image.mode in ("RGB", "L", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _wide_to_gray(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Returns a gray image of more than 8 bits as ``L``, scaled by its full range, not clipped."""
    values: NDArray[Any] = np.nan_to_num(np.asarray(image).astype(np.float64))
    gray = np.clip(values * (255 / _white_level(image, values)), 0, 255)
    transparent = image.info.get("transparency")
    alpha = None
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return Image.fromarray(np.rint(gray).astype(np.uint8)), alpha


def _white_level(image: Image.Image, values: NDArray[np.float64]) -> float:
    """Returns the stored value that means white."""
    highest = float(values.max(initial=0.0))
    if image.mode == "F":
        # A float file does not declare its range: 0 to 1 and 0 to 255 are the two in use.
        return 1.0 if highest <= 1 else max(255.0, highest)
    bits = getattr(image, "tag_v2", {}).get(258)  # TIFF's BitsPerSample
    depth = bits[0] if isinstance(bits, tuple) and bits else bits
    if isinstance(depth, int) and 8 < depth <= 16:
        return float(2**depth - 1)
    return max(65535.0, highest)


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

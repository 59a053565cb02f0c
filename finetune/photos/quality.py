"""Quality measures of a photo: brightness, contrast, sharpness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEASURED_SIDE_PIXELS = 256
"""Shorter side at which sharpness is measured, so that photos of all sizes are comparable."""


DARK, BRIGHT = 0.08, 0.92
"""Mean gray levels beyond which a photo counts as too dark or too bright."""

MIN_CONTRAST = 0.03
"""Contrast below which a photo shows almost nothing: a covered lens, fog."""

BLURRED_SHARPNESS = 0.02
"""Sharpness below which a photo counts as blurred. Of 450 sampled web photos the least sharp has
0.026; a Gaussian blur of one pixel at the measured side brings three of four below 0.02."""

TINY_SIDE_PIXELS = 64
"""Shorter side below which a photo has too little detail for a network."""

LONG_RATIO = 3.0
"""Aspect ratio above which a square crop shows too small a part of the photo."""

Fault = Literal["dark", "bright", "plain", "blurred", "tiny", "long"]
"""Quality faults of a readable photo."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Quality measures of one photo, each in [0, 1].

    Attributes:
        brightness: Mean gray level.
        contrast: Standard deviation of the gray levels, as a share of the maximum (0.5).
        sharpness: Energy of the finest detail as a share of that of white noise; 0 for a uniform
            image. See `measure`.
    """

    brightness: float
    contrast: float
    sharpness: float


def small_gray(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns a gray image, averaged down by an integer factor to `MEASURED_SIDE_PIXELS` or more.

    Args:
        image: ``(H, W, 3)`` RGB or ``(H, W)`` gray ``uint8``.

    Returns:
        ``(h, w) uint8``.
    """
    # Gray first: averaging one channel costs a third of averaging three.
    gray = Image.fromarray(image).convert("L")
    factor = min(gray.size) // MEASURED_SIDE_PIXELS
    return np.asarray(gray.reduce(factor) if factor > 1 else gray)


def measure(image: NDArray[np.uint8]) -> Quality:
    """Returns the quality measures of an image.

    Sharpness is the root of the mean squared Laplacian over that of white noise with the same
    variance (the 4-neighbor Laplacian of white noise has 20 times its variance). Dividing by the
    photo's own variance keeps it from measuring contrast instead.

    Args:
        image: ``(H, W, 3)`` RGB or ``(H, W)`` gray ``uint8``; `small_gray` of it is measured.
    """
    levels = small_gray(image).astype(np.float32) / 255
    variance = float(levels.var())
    sharpness = 0.0
    if min(levels.shape) >= 3 and variance > 1e-6:
        inner = levels[1:-1, 1:-1]
        laplacian = (
            levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:] - 4 * inner
        )
        sharpness = min(1.0, float(np.sqrt(np.square(laplacian).mean() / (20 * variance))))
    return Quality(
        brightness=float(levels.mean()), contrast=min(1.0, variance**0.5 * 2), sharpness=sharpness
    )


def faults(quality: Quality | None, width: int, height: int) -> tuple[Fault, ...]:
    """Returns the faults of a photo with these measures and this full size.

    A photo without contrast does not count as blurred as well.
    """
    found: list[Fault] = []
    if quality is not None:
        if quality.brightness < DARK:
            found.append("dark")
        elif quality.brightness > BRIGHT:
            found.append("bright")
        if quality.contrast < MIN_CONTRAST:
            found.append("plain")
        elif quality.sharpness < BLURRED_SHARPNESS and min(width, height) >= TINY_SIDE_PIXELS:
            found.append("blurred")
    if min(width, height) < TINY_SIDE_PIXELS:
        found.append("tiny")
    if max(width, height) > LONG_RATIO * min(width, height):
        found.append("long")
    return tuple(found)

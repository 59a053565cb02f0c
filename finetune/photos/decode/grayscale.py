"""Gray from RGB, as Pillow's mode ``L`` has it: ITU-R BT.601 luma, rounded to whole levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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

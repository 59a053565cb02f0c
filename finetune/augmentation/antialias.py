"""A blur before the one interpolation, for maps that shrink a photo much."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def blur_levels(polynomials: Floats, height: int, width: int, size: int) -> NDArray[np.int64]:
    """Returns how often each photo must be halved in sharpness before it is sampled.

    Bilinear sampling sees 2 x 2 pixels: where one output pixel covers more, fine patterns alias.
    Level n stands for a tent filter of 2^n pixels' half width. The measure is the shrinking at the
    center, sqrt(|det J|); 0 up to a factor of 1.68, 1 up to 3.36.

    Args:
        polynomials: `(B, 3, 4)`.
        height: Of the source, in pixels.
        width: Of the source, in pixels.
        size: Of the output, in pixels.
    """
    # At w = 0, D = 1: the derivative of X/D is X' - X D'.
    jacobian = polynomials[:, :2, 1:3] - polynomials[:, :2, 3:] * polynomials[:, 2:, 1:3]
    shrink = np.sqrt(np.abs(np.linalg.det(jacobian)) * height * width) / size
    levels = np.floor(np.log2(np.maximum(shrink, 1e-9)) + 0.25)
    return np.asarray(np.maximum(levels, 0), dtype=np.int64)


def tent(level: int) -> Floats:
    """Returns the blur of a level: `(2^(level+1) - 1,)` weights that sum to 1."""
    rising = np.arange(1, 2**level + 1, dtype=np.float64)
    return np.asarray(np.concatenate([rising, rising[-2::-1]]) / 4**level)


def blur_photo(image: NDArray[np.uint8], level: int) -> NDArray[np.uint8]:
    """Returns one `(H, W, C)` photo behind the blur of a level."""
    if level == 1:
        # The same three weights, in half the time.
        smooth: Any = cv2.GaussianBlur(image, (3, 3), 0, borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth, dtype=np.uint8)
    weights = tent(level)
    blurred: Any = cv2.sepFilter2D(image, -1, weights, weights, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.uint8)


def blur_batch(images: Tensor, level: int) -> Tensor:
    """Returns `(B, C, H, W)` float photos behind the blur of a level."""
    weights = torch.as_tensor(tent(level), dtype=images.dtype, device=images.device)
    reach = len(weights) // 2
    channels = images.shape[1]
    padded = _reflect(_reflect(images, reach, -1), reach, -2)
    across = weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    down = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    once = torch.nn.functional.conv2d(padded, across, groups=channels)
    return torch.nn.functional.conv2d(once, down, groups=channels)


def _reflect(images: Tensor, reach: int, dim: int) -> Tensor:
    """Pads by mirroring at the pixels' outer edge; torch's own padding skips the edge pixel."""
    start = images.narrow(dim, 0, reach).flip(dim)
    end = images.narrow(dim, images.shape[dim] - reach, reach).flip(dim)
    return torch.cat([start, images, end], dim)

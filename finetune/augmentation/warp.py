"""Warps: crop, flip, rotation, zoom and Möbius map composed into one map and one interpolation.

With w = u + iv on the output's square [-1, 1]² and g(w) = (aw + b) / (cw + d), multiplying both
parts of the fraction by the conjugate of cw + d leaves a real denominator:

    g(w) = (a c* |w|² + a d* w + b c* w* + b d*) / (|c|² |w|² + 2 Re(c d* w) + |d|²)

A real affine map behind it only mixes the two numerators with the denominator. So every map here
is three real polynomials in (|w|², u, v, 1): `x = X/D`, `y = Y/D`. None has a product uv, so each
is the sum of a function of the column and one of the row: a pixel costs three additions, one
division and two multiplications. Nothing cancels near c = 0, where a plain affine map has D = 1.

Pixel centers: pixel j of n lies at (2j + 1)/n - 1 (`align_corners=False` in torch's words), and the
border reflects at the pixels' outer edge.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def rational(mobius: NDArray[np.complex128], affine: Floats) -> Floats:
    """Returns the composed map as polynomials.

    Args:
        mobius: `(B, 2, 2)` complex, from the output's square to the crop's.
        affine: `(B, 2, 3)`, from the crop's square to the photo's.

    Returns:
        `(B, 3, 4)` float64: rows X, Y and D; columns the factors of |w|², u, v and 1.

    Example:
        >>> shift = np.array([[[1, 0, 0.25], [0, 1, 0]]])
        >>> rational(np.eye(2, dtype=complex)[None], shift)[0, 0].tolist()
        [0.0, 1.0, 0.0, 0.25]
    """
    a, b, c, d = (mobius[:, row, column] for row in (0, 1) for column in (0, 1))
    plus, minus = a * d.conj() + b * c.conj(), 1j * (a * d.conj() - b * c.conj())
    numerator = np.stack([a * c.conj(), plus, minus, b * d.conj()], axis=-1)
    cross = 2 * c * d.conj()
    denominator = np.stack([abs(c) ** 2, cross.real, -cross.imag, abs(d) ** 2], axis=-1)
    parts = np.stack([numerator.real, numerator.imag, denominator], axis=1)
    composed: Floats = np.concatenate([affine @ parts, denominator[:, None]], axis=1)
    return composed / denominator[:, None, 3:]


def to_source(polynomials: Floats, points: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Returns where points of one output square lie in the source's, in float64.

    Args:
        polynomials: `(3, 4)`, one row of `rational`.
        points: Any shape, complex, in the output's square.
    """
    basis = np.stack([abs(points) ** 2, points.real, points.imag, np.ones(points.shape)])
    x, y, denominator = np.tensordot(polynomials, basis, axes=1)
    return np.asarray((x + 1j * y) / denominator)


def is_affine(polynomials: Floats) -> NDArray[np.bool_]:
    """Returns which of `(B, 3, 4)` maps have no Möbius part, exactly."""
    return np.asarray(
        (polynomials[:, 2, :3] == 0).all(axis=-1) & (polynomials[:, :2, 0] == 0).all(axis=-1)
    )


def pixel_polynomials(polynomials: Floats, height: int, width: int) -> Floats:
    """Returns the same maps with x and y in the source's pixels, the first pixel's center at 0."""
    pixels = polynomials.copy()
    for row, length in ((0, width), (1, height)):
        pixels[..., row, :] *= length / 2
        pixels[..., row, :] += (length / 2 - 0.5) * polynomials[..., 2, :]
    return pixels


def affine_matrices(pixels: Floats, size: int) -> Floats:
    """Returns `(B, 2, 3)` matrices from output to source pixels, for maps that `is_affine`."""
    step, start = 2 / size, 1 / size - 1
    linear = pixels[:, :2, 1:3] * step
    offset = pixels[:, :2, 3] + start * (pixels[:, :2, 1] + pixels[:, :2, 2])
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def margins(pixels: Floats, height: int, width: int) -> NDArray[np.int64]:
    """Returns how many pixels each map reaches beyond the source: left, top, right, bottom.

    A map is one to one, so the picture of the output's outline is the outline of its picture. It
    is followed at 64 points and two pixels are added, more than it bulges between them.

    Args:
        pixels: `(B, 3, 4)` of `pixel_polynomials`.
        height: Of the source, in pixels.
        width: Of the source, in pixels.

    Returns:
        `(B, 4)` int64, 0 where a side is not crossed.
    """
    along, one = np.linspace(-1, 1, 16), np.ones(16)
    u = np.concatenate([along, along, -one, one])
    v = np.concatenate([-one, one, along, along])
    x, y, denominator = np.moveaxis(pixels @ np.stack([u**2 + v**2, u, v, np.ones(64)]), 1, 0)
    x, y = x / denominator, y / denominator  # (B, 64)
    beyond = np.stack(
        [-x.min(1), -y.min(1), x.max(1) - (width - 1), y.max(1) - (height - 1)], axis=1
    )
    return np.where(beyond > 0, np.ceil(beyond) + 2, 0).astype(np.int64)


class PixelMaps:
    """Buffers for `cv2.remap` maps of one size, one instance per thread.

    Args:
        height: Of the output, in pixels.
        width: Of the output, in pixels; the longer side lies at ±1.
    """

    def __init__(self, height: int, width: int) -> None:
        half = max(height, width) / 2
        across, down = ((np.arange(n) + 0.5 - n / 2) / half for n in (width, height))
        self._across, self._down = np.stack([across**2, across]), np.stack([down**2, down])
        self.x, self.y, self._scale = (np.empty((height, width), np.float32) for _ in range(3))

    def fill(self, pixels: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the x and y maps, valid until the next call.

        Args:
            pixels: `(3, 4)`, one row of `pixel_polynomials`.
        """
        # The constant goes with the column so that an unturned row adds exactly 0.
        columns = (pixels[:, :2] @ self._across + pixels[:, 3:]).astype(np.float32)
        rows = (pixels[:, 0::2] @ self._down).astype(np.float32)[:, :, None]
        np.add(rows[2], columns[2], out=self._scale)
        np.reciprocal(self._scale, out=self._scale)
        for row, target in ((0, self.x), (1, self.y)):
            np.add(rows[row], columns[row], out=target)
            np.multiply(target, self._scale, out=target)
        return self.x, self.y


def sampling_grid(polynomials: Tensor, size: int) -> Tensor:
    """Returns `(B, size, size, 2)` for `grid_sample(align_corners=False)`, on the input's device.

    float32 throughout: bfloat16 keeps 8 bits, steps of 0.4 pixels near the border at 224.

    Args:
        polynomials: `(B, 3, 4)` float32.
        size: Side of the output in pixels.
    """
    axis = (2 * torch.arange(size, device=polynomials.device, dtype=torch.float32) + 1) / size - 1
    square, line, row, constant = (part[..., None] for part in polynomials.unbind(-1))  # (B, 3, 1)
    columns = (square * axis**2 + line * axis + constant)[:, :, None, :]  # (B, 3, 1, W)
    rows = (square * axis**2 + row * axis)[:, :, :, None]  # (B, 3, H, 1)
    values = columns + rows
    return torch.stack([values[:, 0] / values[:, 2], values[:, 1] / values[:, 2]], dim=-1)


def blur_levels(polynomials: Floats, height: int, width: int, size: int) -> NDArray[np.int64]:
    """Returns the blur level of each photo against aliasing.

    Bilinear sampling sees 2 x 2 pixels: where one output pixel covers more, fine patterns alias.
    Level n is a tent filter with a half width of 2^n pixels. It depends on the reduction at the
    center, sqrt(|det J|): 0 up to a factor of 1.68, 1 up to 3.36.

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
    """Returns one `(H, W, C)` photo blurred at a level."""
    if level == 1:
        # The same three weights, in half the time.
        smooth: Any = cv2.GaussianBlur(image, (3, 3), 0, borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth, dtype=np.uint8)
    weights = tent(level)
    blurred: Any = cv2.sepFilter2D(image, -1, weights, weights, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.uint8)


def blur_batch(images: Tensor, level: int) -> Tensor:
    """Returns `(B, C, H, W)` float photos blurred at a level."""
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

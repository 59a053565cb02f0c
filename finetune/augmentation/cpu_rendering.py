"""Augmentation of single photos on the CPU by OpenCV.

Measured on 224 pixels: `grid_sample` on the CPU takes 17 ms for 16 photos on one core, `cv2.remap`
2.3 ms; `remap` of four channels takes half the time of three.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.augmentation import warp
from finetune.augmentation.sampling import Frame, SampledParams
from finetune.augmentation.warp import blur_levels, blur_photo

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

_scratch = threading.local()


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Sampled parameters as pixel maps; arrays of B rows."""

    pixels: Floats  # (B, 3, 4), maps to the source's pixels
    matrices: Floats  # (B, 2, 3), the same as matrices where is_affine
    is_affine: NDArray[np.bool_]
    boxes: NDArray[np.int64]  # (B, 4), left, top, right, bottom where is_box
    is_box: NDArray[np.bool_]
    margins: NDArray[np.int64]  # (B, 4), left, top, right, bottom, pixels beyond the source
    blur: NDArray[np.int64]
    color: Floats  # (B, 3, 4), pixels in 0..255
    params: SampledParams
    size: int


def prepare(params: SampledParams, frame: Frame) -> Rendering:
    """Returns the maps in pixels, and which photos allow a faster path."""
    polynomials = warp.rational(params.mobius, params.affine)
    pixels = warp.pixel_polynomials(polynomials, frame.height, frame.width)
    matrices, affine = warp.affine_matrices(pixels, frame.size), warp.is_affine(polynomials)
    boxes, aligned = _boxes(matrices, frame)
    return Rendering(
        pixels=pixels,
        matrices=matrices,
        is_affine=affine,
        boxes=boxes,
        is_box=affine & aligned,
        margins=warp.margins(pixels, frame.height, frame.width),
        blur=blur_levels(polynomials, frame.height, frame.width, frame.size),
        color=params.color * [1, 1, 1, 255],
        params=params,
        size=frame.size,
    )


def render(image: Pixels, rendering: Rendering, row: int) -> Pixels:
    """Returns one photo warped and colored, before erasing.

    Args:
        image: `(H, W, 3)` uint8.
        rendering: Of the batch.
        row: Index of the photo in the batch.

    Returns:
        `(size, size, 3)` uint8; a view of the input if it is only cropped.
    """
    if rendering.blur[row]:
        image = blur_photo(np.ascontiguousarray(image), int(rendering.blur[row]))
    warped = _cut(image, rendering, row) if rendering.is_box[row] else _warp(image, rendering, row)
    if rendering.params.is_colored[row]:
        warped = _pixels(cv2.transform(np.ascontiguousarray(warped), rendering.color[row]))
    return warped


def _cut(image: Pixels, rendering: Rendering, row: int) -> Pixels:
    """Returns an upright crop of whole pixels: resizing takes two thirds of a warp's time."""
    left, top, right, bottom = rendering.boxes[row]
    size, part = rendering.size, image[top:bottom, left:right]
    if part.shape[:2] != (size, size):
        part = _pixels(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR))
    mirror_x, mirror_y = rendering.matrices[row, 0, 0] < 0, rendering.matrices[row, 1, 1] < 0
    if mirror_x or mirror_y:
        part = _pixels(cv2.flip(part, -1 if mirror_x and mirror_y else int(mirror_x)))
    return part


def _warp(image: Pixels, rendering: Rendering, row: int) -> Pixels:
    size, border = (rendering.size, rendering.size), cv2.BORDER_REFLECT
    four = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2RGBA)
    matrix, pixels = rendering.matrices[row], rendering.pixels[row]
    left, top, right, bottom = margins = rendering.margins[row].tolist()
    # OpenCV reflects pixel by pixel: a photo that is mostly border takes 0.57 ms, and 0.18 ms
    # with a border added before. More than one reflection is left to OpenCV.
    if any(margins) and max(margins) <= min(image.shape[:2]):
        four = cv2.copyMakeBorder(four, top, bottom, left, right, border)
        shift = np.array([[left], [top]])
        matrix = np.concatenate([matrix[:, :2], matrix[:, 2:] + shift], axis=1)
        pixels = np.concatenate([pixels[:2] + shift * pixels[2], pixels[2:]])
    if rendering.is_affine[row]:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        four = cv2.warpAffine(four, matrix, size, flags=flags, borderMode=border)
    else:
        x, y = _maps(rendering.size).fill(pixels)
        four = cv2.remap(four, x, y, cv2.INTER_LINEAR, borderMode=border)
    return _pixels(cv2.cvtColor(four, cv2.COLOR_RGBA2RGB))


def _boxes(matrices: Floats, frame: Frame) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns the box of each map, and which maps are upright crops of whole pixels."""
    diagonal = matrices[:, [0, 1], [0, 1]]  # (B, 2)
    # The outer edges of the first and the last pixel, with the first pixel's edge at 0.
    ends = matrices[:, :, 2] + 0.5 + diagonal * np.array([-0.5, frame.size - 0.5])[:, None, None]
    edges = np.concatenate([ends.min(axis=0), ends.max(axis=0)], axis=1)
    boxes = np.rint(edges)
    inside = (boxes >= 0) & (boxes <= [frame.width, frame.height, frame.width, frame.height])
    upright = np.abs(matrices[:, [0, 1], [1, 0]]).max(axis=1) < 1e-9
    aligned = (np.abs(edges - boxes) < 1e-6).all(axis=1) & inside.all(axis=1) & upright
    return boxes.astype(np.int64), aligned


def _pixels(image: object) -> Pixels:
    """Types a result of OpenCV, whose stubs are imprecise."""
    return np.asarray(image, dtype=np.uint8)


def _maps(size: int) -> warp.PixelMaps:
    """Returns this thread's scratch arrays; allocating them costs as much as filling them."""
    kept: dict[int, warp.PixelMaps] = _scratch.__dict__.setdefault("maps", {})
    if size not in kept:
        kept[size] = warp.PixelMaps(size, size)
    return kept[size]

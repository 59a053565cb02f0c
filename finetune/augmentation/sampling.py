"""Sampled augmentation parameters: one map and one color matrix per photo of a batch.

`sample_params` is a pure function of (recipe, seed, epoch, indices) and reads no pixel. Its result
can be inspected, saved, and replayed on any device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.augmentation import mobius
from finetune.augmentation.recipes import Recipe

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# The order is part of every seed's meaning: append, never insert.
_PURPOSES = (
    "crop", "crop_area", "crop_ratio", "crop_x", "crop_y",
    "flip", "vertical_flip", "rotation", "zoom",
    "mobius", "mobius_0", "mobius_1", "mobius_2", "mobius_3", "mobius_4", "mobius_5",
    "color", "brightness", "contrast", "saturation", "hue", "gray",
    "erase", "erase_area", "erase_ratio", "erase_x", "erase_y",
    "shift_x", "shift_y",
)  # fmt: skip

_LUMA = np.array([0.299, 0.587, 0.114])
# Rows: luma, and two axes of chroma at right angles (NTSC's YIQ), in which hue is an angle.
_TO_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Input and output sizes: working photos of height x width, squares of size.

    Attributes:
        region: Side of the center crop in the working photos' pixels; None: `size`, so that the
            crop's pixels are the photo's own.
    """

    height: int
    width: int
    size: int
    region: int | None = None


@dataclass(frozen=True, kw_only=True)
class SampledParams:
    """Sampled augmentation parameters of B photos; every array has B rows.

    Attributes:
        mobius: `(B, 2, 2)` complex128, from the output's square [-1, 1]² to the crop's.
        affine: `(B, 2, 3)` float64, from the crop's square to the photo's, [-1, 1]² being all of
            it. The output's pixel at w shows the photo at `affine @ (mobius(w), 1)`.
        color: `(B, 3, 4)` float64, new RGB = `color @ (R, G, B, 1)`, pixels in 0..1.
        erase: `(B, 4)` int64, top, left, bottom, right of the erased pixels; empty: all zero.
        is_warped: `(B,)` bool, whether `mobius` was sampled.
        is_colored: `(B,)` bool, whether `color` is not the identity.
    """

    mobius: mobius.Complex
    affine: Floats
    color: Floats
    erase: NDArray[np.int64]
    is_warped: Bools
    is_colored: Bools

    def __len__(self) -> int:
        return len(self.affine)


def sample_params(
    recipe: Recipe, frame: Frame, *, seed: int, epoch: int, indices: ArrayLike
) -> SampledParams:
    """Returns sampled parameters of photos in an epoch.

    Args:
        recipe: Probabilities and strengths.
        frame: Input and output sizes.
        seed: Of the run.
        epoch: Counted from 0.
        indices: `(B,)` ints, positions in the dataset; row i depends on indices[i] alone.
    """
    numbers = uniforms(seed, epoch, indices, len(_PURPOSES))
    u = dict(zip(_PURPOSES, numbers.T, strict=True))
    warped = u["mobius"] < recipe.mobius_probability
    maps = np.tile(mobius.IDENTITY, (len(numbers), 1, 1))
    if warped.any():
        columns = np.stack([u[f"mobius_{column}"] for column in range(6)], axis=-1)
        drawn = mobius.admissible(
            columns[warped],
            bound=recipe.mobius_bound,
            max_rotation_degrees=recipe.mobius_rotation_degrees,
            max_shift=recipe.mobius_shift,
        )
        maps[warped] = drawn
    centered = warped & (recipe.mobius_mode == "replace")
    colored, color = _colors(recipe, u)
    return SampledParams(
        mobius=maps,
        affine=_affines(recipe, frame, u, centered),
        color=color,
        erase=_erased(recipe, frame.size, u),
        is_warped=warped,
        is_colored=colored,
    )


def center_params(frame: Frame, count: int = 1) -> SampledParams:
    """Returns parameters of the center crop for `count` photos."""
    return SampledParams(
        mobius=np.tile(mobius.IDENTITY, (count, 1, 1)),
        affine=np.tile(_center_affine(frame), (count, 1, 1)),
        color=np.tile(np.eye(3, 4), (count, 1, 1)),
        erase=np.zeros((count, 4), np.int64),
        is_warped=np.zeros(count, bool),
        is_colored=np.zeros(count, bool),
    )


def with_maps(params: SampledParams, maps: mobius.Complex) -> SampledParams:
    """Returns the parameters with other `(B, 2, 2)` Möbius maps."""
    return replace(params, mobius=maps, is_warped=np.ones(len(params), bool))


def _center_affine(frame: Frame) -> Floats:
    """Returns the affine map of the center crop, unscaled if the photo is large enough."""
    affine = np.zeros((2, 3))
    for axis, length in ((0, frame.width), (1, frame.height)):
        side = min(frame.region or frame.size, length)
        affine[axis, axis] = side / length
        # An odd margin is not halved: the crop starts at a whole pixel.
        affine[axis, 2] = ((length - side) // 2 * 2 + side) / length - 1
    return affine


def _affines(recipe: Recipe, frame: Frame, u: dict[str, Floats], centered: Bools) -> Floats:
    """`(B, 2, 3)`: mirror, zoom, crop, move, turn; `centered` rows get the center crop."""
    cropped = u["crop"] < recipe.crop_probability
    area = recipe.crop_area_min + (recipe.crop_area_max - recipe.crop_area_min) * u["crop_area"]
    ratio = recipe.crop_ratio_max ** (2 * u["crop_ratio"] - 1)
    pixels = area * frame.height * frame.width
    base = _center_affine(frame)
    width, x = _span(np.sqrt(pixels * ratio), frame.width, u["crop_x"])
    height, y = _span(np.sqrt(pixels / ratio), frame.height, u["crop_y"])
    width, x = np.where(cropped, (width, x), base[0, 0::2][:, None])
    height, y = np.where(cropped, (height, y), base[1, 1:][:, None])
    x = x + _shift(recipe, frame.width, u["shift_x"])
    y = y + _shift(recipe, frame.height, u["shift_y"])

    zoom = recipe.zoom ** (2 * u["zoom"] - 1)
    mirror = np.where(u["flip"] < recipe.flip_probability, -1.0, 1.0)
    mirror_y = np.where(u["vertical_flip"] < recipe.vertical_flip_probability, -1.0, 1.0)
    angle = np.radians(recipe.rotation_degrees) * (2 * u["rotation"] - 1)
    aspect = frame.width / frame.height
    affine = np.empty((len(zoom), 2, 3))
    affine[:, 0, 0] = np.cos(angle) * width * zoom * mirror
    affine[:, 0, 1] = -np.sin(angle) * height * zoom * mirror_y / aspect
    affine[:, 1, 0] = np.sin(angle) * width * zoom * mirror * aspect
    affine[:, 1, 1] = np.cos(angle) * height * zoom * mirror_y
    affine[:, 0, 2], affine[:, 1, 2] = x, y
    affine[centered] = base
    return affine


def _span(side: Floats, length: int, place: Floats) -> tuple[Floats, Floats]:
    """Returns length and center, in [-1, 1], of spans of whole pixels, which need no warp."""
    pixels = np.clip(np.rint(side), 1, length)
    start = np.floor(place * (length - pixels + 1))
    return pixels / length, (2 * start + pixels) / length - 1


def _shift(recipe: Recipe, length: int, place: Floats) -> Floats:
    """Returns a uniform shift by whole pixels, as a share of half the photo."""
    reach = int(recipe.shift_pixels)
    return 2 * (np.floor(place * (2 * reach + 1)) - reach) / length


def _colors(recipe: Recipe, u: dict[str, Floats]) -> tuple[Bools, Floats]:
    """Returns brightness, contrast, saturation and hue, in this order, as one matrix per photo."""
    jittered = u["color"] < recipe.color_probability
    gray = u["gray"] < recipe.gray_probability

    def factor(name: str) -> Floats:
        return np.where(jittered, 1 + getattr(recipe, name) * (2 * u[name] - 1), 1.0)

    saturation = np.where(gray, 0.0, factor("saturation"))
    turn = np.where(jittered, 2 * np.pi * recipe.hue * (2 * u["hue"] - 1), 0.0)
    chroma = np.zeros((len(turn), 3, 3))
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = np.cos(turn) * saturation
    chroma[:, 2, 1] = np.sin(turn) * saturation
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    contrast = factor("contrast")
    color = np.empty((len(turn), 3, 4))
    color[:, :, :3] = (
        _FROM_YIQ @ chroma @ _TO_YIQ * (contrast * factor("brightness"))[:, None, None]
    )
    # Contrast is about mid-gray: the photo's mean would need a pass over its pixels. Gray has no
    # chroma, so the offset passes the chroma matrix unchanged.
    color[:, :, 3] = (0.5 * (1 - contrast))[:, None]
    strengths = (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    colored = (jittered & any(strengths)) | gray
    # The inverse of YIQ leaves 1e-17 where a whole identity belongs.
    color[~colored] = np.eye(3, 4)
    return colored, color


def _erased(recipe: Recipe, size: int, u: dict[str, Floats]) -> NDArray[np.int64]:
    erased = u["erase"] < recipe.erase_probability
    area = recipe.erase_area_min + (recipe.erase_area_max - recipe.erase_area_min) * u["erase_area"]
    ratio = recipe.erase_ratio_max ** (2 * u["erase_ratio"] - 1)
    width = np.clip(np.rint(size * np.sqrt(area * ratio)), 1, size)
    height = np.clip(np.rint(size * np.sqrt(area / ratio)), 1, size)
    left = np.floor(u["erase_x"] * (size - width + 1))
    top = np.floor(u["erase_y"] * (size - height + 1))
    box = np.stack([top, left, top + height, left + width], axis=-1)
    return np.where(erased[:, None], box, 0).astype(np.int64)


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns SplitMix64's output for each state: the next number of the stream at that state."""
    with np.errstate(over="ignore"):
        mixed = state + _GOLDEN
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def uniforms(seed: int, epoch: int, indices: ArrayLike, count: int) -> NDArray[np.float64]:
    """Returns numbers in the open interval (0, 1), one row a photo.

    Args:
        seed: Of the run, any int.
        epoch: Counted from 0.
        indices: `(B,)` ints, positions in the dataset.
        count: Numbers per photo.

    Returns:
        `(B, count)` float64. Row i depends on (seed, epoch, indices[i]) alone, and its first
        columns do not depend on `count`.

    Example:
        >>> one = uniforms(0, 3, [7], 4)
        >>> many = uniforms(0, 3, [2, 7, 9], 4)
        >>> bool((one[0] == many[1]).all())
        True
    """
    key = splitmix64(_words(seed))
    key = splitmix64(key ^ _words(epoch))
    key = splitmix64(key ^ _words(indices))
    with np.errstate(over="ignore"):
        bits = splitmix64(key[:, None] + np.arange(count, dtype=np.uint64) * _GOLDEN)
    # 53 bits, moved by half a step so that neither 0 nor 1 can come out.
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _words(values: ArrayLike) -> NDArray[np.uint64]:
    return np.atleast_1d(np.asarray(values, dtype=np.int64)).view(np.uint64)

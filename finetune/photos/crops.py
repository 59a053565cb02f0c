"""Crops, and the square network input of photos of any shape, resampled once.

Training, prediction, serving and export all use `load_image`, so that their pixels are the same.

Coordinates are continuous: pixel ``i`` of an axis covers ``[i, i + 1)``, the photo ``[0, width]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.config import Fit
from finetune.errors import ConfigError, PhotoError
from finetune.malloc import release_memory
from finetune.photos.decode.decoder import RELEASED_BYTES, decode_photo

PADDING = (124, 116, 104)
"""Color around a padded photo: ImageNet's mean, which normalization turns into about zero."""

DRAFT_MARGIN = 2
"""Minimum ratio of the decoded size to the needed size.

JPEG's scaled decoding is a box filter. At twice the needed size the subsequent resize still
determines the sharpness of the result.
"""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; may reach beyond the photo."""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Square box around the subject, relative to the photo, so that it fits any size of it.

    Attributes:
        center_x: Center of the crop as a share of the photo's width, in [0, 1].
        center_y: Center of the crop as a share of the photo's height, in [0, 1].
        side: Side of the crop as a share of the photo's shorter side, above 0. At 1 and centered
            it is the largest crop inside; where it reaches beyond the photo it is padded.

    Raises:
        PhotoError: A value is not a number within these bounds.

    Example:
        >>> Crop(center_x=0.5, center_y=0.5, side=1).box(400, 300)
        (50.0, 0.0, 350.0, 300.0)
    """

    center_x: float = 0.5
    center_y: float = 0.5
    side: float = 1.0

    def __post_init__(self) -> None:
        for name in ("center_x", "center_y", "side"):
            value = getattr(self, name)
            # bool is an int, and NaN fails every comparison.
            number = isinstance(value, int | float) and not isinstance(value, bool)
            lowest, highest = (0.0, 1.0) if name != "side" else (0.001, 100.0)
            if not number or not lowest <= value <= highest:
                raise PhotoError(
                    f"A crop's {name} is {value!r}; it must be a number "
                    f"from {lowest:g} to {highest:g}."
                )
            object.__setattr__(self, name, float(value))

    def box(self, width: int, height: int) -> Box:
        """Returns the crop's box in pixels of a photo of this size."""
        half = self.side * min(width, height) / 2
        x, y = self.center_x * width, self.center_y * height
        return x - half, y - half, x + half, y + half

    def inside(self, width: int, height: int) -> Crop:
        """Returns the nearest crop that lies entirely inside a photo of this size."""
        side = min(self.side, 1.0)
        half = side * min(width, height) / 2
        x = min(max(self.center_x * width, half), width - half)
        y = min(max(self.center_y * height, half), height - half)
        return Crop(center_x=x / width, center_y=y / height, side=side)

    def to_dict(self) -> dict[str, float]:
        """Returns the crop as a JSON object; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_box(cls, box: Box, width: int, height: int) -> Crop:
        """Returns the smallest square crop that holds a box of pixels, around its center."""
        left, top, right, bottom = box
        return cls(
            center_x=min(max((left + right) / 2 / width, 0.0), 1.0),
            center_y=min(max((top + bottom) / 2 / height, 0.0), 1.0),
            side=max(right - left, bottom - top) / min(width, height),
        )

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Crop:
        """Returns the crop in a JSON object.

        Raises:
            PhotoError: A key is missing or unknown, or a value out of bounds.
        """
        if set(value) != {"center_x", "center_y", "side"}:
            raise PhotoError(
                f"A crop has the keys {', '.join(sorted(map(str, value))) or 'none'}; "
                "it needs exactly center_x, center_y and side."
            )
        return cls(**value)


def crop_and_resize(
    image: NDArray[np.uint8],
    *,
    size: int,
    fit: Fit = "crop",
    crop: Crop | None = None,
    interpolation: str = "bicubic",
) -> NDArray[np.uint8]:
    """Returns a photo cropped and resized to a square image, antialiased, in one resample.

    Args:
        image: ``(H, W, 3) uint8`` RGB, upright.
        size: Side of the result in pixels.
        fit: Without a crop: ``crop`` takes the largest centered square, ``pad`` keeps the full
            photo between bars of `PADDING`, ``squash`` stretches it.
        crop: Crop to use in place of `fit`.
        interpolation: ``bicubic``, ``bilinear``, ``lanczos``, ``hamming``, ``box`` or ``nearest``.

    Returns:
        ``(size, size, 3) uint8`` RGB, the same bytes for the same input on every machine.

    Raises:
        ConfigError: An unknown `fit` or `interpolation`, or a `size` below 1.
    """
    resample = _resampling(interpolation)
    height, width = image.shape[:2]
    left, top, right, bottom = _source_box(width, height, fit, crop)
    if size < 1:
        raise ConfigError(f"--size {size} must be at least 1.")
    columns, source_x = _covered(left, right, width, size)
    rows, source_y = _covered(top, bottom, height, size)
    part = Image.fromarray(np.ascontiguousarray(image)).resize(
        (columns[1] - columns[0], rows[1] - rows[0]),
        resample,
        box=(source_x[0], source_y[0], source_x[1], source_y[1]),
    )
    if 4 * height * width > RELEASED_BYTES:
        release_memory()  # Pillow's copy
    if part.size == (size, size):
        return np.array(part)
    result = np.empty((size, size, 3), dtype=np.uint8)
    result[:] = PADDING
    result[rows[0] : rows[1], columns[0] : columns[1]] = np.asarray(part)
    return result


def load_image(
    source: Path | bytes,
    *,
    size: int,
    fit: Fit = "crop",
    crop: Crop | None = None,
    interpolation: str = "bicubic",
) -> NDArray[np.uint8]:
    """Returns a photo file decoded no larger than needed, then cropped and resized.

    Args:
        source: A file, or its bytes.
        size: Side of the result in pixels.
        fit: As in `crop_and_resize`.
        crop: As in `crop_and_resize`.
        interpolation: As in `crop_and_resize`.

    Returns:
        ``(size, size, 3) uint8`` RGB, upright.

    Raises:
        DecodeError: The photo cannot be opened.
        ConfigError: As in `crop_and_resize`.
    """
    _resampling(interpolation)
    image = decode_photo(source, min_side_pixels=needed_side(size, crop))
    return crop_and_resize(image, size=size, fit=fit, crop=crop, interpolation=interpolation)


def needed_side(size: int, crop: Crop | None = None, *, margin: float = DRAFT_MARGIN) -> int:
    """Returns how long a photo's shorter side must be decoded for an image of `size` pixels."""
    share = crop.side if crop is not None else 1.0
    return math.ceil(margin * size / share)


def _resampling(interpolation: str) -> Image.Resampling:
    try:
        return _RESAMPLING[interpolation]
    except KeyError:
        raise ConfigError(
            f"interpolation {interpolation!r} is not one of {', '.join(_RESAMPLING)}."
        ) from None


def _source_box(width: int, height: int, fit: Fit, crop: Crop | None) -> Box:
    """Returns the part of the photo to show; it reaches beyond the photo where it is padded."""
    if crop is not None:
        return crop.box(width, height)
    match fit:
        case "crop":
            side = min(width, height)
        case "pad":
            side = max(width, height)
        case "squash":
            return 0.0, 0.0, float(width), float(height)
        case _:
            raise ConfigError(f"--fit {fit} is not one of crop, pad, squash.")
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _covered(
    start: float, stop: float, length: int, size: int
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Returns the pixels of the result that lie on the photo, and what they show of it.

    One axis of a box from `start` to `stop` on a photo of `length` pixels, drawn on `size` pixels.
    A pixel at the photo's edge that the photo covers in part is left to the padding: that keeps
    every other pixel exactly where the box puts it.
    """
    scale = (stop - start) / size
    first = max(0, math.ceil(-start / scale - 1e-6))
    last = min(size, math.floor((length - start) / scale + 1e-6))
    if last <= first:
        # Thinner than a pixel of the result (a panorama), or all but outside: show one row of it.
        first = min(max(math.floor((length / 2 - start) / scale), 0), size - 1)
        last = first + 1
    low = min(max(start + first * scale, 0.0), float(length))
    high = min(max(start + last * scale, 0.0), float(length))
    if high - low < 1e-3:
        low, high = 0.0, float(length)
    return (first, last), (low, high)

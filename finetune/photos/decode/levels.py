"""Range of the stored values of photos with more than 8 bits a channel.

Files rarely say which values mean black and white. A camera of 12 bits writes 0 to 4095 into 16, a
program writes 0 to 255 into 32, floats reach a little above 1, a scanner stores white as zero:
scaled by the full range of their type, such photos are black. The range is found from the values,
of which one in `OUTLIERS` may lie beyond it, because sensors have dead pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDE_MODES = frozenset(("I", "F", "I;16", "I;16L", "I;16B", "I;16N"))
"""Pillow's modes of one channel of more than 8 bits."""

OUTLIERS = 2000
"""Of so many values, one may lie beyond the range; in a small photo one altogether."""

DEPTHS = (8, 10, 12, 14)
"""Bits of cameras that are stored in 16."""

FILLED = (257, 256, 64, 16, 4)
"""Divisors of all values that were shifted or multiplied to fill 16 bits."""

FEW_VALUES = 16
"""Number of different values below which a common divisor is a matter of chance."""

TOLERANCE = 1.1
"""Highest absolute value of floats whose range is -1 to 1, as resampling exceeds it."""

BRIGHTEST = 16.0
"""Highest value of floats whose white is 1; from here on, it is 255."""

_SAMPLE = 1 << 20
_STRIP_PIXELS = 1 << 20
_GDAL_NODATA, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 42113, 258, 262, 339


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Stored values that mean black and white.

    Attributes:
        inverted: Whether they are exchanged, as in files where white is zero.
        unsigned: Whether int32 values are uint32, which Pillow does not have.
        note: The range in words, where it is not that of the file's type.
    """

    black: float = 0.0
    white: float
    inverted: bool = False
    unsigned: bool = False
    note: str | None = None

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Returns the 8-bit levels of stored values; those that are no numbers are black."""
        scaled = _stored(values, self.unsigned)
        np.nan_to_num(scaled, copy=False, nan=self.black, posinf=self.white, neginf=self.black)
        scaled -= self.black
        scaled *= 255 / (self.white - self.black)
        levels = np.rint(np.clip(scaled, 0, 255, out=scaled)).astype(np.uint8)
        return 255 - levels if self.inverted else levels


def strips(image: Image.Image, pixels: int, *, step: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Yields the first row of each strip of an image, and the strip, of about so many pixels.

    Args:
        image: A loaded image.
        pixels: Of a strip.
        step: Number of rows of which each strip but the last has a multiple.
    """
    rows = max(1, pixels // max(1, image.width) // step) * step
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def find_levels(image: Image.Image) -> Levels:
    """Returns the levels of a loaded image of one of the `WIDE_MODES`."""
    tags = getattr(image, "tag_v2", {})
    depth = _depth(tags)
    unsigned = image.mode == "I" and depth == 32 and tags.get(_SAMPLE_FORMAT, (1,)) == (1,)
    if image.mode == "F":
        levels = _of_floats(_sample(image, tags))
    elif image.mode.startswith("I;16"):
        white = white_of_counts(_counts(image), depth)
        levels = Levels(white=white, note=None if white == 2**depth - 1 else _note(white, depth))
    elif image.format == "PPM":
        levels = Levels(white=65535.0)  # Pillow scales by the maximum in the header
    else:
        levels = _of_integers(_sample(image, tags, unsigned=unsigned), depth)
    return dataclasses.replace(levels, inverted=tags.get(_PHOTOMETRIC) == 0, unsigned=unsigned)


def restore_depth(image: Image.Image, low: Image.Image) -> str | None:
    """Scales an image in place whose channels have 16 bits, but hold values of fewer.

    Pillow keeps the high byte of 16 bits, of which a photo of 12 bits uses a sixteenth.

    Args:
        image: RGB or RGBA, of the high bytes.
        low: The same file read with the low bytes; RGBA of both bytes of gray and alpha is as well.

    Returns:
        The range in words; None where the image is left as it is.
    """
    bytes_of_gray = low.info.get("gray bytes", False)

    def values_of(top: int, strip: Image.Image) -> NDArray[np.int64]:
        other = np.asarray(low.crop((0, top, strip.width, top + strip.height))).astype(np.int64)
        if bytes_of_gray:
            gray = other[..., :1] << 8 | other[..., 1:2]
            return np.concatenate([gray, gray, gray, other[..., 2:3] << 8 | other[..., 3:]], -1)
        return np.asarray(strip).astype(np.int64) << 8 | other

    counts = np.zeros(65536, np.int64)
    highest_alpha = 0
    for top, strip in strips(image, _STRIP_PIXELS):
        values = values_of(top, strip)
        counts += np.bincount(values[..., :3].ravel(), minlength=65536)
        highest_alpha = max(highest_alpha, int(values[..., 3:].max(initial=0)))
    white = white_of_counts(counts, 16)
    if white == 65535:
        return None
    levels = Levels(white=white)
    for top, strip in strips(image, _STRIP_PIXELS):
        values = values_of(top, strip)
        scaled = levels.apply(values)
        if highest_alpha > white:
            scaled[..., 3:] = values[..., 3:] >> 8
        image.paste(Image.fromarray(scaled, image.mode), (0, top))
    return _note(white, 16)


def is_dim(image: Image.Image) -> bool:
    """Returns whether the colors of an 8-bit RGB or RGBA image use a quarter of the range or less.

    Example:
        >>> is_dim(Image.new("RGB", (9, 9), (15, 15, 15)))
        True
    """
    counts = np.array(image.histogram()[:768]).reshape(3, 256).sum(0)
    return 0 < _highest(counts) < 64 or int(counts[1:].sum()) == 0


def low_bytes_mode(rawmode: str) -> str | None:
    """Returns the raw mode in which Pillow reads the low bytes of 16-bit channels, or None.

    Example:
        >>> low_bytes_mode("RGB;16B")
        'RGB;16L'
    """
    if rawmode == "LA;16B":
        return "RGBA"
    name, _, order = rawmode.partition(";16")
    if name not in ("RGB", "RGBA", "RGBX") or order not in ("B", "L", "N"):
        return None
    is_big = order == "B" or (order == "N" and sys.byteorder == "big")
    return f"{name};16{'L' if is_big else 'B'}"


def white_of_counts(counts: NDArray[np.int64], depth: int) -> float:
    """Returns the white of unsigned values by their counts ``(65536,)``.

    Args:
        counts: Number of pixels of each value.
        depth: Bits that the file declares.

    Example:
        >>> counts = np.zeros(65536, np.int64)
        >>> counts[:3000] = 1
        >>> white_of_counts(counts, 16)
        4095.0
    """
    highest = _highest(counts)
    values = np.flatnonzero(counts[: highest + 1])
    filled = any(
        not (values % step).any() and (step > 255 or len(values) >= FEW_VALUES) for step in FILLED
    )
    if filled:
        return float(2**depth - 1)
    return next((2.0**bits - 1 for bits in DEPTHS if highest < 2**bits < 2**depth), 2.0**depth - 1)


def _highest(counts: NDArray[np.int64]) -> int:
    """Returns the value that all but outliers are below or equal to."""
    allowed = _allowed(int(counts.sum()))
    above = np.cumsum(counts[::-1])[::-1]  # number of values >= each
    return int(np.count_nonzero(above > allowed)) - 1 if above[0] > allowed else 0


def _allowed(values: int) -> int:
    return max(1, values // OUTLIERS) if values > FEW_VALUES else 0


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the lowest and highest values but for outliers."""
    values = np.sort(values)
    allowed = _allowed(len(values))
    return float(values[allowed]), float(values[-1 - allowed])


def _of_integers(values: NDArray[np.float64], bits: int) -> Levels:
    if not len(values):
        return Levels(white=65535.0)
    low, high = _range(values)
    if low < 0 and -low > high / 10:
        return _spanning(low, max(high, low + 255), bits)
    ranges = (*DEPTHS, 15, 16) if bits == 16 else (*DEPTHS, 16)
    white = next((2.0**depth - 1 for depth in ranges if high < 2**depth), high)
    return Levels(white=white, note=_note(white, bits))


def _of_floats(values: NDArray[np.float64]) -> Levels:
    if not len(values):
        return Levels(white=1.0)
    low, high = _range(values)
    if low < 0 and -low > high / 10:
        if low >= -TOLERANCE and high <= TOLERANCE:
            return _spanning(min(low, -1.0), max(high, 1.0))
        return _spanning(low, max(high, low + 1))
    whole = not np.any(values % 1)
    white = max(1.0 if high <= 1 or (high < BRIGHTEST and not whole) else 255.0, high)
    return Levels(white=white, note=None if white in (1.0, 255.0) else _note(white))


def _spanning(black: float, white: float, bits: int | None = None) -> Levels:
    return Levels(black=black, white=white, note=_note(white, bits, black))


def _note(white: float, bits: int | None = None, black: float = 0.0) -> str:
    stored = "floating point" if bits is None else f"{bits} bits"
    return f"values from {black:.5g} to {white:.5g} in {stored}"


def _depth(tags: Any) -> int:
    """Returns the bits of a value that a TIFF declares; 16 for other files."""
    declared = tags.get(_BITS_PER_SAMPLE)
    depth = declared[0] if isinstance(declared, tuple) and declared else declared
    return depth if isinstance(depth, int) and 8 < depth <= 32 else 16


def _counts(image: Image.Image) -> NDArray[np.int64]:
    counts = np.zeros(65536, np.int64)
    for _, strip in strips(image, _STRIP_PIXELS):
        counts += np.bincount(np.asarray(strip).ravel(), minlength=65536)
    return counts


def _stored(values: NDArray[Any], unsigned: bool) -> NDArray[np.float64]:
    return (values.view(np.uint32) if unsigned else values).astype(np.float64)


def _sample(image: Image.Image, tags: Any, *, unsigned: bool = False) -> NDArray[np.float64]:
    """Returns about a million values of an image, those of them that are numbers."""
    step = max(1, image.width * image.height // _SAMPLE) | 1
    parts = []
    for _, strip in strips(image, _STRIP_PIXELS):
        parts.append(_stored(np.asarray(strip).ravel()[::step].copy(), unsigned))
    values = np.concatenate(parts) if parts else np.empty(0)
    usable = np.abs(values) < 1e30  # NaN is not
    missing = tags.get(_GDAL_NODATA)
    if isinstance(missing, str):
        with contextlib.suppress(ValueError):
            usable &= values != float(missing.strip("\0 "))
    return values[usable]

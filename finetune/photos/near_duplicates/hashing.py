"""Perceptual hashes of photos: 64 bits that change little when a photo is resized or re-encoded.

The four hashes are those of the ``imagehash`` package at its default size, bit for bit the same on
the same small image, so that hashes made elsewhere are comparable:

- *average* (8 x 8 gray pixels above their mean),
- *perceptual* (the 8 x 8 lowest frequencies of a 32 x 32 DCT-II above their median; Zauner,
  "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010),
- *difference* (9 x 8 gray pixels brighter than their left neighbor),
- *wavelet* (8 x 8 approximation band of the Haar wavelet above its median).

Bits are read row by row, the first the most significant, as in ``str(imagehash.phash(image))``:
``f"{hashes.perceptual:016x}"`` is that string.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.photos.decode.decoder import decode_photo

HASH_SIDE_PIXELS = 128
"""Shorter side at which to decode a photo for hashing; larger images are averaged down to it."""

_HASH_SIZE = 8
_DCT_SIZE = 32

# Row k of an unnormalized DCT-II: 2 cos(pi k (2 n + 1) / (2 N)).
_DCT = 2 * np.cos(
    np.pi
    * np.arange(_HASH_SIZE)[:, None]
    * (2 * np.arange(_DCT_SIZE)[None, :] + 1)
    / (2 * _DCT_SIZE)
)


@dataclass(frozen=True, kw_only=True)
class PhotoHashes:
    """Four hashes of one image; each an unsigned 64-bit number.

    Attributes:
        perceptual: From the lowest frequencies; the best one for near-duplicates.
        average: From bright areas; the coarsest.
        difference: From horizontal gradients.
        wavelet: From bright areas of a Haar wavelet's approximation band.
    """

    perceptual: int
    average: int
    difference: int
    wavelet: int


def hash_image(image: NDArray[np.uint8]) -> PhotoHashes:
    """Returns the hashes of an image.

    Args:
        image: ``(H, W, 3)`` or ``(H, W) uint8``, upright. A shorter side of `HASH_SIDE_PIXELS` is
            enough; a larger image is first averaged down by an integer factor to no less.
    """
    return _hashes(_small_images(image))


def hash_with_mirror(image: NDArray[np.uint8]) -> tuple[PhotoHashes, PhotoHashes]:
    """Returns the hashes of an image and of its mirror image (left and right swapped)."""
    small = _small_images(image)
    # Resizing is symmetric, so the mirror image needs no second resize.
    return _hashes(small), _hashes([pixels[:, ::-1] for pixels in small])


def hash_photo(source: Path | bytes) -> PhotoHashes:
    """Returns the hashes of a photo file, decoded no larger than they need.

    Raises:
        DecodeError: The photo cannot be opened.
    """
    return hash_image(decode_photo(source, min_side_pixels=HASH_SIDE_PIXELS))


def _small_images(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Returns the gray images, one per hash, in the order of the fields of `PhotoHashes`."""
    reduced = Image.fromarray(np.ascontiguousarray(image))
    factor = min(reduced.size) // HASH_SIDE_PIXELS
    if factor > 1:
        # Four Lanczos resizes of a large image would take longer than everything else here.
        reduced = reduced.reduce(factor)
    gray = reduced.convert("L")
    wavelet_side = max(2 ** int(np.log2(min(gray.size))), _HASH_SIZE)
    sizes = (
        (_DCT_SIZE, _DCT_SIZE),
        (_HASH_SIZE, _HASH_SIZE),
        (_HASH_SIZE + 1, _HASH_SIZE),
        (wavelet_side, wavelet_side),
    )
    return [np.asarray(gray.resize(size, Image.Resampling.LANCZOS)) for size in sizes]


def _hashes(small: list[NDArray[np.uint8]]) -> PhotoHashes:
    for_perceptual, for_average, for_difference, for_wavelet = small
    return PhotoHashes(
        perceptual=_perceptual(for_perceptual),
        average=_pack(for_average > for_average.mean()),
        difference=_pack(for_difference[:, 1:] > for_difference[:, :-1]),
        wavelet=_wavelet(for_wavelet),
    )


def _perceptual(pixels: NDArray[np.uint8]) -> int:
    # Rounded, so that exact zeros (featureless or symmetric images) are not noise that differs
    # between linear algebra libraries.
    frequencies = np.round(_DCT @ pixels.astype(np.float64) @ _DCT.T, 6)
    return _pack(frequencies > _median(frequencies))


def _wavelet(pixels: NDArray[np.uint8]) -> int:
    block = len(pixels) // _HASH_SIZE
    # The approximation band of a Haar transform down to 8 x 8 is the sum of each block, up to a
    # factor; taking the mean out first, as imagehash does, shifts pixels and median equally.
    blocks = pixels.reshape(_HASH_SIZE, block, _HASH_SIZE, block)
    sums = blocks.sum(axis=3, dtype=np.uint16).sum(axis=1, dtype=np.float64)
    return _pack(sums > _median(sums))


def _median(values: NDArray[np.float64]) -> float:
    """Returns the median; for 64 values five times as fast as np.median."""
    middle = values.size // 2
    ordered = np.partition(values.ravel(), (middle - 1, middle))
    return float((ordered[middle - 1] + ordered[middle]) / 2)


def _pack(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")

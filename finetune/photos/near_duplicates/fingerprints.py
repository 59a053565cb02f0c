"""Fingerprints of photos: hashes, times and cameras as arrays over a collection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from finetune.photos.collection import Photo, hash_array

FEATURELESS_CONTRAST = 0.02
"""Below this contrast a photo is featureless: a standard deviation of 2.5 of 255 gray levels."""

FEATURELESS_TIES = 32
"""With more equal neighbors than this in the difference hash (of 64) a photo is featureless."""

FEATURELESS_FREQUENCIES = 24
"""With fewer bits set in its perceptual hash a photo is featureless: usually half of the 64
frequencies lie above their median, but in a featureless photo most are zero."""


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """Arrays of length N, one entry a photo.

    Attributes:
        content: Numbers that are equal for exact copies.
        perceptual: Perceptual hashes, ``uint64``.
        difference: Difference hashes, ``uint64``.
        mirrored_perceptual: Perceptual hashes of the mirror images.
        mirrored_difference: Difference hashes of the mirror images.
        featureless: Whether a photo shows too little for its hashes to be meaningful (black, sky, a
            gradient): their bits are rounding noise, or the same for all such photos.
        seconds: Time of exposure in seconds, NaN where unknown.
        camera: Numbers that are equal for the same camera; photos without one share a number.
    """

    content: NDArray[np.intp]
    perceptual: NDArray[np.uint64]
    difference: NDArray[np.uint64]
    mirrored_perceptual: NDArray[np.uint64]
    mirrored_difference: NDArray[np.uint64]
    featureless: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    camera: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.content)


def compute_fingerprints(photos: Sequence[Photo]) -> Fingerprints:
    """Returns the fingerprints of photos, in their order.

    A photo without hashes counts as featureless: it matches its exact copies only.
    """
    hashed = np.array([photo.packed_hashes is not None for photo in photos], dtype=bool)
    with_hashes = [photo for photo in photos if photo.packed_hashes is not None]

    def column(kind: str, *, mirrored: bool = False) -> NDArray[np.uint64]:
        values = np.zeros(len(photos), dtype=np.uint64)
        values[hashed] = hash_array(with_hashes, kind, mirrored=mirrored)
        return values

    perceptual = column("perceptual")
    difference = column("difference")
    mirrored_difference = column("difference", mirrored=True)
    contrast = np.array(
        [photo.quality.contrast if photo.quality is not None else 1.0 for photo in photos]
    )
    return Fingerprints(
        content=_numbers([photo.digest for photo in photos]),
        perceptual=perceptual,
        difference=difference,
        mirrored_perceptual=column("perceptual", mirrored=True),
        mirrored_difference=mirrored_difference,
        featureless=~hashed
        | (contrast < FEATURELESS_CONTRAST)
        | is_featureless(perceptual, difference, mirrored_difference),
        seconds=np.array([_seconds(photo.taken_at) for photo in photos], dtype=np.float64),
        camera=_numbers([photo.camera or "" for photo in photos]),
    )


def is_featureless(
    perceptual: NDArray[np.uint64],
    difference: NDArray[np.uint64],
    mirrored_difference: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """Returns which photos are featureless (see `Fingerprints`), from the hashes alone.

    A pixel that is brighter than its left neighbor sets a bit of the difference hash, one that is
    darker sets one in the mirror image's; a pixel that sets neither is a tie.
    """
    set_bits = np.bitwise_count(difference).astype(int) + np.bitwise_count(mirrored_difference)
    few: NDArray[np.bool_] = np.bitwise_count(perceptual) < FEATURELESS_FREQUENCIES
    return few | (64 - set_bits > FEATURELESS_TIES)


def _numbers(keys: Sequence[str]) -> NDArray[np.intp]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.intp)


def _seconds(taken_at: str | None) -> float:
    if taken_at is None:
        return math.nan
    try:
        taken = datetime.fromisoformat(taken_at)
    except ValueError:
        return math.nan
    # Local time without a zone: only differences matter, and any fixed origin gives them.
    return (taken.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds()

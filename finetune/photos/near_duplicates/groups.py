"""Groups of near-duplicate photos: the connected components of near-duplicate pairs.

A chain whose ends differ too much (A is near B, B near C, C near D ...) is split: a group with a
photo further than ``span_bits`` from the one with the most links is grouped again at 2 bits less,
and so on. The second hash and the rule for featureless photos (see
`finetune.photos.near_duplicates.pairs`) keep chance neighbors from linking two groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.photos.collection import Photo
from finetune.photos.near_duplicates.hamming import Indices, PairBlock
from finetune.photos.near_duplicates.pairs import (
    Fingerprints,
    NearDuplicateRule,
    are_near_duplicates,
    burst_pairs,
    compute_fingerprints,
    near_duplicate_blocks,
)


class Components:
    """Union-find over ``0 .. size - 1`` that processes arrays of pairs at once.

    The result does not depend on the order of the pairs.
    """

    def __init__(self, size: int) -> None:
        self._root: Indices = np.arange(size)

    def join(self, first: Indices, second: Indices) -> None:
        """Puts the two ends of each pair into one component."""
        while len(first):
            a, b = self._root[first], self._root[second]
            apart = a != b
            if not apart.any():
                return
            a, b = a[apart], b[apart]
            first, second = first[apart], second[apart]
            # Each larger root is attached to the smallest root paired with it; pairs that are
            # not yet joined are joined in the next round.
            np.minimum.at(self._root, np.maximum(a, b), np.minimum(a, b))
            self._flatten()

    def ids(self) -> Indices:
        """Returns for each index the smallest index of its component, ``(size,)``."""
        return self._root.copy()

    def _flatten(self) -> None:
        while True:
            above = self._root[self._root]
            if np.array_equal(above, self._root):
                return
            self._root = above


def component_members(ids: Indices) -> list[Indices]:
    """Returns the indices of each component of two or more, by ascending smallest index."""
    _, roots, counts = np.unique(ids, return_inverse=True, return_counts=True)
    together = np.flatnonzero(counts[roots] > 1)
    if not len(together):
        return []
    together = together[np.argsort(ids[together], kind="stable")]
    starts = np.flatnonzero(np.diff(ids[together])) + 1
    return np.split(together, starts)


def group_photos(prints: Fingerprints, rule: NearDuplicateRule | None = None) -> Indices:
    """Returns the group of each photo, ``(N,)``: the index of the first photo in it.

    Groups do not depend on the order of the photos.

    Raises:
        ConfigError: `rule.max_distance_bits` is out of bounds.
    """
    rule = rule or NearDuplicateRule()
    joined = Components(len(prints))
    # Exact copies first: one of each is enough for the comparisons that follow.
    _, first, inverse = np.unique(prints.content, return_index=True, return_inverse=True)
    joined.join(first[inverse], np.arange(len(prints)))
    distinct = first[~prints.featureless[first]]
    parts = list(_linked(prints, distinct, rule, rule.max_distance_bits))
    if parts:
        # In one call: each call to join passes over all photos.
        lengths = [len(part) for part in parts]
        joined.join(np.repeat([part[0] for part in parts], lengths), np.concatenate(parts))
    if rule.burst_seconds is not None:
        pairs = burst_pairs(prints, within_seconds=rule.burst_seconds, max_bits=rule.burst_bits)
        joined.join(pairs[:, 0], pairs[:, 1])
    return joined.ids()


def group_keys(ids: Indices, digests: Sequence[str]) -> list[str]:
    """Returns a key for each photo's group: the smallest digest in it.

    Keys depend neither on the order of the photos nor on their folders.
    """
    smallest: dict[int, str] = {}
    for group, digest in zip(ids.tolist(), digests, strict=True):
        smallest[group] = min(smallest.get(group, digest), digest)
    return [smallest[group] for group in ids.tolist()]


def _linked(
    prints: Fingerprints, chosen: Indices, rule: NearDuplicateRule, bits: int
) -> Iterator[Indices]:
    """Yields groups of two or more of the chosen photos, chains split."""
    joined = Components(len(chosen))
    links = np.zeros(len(chosen), dtype=np.int64)
    for first, second in _merged_blocks(near_duplicate_blocks(prints, chosen, bits)):
        joined.join(first, second)
        links += np.bincount(first, minlength=len(chosen))
        links += np.bincount(second, minlength=len(chosen))
    for positions in component_members(joined.ids()):
        part = chosen[positions]
        too_long = (
            bits > 0
            and len(part) > rule.chain_photos
            # Two linked photos differ by no more than `bits`.
            and (len(part) > 2 or bits > rule.span_bits)
            and _span(prints, part, links[positions]) > rule.span_bits
        )
        if too_long:
            yield from _linked(prints, part, rule, max(bits - 2, 0))
        else:
            yield part


def _merged_blocks(blocks: Iterator[PairBlock]) -> Iterator[tuple[Indices, Indices]]:
    """Yields the pairs in larger blocks: each join costs one pass over all photos."""
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
    """Returns the largest distance in bits from the photo of a group with the most links."""
    # Ties go to the smallest hash, so that the order of photos does not matter.
    center = prints.perceptual[part[np.lexsort((prints.perceptual[part], -links))[0]]]
    direct = np.bitwise_count(prints.perceptual[part] ^ center)
    mirrored = np.bitwise_count(prints.mirrored_perceptual[part] ^ center)
    return int(np.minimum(direct, mirrored).max())


Kind = Literal["name", "copy", "similar", "mirror", "burst"]
"""Relation to the best photo of the group: another name of its file, the same bytes, nearly the
same image, nearly its mirror image, or taken within seconds by the same camera."""


@dataclass(frozen=True, kw_only=True)
class GroupedPhoto:
    """Photo of a near-duplicate group.

    Attributes:
        kind: Relation to the best photo; None for the best photo itself.
        distance_bits: Bits between its perceptual hash, or its mirror image's if nearer, and the
            hash of the best photo; None without hashes.
        duplicate_of: The kept photo of which this one is a near-duplicate; None for a kept photo:
            the best, photos that match no kept one, and files with several names.
    """

    photo: Photo
    kind: Kind | None
    distance_bits: int | None
    duplicate_of: Photo | None


@dataclass(frozen=True, kw_only=True)
class NearDuplicateGroup:
    """Two or more photos that are near-duplicates.

    Attributes:
        photos: The best first.
    """

    photos: tuple[GroupedPhoto, ...]

    @property
    def best(self) -> Photo:
        """Photo with the most detail: sharp and large."""
        return self.photos[0].photo

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of all the photos, sorted."""
        return tuple(sorted({label for item in self.photos for label in item.photo.labels}))

    @property
    def contradicts(self) -> bool:
        """Whether the labels of its photos differ; photos without a label are ignored."""
        return len({item.photo.labels for item in self.photos if item.photo.labels}) > 1


def near_duplicate_groups(
    photos: Sequence[Photo],
    rule: NearDuplicateRule | None = None,
    *,
    other_names: Mapping[str, str] | None = None,
) -> tuple[NearDuplicateGroup, ...]:
    """Returns the groups of near-duplicates, largest first.

    Args:
        photos: Photos of a collection.
        rule: Limits of distance and time.
        other_names: As in `finetune.photos.collection.Collection`. Such a name and the file that it
            stands for are no duplicates of each other, and both are kept.

    Raises:
        ConfigError: `rule.max_distance_bits` is out of bounds.
    """
    rule = rule or NearDuplicateRule()
    prints = compute_fingerprints(photos)
    groups = [
        _group(photos, prints, part.tolist(), rule, other_names or {})
        for part in component_members(group_photos(prints, rule))
    ]
    return tuple(sorted(groups, key=lambda group: (-len(group.photos), group.best.path)))


def detail_score(photo: Photo) -> float:
    """Returns the detail of a photo: its sharpness times its shorter side in pixels.

    Sharpness is measured at one size for all photos, so a reduced copy is as sharp as its original
    and the side ranks them; among frames of a burst sharpness decides.
    """
    sharpness = photo.quality.sharpness if photo.quality is not None else 0.0
    return (0.01 + sharpness) * min(photo.width, photo.height)


def _group(
    photos: Sequence[Photo],
    prints: Fingerprints,
    part: list[int],
    rule: NearDuplicateRule,
    other_names: Mapping[str, str],
) -> NearDuplicateGroup:
    def rank(i: int) -> tuple[float, int, bool, str]:
        photo = photos[i]
        return -detail_score(photo), -photo.file_bytes, photo.path in other_names, photo.path

    ranked = sorted(part, key=rank)
    several_names = {*other_names, *other_names.values()}
    best = photos[ranked[0]].path
    bursts = _burst_partners(prints, ranked, rule)
    kept: list[int] = []
    rows = []
    for index in ranked:
        path = photos[index].path
        keeper = None
        if path not in several_names:
            keeper = next((k for k in kept if _is_match(prints, k, index, rule, bursts)), None)
        if keeper is None:
            kept.append(index)
        kind: Kind | None = None
        if index != ranked[0]:
            is_name = other_names.get(path, path) == other_names.get(best, best)
            kind = "name" if is_name else _kind(prints, ranked[0], index, rule)
        rows.append(
            GroupedPhoto(
                photo=photos[index],
                kind=kind,
                distance_bits=_distance(prints, ranked[0], index),
                duplicate_of=None if keeper is None else photos[keeper],
            )
        )
    return NearDuplicateGroup(photos=tuple(rows))


def _is_match(
    prints: Fingerprints,
    one: int,
    other: int,
    rule: NearDuplicateRule,
    bursts: set[tuple[int, int]],
) -> bool:
    if (one, other) in bursts or (other, one) in bursts:
        return True
    return bool(are_near_duplicates(prints, one, np.array([other]), rule.max_distance_bits)[0])


def _burst_partners(
    prints: Fingerprints, part: list[int], rule: NearDuplicateRule
) -> set[tuple[int, int]]:
    if rule.burst_seconds is None:
        return set()
    chosen = np.array(part)
    inside = Fingerprints(
        **{name: getattr(prints, name)[chosen] for name in Fingerprints.__dataclass_fields__}
    )
    pairs = burst_pairs(inside, within_seconds=rule.burst_seconds, max_bits=rule.burst_bits)
    return {(part[first], part[second]) for first, second in pairs.tolist()}


def _kind(prints: Fingerprints, best: int, index: int, rule: NearDuplicateRule) -> Kind:
    if prints.content[best] == prints.content[index]:
        return "copy"
    direct, mirrored = _distances(prints, best, index)
    if min(direct, mirrored) > rule.max_distance_bits and rule.burst_seconds is not None:
        return "burst"
    return "mirror" if mirrored < direct else "similar"


def _distance(prints: Fingerprints, best: int, index: int) -> int | None:
    if prints.content[best] == prints.content[index]:
        return 0
    if prints.featureless[best] or prints.featureless[index]:
        return None
    return min(_distances(prints, best, index))


def _distances(prints: Fingerprints, best: int, index: int) -> tuple[int, int]:
    own = prints.perceptual[best]
    return (
        int(np.bitwise_count(own ^ prints.perceptual[index])),
        int(np.bitwise_count(own ^ prints.mirrored_perceptual[index])),
    )

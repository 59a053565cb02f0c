"""Near-duplicate groups as shown to a person: the best photo first, with the kind of each match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from finetune.photos.collection import Photo
from finetune.photos.near_duplicates.fingerprints import Fingerprints, compute_fingerprints
from finetune.photos.near_duplicates.groups import component_members, group_photos
from finetune.photos.near_duplicates.pairs import (
    NearDuplicateRule,
    are_near_duplicates,
    burst_pairs,
)

Kind = Literal["copy", "similar", "mirror", "burst"]
"""Relation to the best photo of the group: the same bytes, nearly the same image, nearly its mirror
image, or taken within seconds by the same camera."""


@dataclass(frozen=True, kw_only=True)
class GroupedPhoto:
    """A photo of a near-duplicate group.

    Attributes:
        kind: Relation to the best photo; None for the best photo itself.
        distance_bits: Bits between its perceptual hash, or its mirror image's if nearer, and the
            hash of the best photo; None without hashes.
        duplicate_of: The kept photo of which this one is a near-duplicate; None for a kept photo:
            the best, and photos that match no kept one.
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
        """Whether the labels of its photos differ; photos without a label do not count."""
        return len({item.photo.labels for item in self.photos if item.photo.labels}) > 1


def near_duplicate_groups(
    photos: Sequence[Photo], rule: NearDuplicateRule | None = None
) -> tuple[NearDuplicateGroup, ...]:
    """Returns the groups of near-duplicates, largest first.

    Raises:
        ConfigError: `rule.max_distance_bits` is out of bounds.
    """
    rule = rule or NearDuplicateRule()
    prints = compute_fingerprints(photos)
    groups = [
        _group(photos, prints, part.tolist(), rule)
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
    photos: Sequence[Photo], prints: Fingerprints, part: list[int], rule: NearDuplicateRule
) -> NearDuplicateGroup:
    ranked = sorted(
        part, key=lambda i: (-detail_score(photos[i]), -photos[i].file_bytes, photos[i].path)
    )
    bursts = _burst_partners(prints, ranked, rule)
    kept: list[int] = []
    rows = []
    for index in ranked:
        keeper = next((k for k in kept if _is_match(prints, k, index, rule, bursts)), None)
        if keeper is None:
            kept.append(index)
        rows.append(
            GroupedPhoto(
                photo=photos[index],
                kind=None if index == ranked[0] else _kind(prints, ranked[0], index, rule),
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

"""Groups of nearly the same photos as a person wants to see them: the best first, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from finetune.photos.collection import Photo
from finetune.photos.near_duplicates.bursts import burst_pairs
from finetune.photos.near_duplicates.components import members
from finetune.photos.near_duplicates.fingerprints import Fingerprints, fingerprints
from finetune.photos.near_duplicates.groups import Alikeness, alike, group_photos

Kind = Literal["copy", "similar", "mirror", "burst"]
"""Why a photo is in a group, seen from the best one: the same bytes, nearly the same picture, the
same with left and right swapped, or shot within seconds by the same camera."""


@dataclass(frozen=True, kw_only=True)
class AlikePhoto:
    """A photo of a group.

    Attributes:
        photo: The photo.
        kind: What it is to the best photo; None for the best itself.
        distance_bits: Bits between its perceptual hash and the best one's, or between that and its
            mirror image's where this is less; None without hashes.
        duplicate_of: The photo of the group that makes this one dispensable; None when it is to be
            kept: the best of all, and what is like others of the group but not like any kept one.
    """

    photo: Photo
    kind: Kind | None
    distance_bits: int | None
    duplicate_of: Photo | None


@dataclass(frozen=True, kw_only=True)
class AlikeGroup:
    """Photos that are nearly the same, two or more.

    Attributes:
        photos: The best first.
    """

    photos: tuple[AlikePhoto, ...]

    @property
    def best(self) -> Photo:
        """The sharpest and largest photo."""
        return self.photos[0].photo

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that one of the photos has, sorted."""
        return tuple(sorted({label for item in self.photos for label in item.photo.labels}))

    @property
    def contradicts(self) -> bool:
        """Whether its photos do not all have the same labels; those without any do not count."""
        return len({item.photo.labels for item in self.photos if item.photo.labels}) > 1


def alike_groups(photos: Sequence[Photo], rule: Alikeness | None = None) -> tuple[AlikeGroup, ...]:
    """Returns the groups of nearly the same photos, those with most photos first.

    Raises:
        ConfigError: `rule.max_distance_bits` is out of bounds.
    """
    rule = rule or Alikeness()
    prints = fingerprints(photos)
    groups = [
        _group(photos, prints, part.tolist(), rule) for part in members(group_photos(prints, rule))
    ]
    return tuple(sorted(groups, key=lambda group: (-len(group.photos), group.best.path)))


def detail(photo: Photo) -> float:
    """Returns how much a photo shows: its sharpness times its shorter side in pixels.

    Sharpness is measured at one size for all photos, so that a shrunken copy is as sharp as its
    original; the side then tells them apart, while among frames of a burst sharpness decides.
    """
    sharpness = photo.quality.sharpness if photo.quality is not None else 0.0
    return (0.01 + sharpness) * min(photo.width, photo.height)


def _group(
    photos: Sequence[Photo], prints: Fingerprints, part: list[int], rule: Alikeness
) -> AlikeGroup:
    ranked = sorted(part, key=lambda i: (-detail(photos[i]), -photos[i].file_bytes, photos[i].path))
    bursts = _burst_partners(prints, ranked, rule)
    kept: list[int] = []
    rows = []
    for index in ranked:
        keeper = next((k for k in kept if _linked(prints, k, index, rule, bursts)), None)
        if keeper is None:
            kept.append(index)
        rows.append(
            AlikePhoto(
                photo=photos[index],
                kind=None if index == ranked[0] else _kind(prints, ranked[0], index, rule),
                distance_bits=_distance(prints, ranked[0], index),
                duplicate_of=None if keeper is None else photos[keeper],
            )
        )
    return AlikeGroup(photos=tuple(rows))


def _linked(
    prints: Fingerprints, one: int, other: int, rule: Alikeness, bursts: set[tuple[int, int]]
) -> bool:
    if (one, other) in bursts or (other, one) in bursts:
        return True
    return bool(alike(prints, one, np.array([other]), rule.max_distance_bits)[0])


def _burst_partners(prints: Fingerprints, part: list[int], rule: Alikeness) -> set[tuple[int, int]]:
    if rule.burst_seconds is None:
        return set()
    chosen = np.array(part)
    inside = Fingerprints(
        **{name: getattr(prints, name)[chosen] for name in Fingerprints.__dataclass_fields__}
    )
    pairs = burst_pairs(inside, within_seconds=rule.burst_seconds, max_bits=rule.burst_bits)
    return {(part[first], part[second]) for first, second in pairs.tolist()}


def _kind(prints: Fingerprints, best: int, index: int, rule: Alikeness) -> Kind:
    if prints.content[best] == prints.content[index]:
        return "copy"
    straight, turned = _distances(prints, best, index)
    if min(straight, turned) > rule.max_distance_bits and rule.burst_seconds is not None:
        return "burst"
    return "mirror" if turned < straight else "similar"


def _distance(prints: Fingerprints, best: int, index: int) -> int | None:
    if prints.content[best] == prints.content[index]:
        return 0
    if prints.plain[best] or prints.plain[index]:
        return None
    return min(_distances(prints, best, index))


def _distances(prints: Fingerprints, best: int, index: int) -> tuple[int, int]:
    own = prints.perceptual[best]
    return (
        int(np.bitwise_count(own ^ prints.perceptual[index])),
        int(np.bitwise_count(own ^ prints.mirrored_perceptual[index])),
    )

"""Groups of photos that must stay in the same part of a split."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.config import GroupBy
from finetune.errors import ConfigError
from finetune.photos.collection import Part, Photo
from finetune.photos.near_duplicates.groups import Components, group_keys, group_photos
from finetune.photos.near_duplicates.pairs import (
    BURST_SECONDS,
    SERIES_SECONDS,
    NearDuplicateRule,
    compute_fingerprints,
)

ALONE = "alone "
"""Prefix of an assigned group whose photos are near-duplicates of no others."""

_CHAIN_PHOTOS = 50
_CHAIN_SHARE = 20


def photo_groups(
    photos: Sequence[Photo],
    *,
    group_by: GroupBy = "duplicates",
    assigned: Mapping[str, str] | None = None,
) -> list[str]:
    """Returns a group key for each photo.

    Whatever `group_by` is, exact copies share a key, and so do photos that a person put in one
    group. A photo that a person took out of its group (`ALONE`) shares its key only with its
    copies.

    Args:
        photos: The photos of a collection.
        group_by: ``duplicates``: near-duplicates, mirror images and frames of a burst (one camera,
            two seconds, similar hashes). ``burst``: these, and all that one camera took with pauses
            of up to half a minute. ``folder``: all photos of a folder. ``none``: nothing more.
        assigned: Group names that a person assigned, by digest.

    Returns:
        Keys that stay the same from one run to the next: the smallest digest of each group.

    Raises:
        ConfigError: An unknown `group_by`.
    """
    joined = Components(len(photos))
    _join_equal(joined, [photo.digest for photo in photos])
    names = assigned or {}
    _join_equal(joined, [names.get(photo.digest) for photo in photos])
    match group_by:
        case "none":
            pass
        case "folder":
            _join_equal(joined, [photo.folder for photo in photos])
        case "duplicates" | "burst":
            compared = np.array(
                [
                    position
                    for position, photo in enumerate(photos)
                    if not names.get(photo.digest, "").startswith(ALONE)
                ],
                dtype=np.intp,
            )
            prints = compute_fingerprints([photos[position] for position in compared.tolist()])
            ids = group_photos(prints, split_rule(len(photos), group_by))
            joined.join(compared[ids], compared)
        case _:
            raise ConfigError(
                f"--group-by {group_by} is not one of duplicates, burst, folder, none."
            )
    return group_keys(joined.ids(), [photo.digest for photo in photos])


def split_rule(photos: int, group_by: GroupBy = "duplicates") -> NearDuplicateRule:
    """Returns the near-duplicate rule for splitting a collection of so many photos.

    Long chains of near-duplicates stay together, unless a chain is so long that it would dominate
    the split.
    """
    chain = max(_CHAIN_PHOTOS, photos // _CHAIN_SHARE)
    if group_by == "burst":
        return NearDuplicateRule(chain_photos=chain, burst_seconds=SERIES_SECONDS, burst_bits=64)
    return NearDuplicateRule(chain_photos=chain, burst_seconds=BURST_SECONDS)


def _join_equal(joined: Components, keys: Sequence[str | None]) -> None:
    first: dict[str, int] = {}
    pairs = [
        (first.setdefault(key, index), index) for index, key in enumerate(keys) if key is not None
    ]
    array = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    joined.join(array[:, 0], array[:, 1])


Labels = str | tuple[str, ...]
"""Label of a photo, or its labels where it has several."""

SHOWN_LABELS = 3
"""Labels that a note on imbalances describes one by one."""


class GroupPool:
    """Groups with their photo counts by label, in random order."""

    def __init__(self, labels: Sequence[Labels], groups: Sequence[Hashable], seed: int) -> None:
        self._seed = seed
        self._content: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
        self._sizes: Counter[Hashable] = Counter()
        for entry, group in zip(labels, groups, strict=True):
            self._content[group].update(as_tuple(entry))
            self._sizes[group] += 1
        order = sorted(self._content, key=lambda group: self._key("group", group))
        self._groups: defaultdict[str, list[Hashable]] = defaultdict(list)
        self._photos: Counter[str] = Counter()
        for group in order:
            for label, photos in self._content[group].items():
                self._groups[label].append(group)
                self._photos[label] += photos
        self.training_groups = Counter({name: len(found) for name, found in self._groups.items()})

    def rarest_first(self) -> list[str]:
        """Returns the labels, those with the fewest groups first: they have the least choice."""
        return sorted(self._groups, key=lambda label: (len(self._groups[label]), label))

    def groups_of(self, label: str) -> list[Hashable]:
        """Returns the groups that have photos of a label, in random order."""
        return self._groups[label]

    def photos(self, group: Hashable, label: str) -> int:
        """Returns the number of photos of a label in a group."""
        return self._content[group][label]

    def size(self, group: Hashable) -> int:
        """Returns the number of photos in a group."""
        return self._sizes[group]

    def content(self, group: Hashable) -> Iterator[tuple[str, int]]:
        """Yields each label in a group with its number of photos."""
        return iter(self._content[group].items())

    def spare(self, group: Hashable, *, reserve_from: int | None = None) -> bool:
        """Returns whether each label in the group keeps another group to train on.

        Args:
            group: The group that would be taken away.
            reserve_from: A label of so many groups or more must keep two: one is for the test.
        """
        return all(
            self.training_groups[label]
            > (1 if reserve_from is None or len(self._groups[label]) < reserve_from else 2)
            for label in self._content[group]
        )

    def targets(self, share: float, minimum: int) -> dict[str, int]:
        """Returns whole numbers of photos a label that add up to the share of all photos."""
        exact = {label: share * photos for label, photos in self._photos.items()}
        whole = {label: math.floor(wanted) for label, wanted in exact.items()}
        for label, found in self._groups.items():
            if whole[label] == 0 and len(found) >= minimum:
                whole[label] = 1
        left = round(sum(exact.values())) - sum(whole.values())
        by_rest = sorted(
            (
                label
                for label, found in self._groups.items()
                if whole[label] < exact[label] and len(found) >= minimum
            ),
            key=lambda label: (whole[label] - exact[label], self._key("label", label)),
        )
        for label in by_rest[: max(left, 0)]:
            whole[label] += 1
        return whole

    def _key(self, kind: str, key: Hashable) -> bytes:
        return seeded_key(self._seed, kind, key)


def seeded_key(seed: int, kind: str, key: Hashable) -> bytes:
    """Returns 16 pseudo-random bytes of the seed and a key, to sort by."""
    text = f"{seed}\0{kind}\0{key!r}"
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).digest()


def as_tuple(labels: Labels) -> tuple[str, ...]:
    """Returns the labels of a photo as a tuple."""
    return (labels,) if isinstance(labels, str) else labels


@dataclass(frozen=True, kw_only=True)
class Imbalance:
    """Label that a split could not divide by the requested shares.

    Attributes:
        part: The part with too few or too many photos.
        photos: Number of the label's photos in this part.
        wanted: Requested number, before rounding.
        groups: Number of the label's groups in all parts.
    """

    label: str
    part: Part
    photos: int
    wanted: float
    groups: int

    def __str__(self) -> str:
        """Returns one sentence with the counts and the reason."""
        photos = _count(self.photos, "photo")
        reason = (
            "all its photos are one group"
            if self.groups == 1
            else f"its {self.groups} groups cannot be divided more evenly"
        )
        return f"'{self.label}' has {photos} in {self.part}, not {self.wanted:.3g}: {reason}."


def imbalances(
    labels: Sequence[Labels],
    groups: Sequence[Hashable],
    parts: Sequence[Part],
    *,
    validation: float,
    test: float,
) -> tuple[Imbalance, ...]:
    """Returns the labels that a split could not divide by the requested shares, sorted.

    A label is imbalanced if it has no photo in a requested part, or misses its share of a part by
    more than one photo and more than a third of that share.
    """
    shares: dict[Part, float] = {"validation": validation, "test": test}
    total: Counter[str] = Counter()
    held: Counter[tuple[str, Part]] = Counter()
    groups_of: defaultdict[str, set[Hashable]] = defaultdict(set)
    for entry, group, part in zip(labels, groups, parts, strict=True):
        for label in as_tuple(entry):
            total[label] += 1
            held[label, part] += 1
            groups_of[label].add(group)
    found = []
    for label in sorted(total):
        for part, share in shares.items():
            wanted = share * total[label]
            photos = held[label, part]
            missing = share > 0 and photos == 0
            off = abs(photos - wanted)
            if missing or (off > 1 and off > wanted / 3):
                found.append(
                    Imbalance(
                        label=label,
                        part=part,
                        photos=photos,
                        wanted=wanted,
                        groups=len(groups_of[label]),
                    )
                )
    return tuple(found)


def summarize_imbalances(found: Sequence[Imbalance]) -> str:
    """Returns one note on the first `SHOWN_LABELS` labels and the number of others; "" for none."""
    labels = list(dict.fromkeys(item.label for item in found))
    sentences = [str(item) for item in found if item.label in labels[:SHOWN_LABELS]]
    more = len(labels) - SHOWN_LABELS
    if more > 0:
        sentences.append(f"And {_count(more, 'more label')}.")
    return " ".join(sentences)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

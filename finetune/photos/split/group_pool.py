"""Groups of photos as a split draws from them: how many of each label, in an order by chance."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from finetune.photos.collection import Part

Labels = str | tuple[str, ...]
"""The label of a photo, or its labels where it has several."""


class GroupPool:
    """Groups with their photos of each label, in an order drawn from the seed."""

    def __init__(self, labels: Sequence[Labels], groups: Sequence[Hashable], seed: int) -> None:
        self._seed = seed
        self._content: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
        self._sizes: Counter[Hashable] = Counter()
        for entry, group in zip(labels, groups, strict=True):
            self._content[group].update(as_tuple(entry))
            self._sizes[group] += 1
        order = sorted(self._content, key=lambda group: self._chance("group", group))
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
        """Returns the groups that have photos of a label, in the order of chance."""
        return self._groups[label]

    def photos(self, group: Hashable, label: str) -> int:
        """Returns how many photos of a label a group has."""
        return self._content[group][label]

    def size(self, group: Hashable) -> int:
        """Returns how many photos a group has."""
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
            key=lambda label: (whole[label] - exact[label], self._chance("label", label)),
        )
        for label in by_rest[: max(left, 0)]:
            whole[label] += 1
        return whole

    def _chance(self, kind: str, key: Hashable) -> bytes:
        return chance(self._seed, kind, key)


def chance(seed: int, kind: str, key: Hashable) -> bytes:
    """Returns 16 bytes drawn from the seed and a key, the same each time: an order by chance."""
    text = f"{seed}\0{kind}\0{key!r}"
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).digest()


def as_tuple(labels: Labels) -> tuple[str, ...]:
    """Returns the labels of a photo as a tuple."""
    return (labels,) if isinstance(labels, str) else labels


@dataclass(frozen=True, kw_only=True)
class Imbalance:
    """A label whose photos could not be shared out as asked.

    Attributes:
        label: The label.
        part: Where it has too few photos, or too many.
        photos: How many of its photos are there.
        wanted: How many it should be, before rounding.
        groups: How many groups the label has in all.
    """

    label: str
    part: Part
    photos: int
    wanted: float
    groups: int

    def __str__(self) -> str:
        """Returns one sentence that says what came out and why."""
        photos = _count(self.photos, "photo")
        reason = (
            "all its photos are one group"
            if self.groups == 1
            else f"its {self.groups} groups cannot be shared out better"
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
    """Returns what a split could not balance, label by label; empty when all is as asked.

    Named are labels without a photo in a part that they should be in, and labels that miss their
    share of a part by more than one photo and more than a third of that share.
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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""Groups of photos as a split draws from them: how many of each label, in an order by chance."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence

Labels = str | tuple[str, ...]
"""The label of a photo, or its labels where it has several."""


class GroupStock:
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

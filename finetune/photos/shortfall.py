"""What a split could not balance, said label by label."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from finetune.photos.collection import Part
from finetune.photos.stock import Labels, as_tuple


@dataclass(frozen=True, kw_only=True)
class Shortfall:
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


def shortfalls(
    labels: Sequence[Labels],
    groups: Sequence[Hashable],
    parts: Sequence[Part],
    *,
    validation: float,
    test: float,
) -> tuple[Shortfall, ...]:
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
                    Shortfall(
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

"""How the photos were split, and the proof that no part has seen another's photos."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune.photos.split.split import SplitRow

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class SplitProof:
    """What was counted in split.csv.

    Attributes:
        photos: By part.
        by_label: Photos by label, then by part.
        groups: Groups of photos that belong together (near-duplicates, bursts).
        largest_group: Photos in the largest of them.
        straddling_groups: Groups with photos in more than one part; 0 is the proof.
        straddling_contents: File contents found in more than one part; 0 is the proof.
        missing: Labels without a photo in a part that has photos, as (label, part).
    """

    photos: dict[str, int]
    by_label: dict[str, dict[str, int]]
    groups: int
    largest_group: int
    straddling_groups: int
    straddling_contents: int
    missing: tuple[tuple[str, str], ...]

    @property
    def holds(self) -> bool:
        """Whether no group and no content lies in two parts."""
        return self.straddling_groups == 0 and self.straddling_contents == 0


def prove_split(rows: Sequence[SplitRow]) -> SplitProof:
    """Returns what can be counted about a split."""
    photos = Counter[str](row.part for row in rows)
    by_label: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for label in row.labels:
            by_label[label][row.part] += 1
    sizes = Counter(row.group for row in rows)
    parts = [part for part in PARTS if photos[part]]
    return SplitProof(
        photos={part: photos[part] for part in parts},
        by_label={
            label: {part: by_label[label][part] for part in parts} for label in sorted(by_label)
        },
        groups=len(sizes),
        largest_group=max(sizes.values(), default=0),
        straddling_groups=_straddling((row.group, row.part) for row in rows),
        straddling_contents=_straddling((row.digest, row.part) for row in rows if row.digest),
        missing=tuple(
            (label, part)
            for label in sorted(by_label)
            for part in parts
            if not by_label[label][part]
        ),
    )


def _straddling(pairs: Iterable[tuple[str, str]]) -> int:
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for key, part in pairs:
        parts[key].add(part)
    return sum(len(found) > 1 for found in parts.values())

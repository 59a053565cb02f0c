"""What a collection has of each label: photos, distinct scenes, bad files, sizes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from finetune.photos.collection import Collection, Photo
from finetune.photos.labels import find_parts, nfc, place_of

UNLABELED = ""
"""Stands in a row for photos without a label."""


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """What there is of one label.

    Attributes:
        label: The label; `UNLABELED` for photos that have none.
        photos: Photos that can be opened.
        groups: Groups of two or more photos that show nearly the same.
        scenes: Photos that differ: each group counts once.
        bad: Files in the label's folder that cannot be opened.
        smallest_side: Shorter side of the smallest photo in pixels; None without a photo.
        median_side: Shorter side of the middle photo.
        largest_side: Shorter side of the largest photo.
    """

    label: str
    photos: int
    groups: int
    scenes: int
    bad: int
    smallest_side: int | None
    median_side: int | None
    largest_side: int | None


def summarize_labels(collection: Collection, groups: Sequence[str]) -> tuple[LabelRow, ...]:
    """Returns a row for each label, sorted; last, where there are such, for photos without one.

    Args:
        collection: What a scan found.
        groups: The group of each photo, as `finetune.photos.split.grouping.photo_groups` gives it.
    """
    photos: defaultdict[str, list[Photo]] = defaultdict(list)
    scenes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for photo, group in zip(collection.photos, groups, strict=True):
        for label in photo.labels or (UNLABELED,):
            photos[label].append(photo)
            scenes[label][group] += 1
    bad = _bad_files(collection)
    names = sorted({*photos, *bad}, key=lambda name: (name == UNLABELED, name))
    return tuple(_row(name, photos[name], scenes[name], bad[name]) for name in names)


def _row(label: str, photos: Sequence[Photo], scenes: Counter[str], bad: int) -> LabelRow:
    sides = [min(photo.width, photo.height) for photo in photos]
    return LabelRow(
        label=label,
        photos=len(photos),
        groups=sum(count > 1 for count in scenes.values()),
        scenes=len(scenes),
        bad=bad,
        smallest_side=min(sides, default=None),
        median_side=median_low(sides) if sides else None,
        largest_side=max(sides, default=None),
    )


def _bad_files(collection: Collection) -> Counter[str]:
    paths = [photo.path for photo in collection.photos]
    parts = find_parts(paths) if collection.has_parts else {}
    counts: Counter[str] = Counter()
    for problem in collection.problems:
        label, _ = place_of(problem.path, parts)
        counts[nfc(label) if label else UNLABELED] += 1
    return counts

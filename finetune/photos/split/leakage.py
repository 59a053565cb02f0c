"""Leakage between the parts of a split: the proof that there is none, and its effect on accuracy.

A held-out photo with a near-duplicate in train (a copy, an edited or mirrored version, a frame of
the same burst) is not new to the model, and inflates an accuracy measured on it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from finetune.photos.collection import Part, Photo
from finetune.photos.near_duplicates.hamming import nearest_distance
from finetune.photos.near_duplicates.pairs import (
    Fingerprints,
    NearDuplicateRule,
    burst_pairs,
    compute_fingerprints,
    near_duplicate_blocks,
)
from finetune.photos.split.grouping import split_rule
from finetune.photos.split.split import SplitRow

NEAREST_BITS = 12
"""Most bits at which the nearest pair is searched; unrelated photos differ by 32 ± 4 bits."""

TRAIN_SIDE = -1
"""Side of photos that are always in training; photos held out together share a number from 0 on."""

Sides = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Nearest pair of a training photo and a held-out photo.

    Attributes:
        train: Path of the training photo.
        held_out: Path of the held-out photo.
        distance_bits: Bits between their perceptual hashes; 0 for exact copies.
    """

    train: str
    held_out: str
    distance_bits: int


@dataclass(frozen=True, kw_only=True)
class SplitProof:
    """Counts that prove a split.

    Attributes:
        photos: Photos by part; parts without a photo are left out.
        by_label: Photos by label, then by part.
        groups: Groups of photos, single photos included.
        largest_group: Photos in the largest group.
        straddling_groups: Groups with photos in more than one part or fold; 0 is the proof.
        straddling_contents: File contents in more than one part or fold; 0 is the proof.
        missing: Labels without a photo in a part, as (label, part).
        leaks: Held-out photos with a near-duplicate in train by part, found from the hashes,
            independently of the groups; empty where the photos were not given.
        nearest: The nearest pair across the border, or None where none is within `NEAREST_BITS`.
    """

    photos: Mapping[Part, int]
    by_label: Mapping[str, Mapping[Part, int]]
    groups: int
    largest_group: int
    straddling_groups: int
    straddling_contents: int
    missing: tuple[tuple[str, Part], ...]
    leaks: Mapping[Part, int]
    nearest: Nearest | None

    @property
    def holds(self) -> bool:
        """Whether no group and no content straddles and nothing leaks."""
        straddling = self.straddling_groups + self.straddling_contents
        return straddling == 0 and not any(self.leaks.values())

    def summary(self) -> dict[str, Any]:
        """Returns the entry of a run's config.json."""
        return {
            "groups": self.groups,
            "straddling": self.straddling_groups,
            "leaks": dict(self.leaks),
            "nearest": asdict(self.nearest) if self.nearest else None,
        }


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts of predicted and correctly predicted photos."""

    photos: int
    correct: int

    @property
    def accuracy(self) -> float | None:
        """Share of correct predictions; None without a photo."""
        return self.correct / self.photos if self.photos else None


@dataclass(frozen=True, kw_only=True)
class LeakAudit:
    """Accuracy on held-out photos with and without a near-duplicate in train.

    Attributes:
        with_duplicate: Held-out photos with a near-duplicate in train.
        without_duplicate: The others, which give the unbiased accuracy.
    """

    with_duplicate: Tally
    without_duplicate: Tally

    @property
    def flattered_points(self) -> float | None:
        """Accuracy on all held-out photos minus that without near-duplicates, in percentage points.

        None where every photo has a near-duplicate in train.
        """
        unbiased = self.without_duplicate.accuracy
        photos = self.with_duplicate.photos + self.without_duplicate.photos
        if unbiased is None:
            return None
        return 100 * (
            (self.with_duplicate.correct + self.without_duplicate.correct) / photos - unbiased
        )


def prove_split(rows: Sequence[SplitRow], photos: Sequence[Photo] | None = None) -> SplitProof:
    """Returns the counts that prove a split.

    Args:
        rows: The split's photos with their groups and parts.
        photos: The photo of each row; with them, near-duplicates across the border are searched.
    """
    counts = Counter(row.part for row in rows)
    by_label: defaultdict[str, Counter[Part]] = defaultdict(Counter)
    for row in rows:
        for label in row.labels:
            by_label[label][row.part] += 1
    sizes = Counter(row.group for row in rows)
    present = [part for part in get_args(Part) if counts[part]]
    labels = sorted(by_label)
    leaks: dict[Part, int] = {}
    nearest = None
    if photos is not None:
        parts = [row.part for row in rows]
        prints, sides = compute_fingerprints(photos), _sides(parts)
        leaking = _leaking(prints, sides, split_rule(len(photos))).tolist()
        nearest = _nearest(photos, prints, sides)
        leaks = {
            part: sum(leak and own == part for leak, own in zip(leaking, parts, strict=True))
            for part in ("validation", "test")
            if part in parts
        }
    return SplitProof(
        photos={part: counts[part] for part in present},
        by_label={label: {part: by_label[label][part] for part in present} for label in labels},
        groups=len(sizes),
        largest_group=max(sizes.values(), default=0),
        straddling_groups=_straddling((row.group, _side(row)) for row in rows),
        straddling_contents=_straddling((row.digest, _side(row)) for row in rows if row.digest),
        missing=tuple(
            (label, part) for label in labels for part in present if not by_label[label][part]
        ),
        leaks=leaks,
        nearest=nearest,
    )


def prove_folds(rows: Sequence[SplitRow], photos: Sequence[Photo]) -> SplitProof:
    """Returns the counts that prove the folds of a cross-validation.

    As `prove_split`, of each fold against all others: groups and contents in two folds, and
    held-out photos (under ``validation``) with a near-duplicate in another fold.
    """
    prints = compute_fingerprints(photos)
    folds = np.array([TRAIN_SIDE if row.fold is None else row.fold for row in rows], np.intp)
    leaking = int(_leaking(prints, folds, split_rule(len(photos))).sum())
    return replace(
        prove_split(rows),
        leaks={"validation": leaking} if (folds >= 0).any() else {},
        nearest=_nearest(photos, prints, folds),
    )


def _side(row: SplitRow) -> Hashable:
    """Returns what photos that belong together must share: the fold, or without folds the part."""
    return row.part if row.fold is None else row.fold


def _straddling(pairs: Iterable[tuple[str, Hashable]]) -> int:
    parts: defaultdict[str, set[Hashable]] = defaultdict(set)
    for key, part in pairs:
        parts[key].add(part)
    return sum(len(found) > 1 for found in parts.values())


def duplicates_in_training(
    photos: Sequence[Photo], parts: Sequence[Part], *, rule: NearDuplicateRule | None = None
) -> NDArray[np.bool_]:
    """Returns which held-out photos have a near-duplicate in train, ``(N,)``; False in train.

    Args:
        photos: Photos of all parts.
        parts: The part of each photo.
        rule: Rule for near-duplicates; None means the one by which a split groups photos.
    """
    return _leaking(compute_fingerprints(photos), _sides(parts), rule or split_rule(len(photos)))


def audit_split(
    photos: Sequence[Photo], parts: Sequence[Part], correct: Mapping[str, bool]
) -> LeakAudit:
    """Returns a model's accuracy on held-out photos with and without a near-duplicate in train.

    Args:
        photos: Photos of the model's collection.
        parts: The part of each photo in the run.
        correct: Whether the prediction is correct, by path; photos not in it do not count.
    """
    duplicates = duplicates_in_training(photos, parts)
    counts = {True: [0, 0], False: [0, 0]}
    for photo, part, duplicate in zip(photos, parts, duplicates.tolist(), strict=True):
        if part != "train" and photo.path in correct:
            counts[duplicate][0] += 1
            counts[duplicate][1] += correct[photo.path]
    return LeakAudit(
        with_duplicate=Tally(photos=counts[True][0], correct=counts[True][1]),
        without_duplicate=Tally(photos=counts[False][0], correct=counts[False][1]),
    )


def _sides(parts: Sequence[Part]) -> Sides:
    return np.array([TRAIN_SIDE if part == "train" else 0 for part in parts], np.intp)


def _leaking(prints: Fingerprints, sides: Sides, rule: NearDuplicateRule) -> NDArray[np.bool_]:
    """Returns which held-out photos have a near-duplicate on another side, ``(N,)``."""
    contents = np.unique(np.stack([prints.content, sides]), axis=1)[0]
    numbers, counts = np.unique(contents, return_counts=True)
    found: NDArray[np.bool_] = np.isin(prints.content, numbers[counts > 1])

    def mark(first: NDArray[np.intp], second: NDArray[np.intp]) -> None:
        apart = sides[first] != sides[second]
        found[first[apart]] = True
        found[second[apart]] = True

    chosen = np.flatnonzero(~prints.featureless)
    for block in near_duplicate_blocks(prints, chosen, rule.max_distance_bits):
        mark(chosen[block.first], chosen[block.second])
    if rule.burst_seconds is not None:
        pairs = burst_pairs(prints, within_seconds=rule.burst_seconds, max_bits=rule.burst_bits)
        mark(pairs[:, 0], pairs[:, 1])
    found &= sides != TRAIN_SIDE
    return found


def _nearest(photos: Sequence[Photo], prints: Fingerprints, sides: Sides) -> Nearest | None:
    best: Nearest | None = None
    for side in np.unique(sides[sides != TRAIN_SIDE]):
        others, own = np.flatnonzero(sides != side), np.flatnonzero(sides == side)
        copies = np.isin(prints.content[own], prints.content[others])
        if copies.any():
            held = own[np.argmax(copies)]
            other = others[np.argmax(prints.content[others] == prints.content[held])]
            return Nearest(train=photos[other].path, held_out=photos[held].path, distance_bits=0)
        others, own = others[~prints.featureless[others]], own[~prints.featureless[own]]
        for hashes in (prints.perceptual, prints.mirrored_perceptual):
            limit = NEAREST_BITS if best is None else best.distance_bits - 1
            if limit < 0:
                break
            first, second, bits = nearest_distance(
                prints.perceptual[others], hashes[own], at_most=limit
            )
            if bits <= limit:
                best = Nearest(
                    train=photos[others[first]].path,
                    held_out=photos[own[second]].path,
                    distance_bits=bits,
                )
    return best

"""Proof that a split holds, and what it costs when it does not.

A held-out photo with a twin in training (a copy, a near-duplicate, its mirror image, a frame of the
same burst) is not a photo that the model has never seen, and an accuracy measured on it flatters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.photos.collection import Part, Photo
from finetune.photos.near_duplicates.bursts import burst_pairs
from finetune.photos.near_duplicates.fingerprints import Fingerprints, fingerprints
from finetune.photos.near_duplicates.groups import Alikeness, alike_blocks
from finetune.photos.near_duplicates.hamming import nearest_distance
from finetune.photos.split.grouping import split_rule

NEAREST_BITS = 12
"""The nearest pair is looked for up to here; unlike photos differ by 32 bits, give or take 4."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The training photo and the held-out photo that are most alike.

    Attributes:
        train: Path of the training photo.
        held_out: Path of the other.
        distance_bits: Bits between their perceptual hashes; 0 for exact copies.
    """

    train: str
    held_out: str
    distance_bits: int


@dataclass(frozen=True, kw_only=True)
class SplitProof:
    """What was counted to prove a split.

    Attributes:
        groups: Groups of photos, single photos included.
        straddling: Groups with photos in more than one part; 0 is the proof.
        leaks: Held-out photos with a twin in training, found anew from the hashes, whatever the
            groups say; by part.
        nearest: The nearest pair across the border, or None where none is within `NEAREST_BITS`.
    """

    groups: int
    straddling: int
    leaks: Mapping[Part, int]
    nearest: Nearest | None

    @property
    def holds(self) -> bool:
        """Whether no group straddles and nothing leaks."""
        return self.straddling == 0 and not any(self.leaks.values())


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Answers to some photos.

    Attributes:
        photos: How many were answered.
        correct: How many of them rightly.
    """

    photos: int
    correct: int

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; None without a photo."""
        return self.correct / self.photos if self.photos else None


@dataclass(frozen=True, kw_only=True)
class LeakAudit:
    """How much better a model does on held-out photos that have a twin in training.

    Attributes:
        with_twin: Held-out photos with a twin in training.
        without_twin: The others: the honest figure.
    """

    with_twin: Tally
    without_twin: Tally

    @property
    def flattered_points(self) -> float | None:
        """Percentage points by which the accuracy on all is above the one on photos without a twin.

        None where no photo is without a twin: then there is no honest figure at all.
        """
        honest = self.without_twin.accuracy
        photos = self.with_twin.photos + self.without_twin.photos
        if honest is None:
            return None
        return 100 * ((self.with_twin.correct + self.without_twin.correct) / photos - honest)


def prove_split(
    photos: Sequence[Photo], groups: Sequence[Hashable], parts: Sequence[Part]
) -> SplitProof:
    """Returns what can be counted of a split: straddling groups, leaks, the nearest pair.

    Args:
        photos: The photos.
        groups: The group of each, as it was split by.
        parts: The part of each.
    """
    parts_of: defaultdict[Hashable, set[Part]] = defaultdict(set)
    for group, part in zip(groups, parts, strict=True):
        parts_of[group].add(part)
    prints = fingerprints(photos)
    twins = _twins(prints, parts, split_rule(len(photos)))
    held_out: tuple[Part, ...] = ("validation", "test")
    return SplitProof(
        groups=len(parts_of),
        straddling=sum(len(found) > 1 for found in parts_of.values()),
        leaks={
            part: sum(1 for own, twin in zip(parts, twins, strict=True) if twin and own == part)
            for part in held_out
            if part in parts
        },
        nearest=_nearest(photos, prints, parts),
    )


def twins_in_training(
    photos: Sequence[Photo], parts: Sequence[Part], *, rule: Alikeness | None = None
) -> NDArray[np.bool_]:
    """Returns which held-out photos have a twin in training, ``(N,)``; False for training photos.

    Args:
        photos: The photos.
        parts: The part of each.
        rule: What counts as a twin; None: what a grouped split keeps together.
    """
    return _twins(fingerprints(photos), parts, rule or split_rule(len(photos)))


def audit_split(
    photos: Sequence[Photo], parts: Sequence[Part], correct: Mapping[str, bool]
) -> LeakAudit:
    """Returns a model's accuracy on held-out photos with and without a twin in training.

    Args:
        photos: The photos of the model's collection.
        parts: The part of each while the model was trained.
        correct: Whether it answered rightly, by path; photos that are not in it do not count.
    """
    twins = twins_in_training(photos, parts)
    counts = {True: [0, 0], False: [0, 0]}
    for photo, part, twin in zip(photos, parts, twins.tolist(), strict=True):
        if part != "train" and photo.path in correct:
            counts[twin][0] += 1
            counts[twin][1] += correct[photo.path]
    return LeakAudit(
        with_twin=Tally(photos=counts[True][0], correct=counts[True][1]),
        without_twin=Tally(photos=counts[False][0], correct=counts[False][1]),
    )


def _twins(prints: Fingerprints, parts: Sequence[Part], rule: Alikeness) -> NDArray[np.bool_]:
    training = np.array([part == "train" for part in parts], dtype=bool)
    found = np.isin(prints.content, prints.content[training])
    chosen = np.flatnonzero(~prints.plain)
    for block in alike_blocks(prints, chosen, rule.max_distance_bits):
        _mark(found, training, chosen[block.first], chosen[block.second])
    if rule.burst_seconds is not None:
        pairs = burst_pairs(prints, within_seconds=rule.burst_seconds, max_bits=rule.burst_bits)
        _mark(found, training, pairs[:, 0], pairs[:, 1])
    result: NDArray[np.bool_] = found & ~training
    return result


def _mark(
    found: NDArray[np.bool_],
    training: NDArray[np.bool_],
    first: NDArray[np.intp],
    second: NDArray[np.intp],
) -> None:
    found[first[training[second]]] = True
    found[second[training[first]]] = True


def _nearest(
    photos: Sequence[Photo], prints: Fingerprints, parts: Sequence[Part]
) -> Nearest | None:
    training = np.array([part == "train" for part in parts], dtype=bool)
    inside, outside = np.flatnonzero(training), np.flatnonzero(~training)
    copies = np.isin(prints.content[outside], prints.content[inside])
    if copies.any():
        held = outside[np.argmax(copies)]
        train = inside[np.argmax(prints.content[inside] == prints.content[held])]
        return Nearest(train=photos[train].path, held_out=photos[held].path, distance_bits=0)
    inside, outside = inside[~prints.plain[inside]], outside[~prints.plain[outside]]
    best: Nearest | None = None
    for hashes in (prints.perceptual, prints.mirrored_perceptual):
        limit = NEAREST_BITS if best is None else best.distance_bits - 1
        if limit < 0:
            break
        first, second, bits = nearest_distance(
            prints.perceptual[inside], hashes[outside], at_most=limit
        )
        if bits <= limit:
            best = Nearest(
                train=photos[inside[first]].path,
                held_out=photos[outside[second]].path,
                distance_bits=bits,
            )
    return best

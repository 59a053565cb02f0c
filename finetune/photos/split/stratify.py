"""Iterative stratification of photos with several labels into parts, whole groups only.

Follows Sechidis, Tsoumakas and Vlahavas (2011), "On the Stratification of Multi-Label Data",
algorithm 1, applied to groups instead of photos: the label with the fewest photos left is
distributed first, each of its groups to the part that lacks this label most. Then groups move to
meet the minimums of `finetune.photos.split.split` (a photo of each label in each part), and as long
as a single move brings the counts closer to the targets. Photos without a label count as a label of
their own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.photos.collection import Part
from finetune.photos.split.grouping import seeded_key
from finetune.photos.split.split import TEST_FROM_GROUPS, check_shares

PARTS: tuple[Part, ...] = ("train", "validation", "test")

PASSES = 10
"""Maximum number of passes over all groups that try single moves."""

Counts = NDArray[np.float64]


def stratify_groups(
    labels: Sequence[tuple[str, ...]],
    groups: Sequence[Hashable],
    *,
    validation: float,
    test: float,
    seed: int,
) -> list[Part]:
    """Returns the part of each photo, all photos of a group in the same one.

    Args:
        labels: The labels of each photo; may be empty.
        groups: A group for each photo; keys that stay the same from one run to the next make the
            split the same, in whatever order the photos come.
        validation: Share of each label's photos for validation, in [0, 1).
        test: Share of each label's photos for the test, in [0, 1).
        seed: Chooses among equally good splits.

    Raises:
        ConfigError: Shares that are negative or leave nothing to train on.

    Example:
        >>> labels = [("a",), ("a", "b"), ("a",), ("a", "b")]
        >>> stratify_groups(labels, [1, 2, 3, 4], validation=0.5, test=0, seed=0).count("train")
        2
    """
    check_shares(validation, test)
    keys = sorted(set(groups), key=lambda group: seeded_key(seed, "group", group))
    place = {group: number for number, group in enumerate(keys)}
    names = sorted({label for entry in labels for label in entry})
    column = {label: number for number, label in enumerate(names)}
    # One column a label, one for photos without any, one for photos of any kind.
    counts = np.zeros((len(keys), len(names) + 2))
    for entry, group in zip(labels, groups, strict=True):
        row = counts[place[group]]
        for label in entry:
            row[column[label]] += 1
        row[-2] += not entry
        row[-1] += 1
    shares = np.array([1 - validation - test, validation, test])
    allocation = _Allocation(counts, shares)
    allocation.distribute()
    allocation.meet_minimums()
    allocation.improve()
    return [PARTS[allocation.part[place[group]]] for group in groups]


class _Allocation:
    """Groups with their counts of each label, and the part of each.

    Args:
        counts: ``(G, C + 2)`` photos of each label in each group, of none, and in all.
        shares: ``(3,)`` of train, validation and test.
    """

    def __init__(self, counts: Counts, shares: Counts) -> None:
        self.counts = counts
        self.wanted = shares[:, None] * counts.sum(axis=0)  # (3, C + 2)
        self.part = np.full(len(counts), -1)
        self.held = np.zeros_like(self.wanted)
        self.groups_held = np.zeros(self.wanted.shape, dtype=np.int64)
        self.open = shares > 0
        # A miss of one photo matters more to a label of 5 than to one of 500.
        self.scale = 1 / (1 + counts.sum(axis=0))
        # Photos in all are no label: they have no minimum.
        kinds = (counts > 0).sum(axis=0)
        kinds[-1] = 0
        self.least = np.stack(
            [
                (kinds > 0),
                (kinds > 1) & self.open[1],
                (kinds >= TEST_FROM_GROUPS) & self.open[2],
            ]
        ).astype(np.int64)

    def distribute(self) -> None:
        """Assigns every group to a part, rarest label first."""
        left = self.counts[:, :-1].sum(axis=0)
        while (self.part < 0).any():
            waiting = np.flatnonzero(left > 0)
            label = int(waiting[np.argmin(left[waiting])])
            mine = np.flatnonzero((self.part < 0) & (self.counts[:, label] > 0))
            order = mine[np.argsort(-self.counts[mine, label], kind="stable")]
            for group in order:
                need = self.wanted[:, [label, -1]] - self.held[:, [label, -1]]
                need[~self.open] = -np.inf
                best = max(range(len(PARTS)), key=lambda part: (need[part, 0], need[part, 1]))
                self._put(int(group), best)
                left -= self.counts[group, :-1]

    def meet_minimums(self) -> None:
        """Moves groups to parts below a label's minimum, where another part can spare one."""
        rarest_first = np.argsort((self.counts > 0).sum(axis=0), kind="stable")
        for part in (0, 1, 2):
            for label in rarest_first:
                if self.groups_held[part, label] >= self.least[part, label]:
                    continue
                mine = np.flatnonzero((self.counts[:, label] > 0) & (self.part != part))
                free = [int(group) for group in mine if self._can_leave(int(group))]
                if free:
                    chosen = min(free, key=lambda group: self._change(group, part))
                    self._put(chosen, part)

    def improve(self) -> None:
        """Makes single moves while they bring the counts closer to the targets."""
        for _ in range(PASSES):
            moved = False
            for group in range(len(self.counts)):
                if not self._can_leave(group):
                    continue
                changes = [
                    (self._change(group, part), part)
                    for part in range(len(PARTS))
                    if self.open[part] and part != self.part[group]
                ]
                if not changes:
                    return
                gain, part = min(changes)
                if gain < -1e-9:
                    self._put(group, part)
                    moved = True
            if not moved:
                return

    def _put(self, group: int, part: int) -> None:
        before = self.part[group]
        present = self.counts[group] > 0
        if before >= 0:
            self.held[before] -= self.counts[group]
            self.groups_held[before] -= present
        self.held[part] += self.counts[group]
        self.groups_held[part] += present
        self.part[group] = part

    def _can_leave(self, group: int) -> bool:
        """Returns whether the group's part meets its minimums without it."""
        part = self.part[group]
        present = self.counts[group] > 0
        left = self.groups_held[part, present] - 1
        return bool((left >= self.least[part, present]).all())

    def _change(self, group: int, part: int) -> float:
        """Returns by how much a move changes ``sum over parts and labels (held - wanted)² / n``."""
        row, before = self.counts[group], self.part[group]
        gone = self.held[before] - self.wanted[before]
        come = self.held[part] - self.wanted[part]
        change = (gone - row) ** 2 - gone**2 + (come + row) ** 2 - come**2
        return float((change * self.scale).sum())

"""Parts for photos of several labels: every label's share in every part, whole groups only.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of
Multi-Label Data", algorithm 1) on groups in the place of photos: the label with the fewest photos
left is shared out first, each of its groups to the part that wants this label most. Then groups are
moved for the two promises of `finetune.photos.split.split` (a photo of each label to train on, one
to choose by, one for the test), and as long as a single move brings the counts nearer to what is
wanted. Photos without a label count as a label of their own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.photos.collection import Part
from finetune.photos.split.group_pool import chance
from finetune.photos.split.split import TEST_FROM_GROUPS

PARTS: tuple[Part, ...] = ("train", "validation", "test")

PASSES = 10
"""Most rounds over all groups in which single moves are tried."""

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
        labels: The labels of each photo; none is as good as one.
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
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ConfigError(
            f"--validation {validation:g} and --test {test:g} must be 0 or more and leave "
            "something to train on."
        )
    keys = sorted(set(groups), key=lambda group: chance(seed, "group", group))
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
    division = _Division(counts, shares)
    division.share_out()
    division.keep_promises()
    division.improve()
    return [PARTS[division.part[place[group]]] for group in groups]


class _Division:
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
        # Photos in all are no label: they have no promise.
        kinds = (counts > 0).sum(axis=0)
        kinds[-1] = 0
        self.least = np.stack(
            [
                (kinds > 0),
                (kinds > 1) & self.open[1],
                (kinds >= TEST_FROM_GROUPS) & self.open[2],
            ]
        ).astype(np.int64)

    def share_out(self) -> None:
        """Gives every group to a part, rarest label first."""
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

    def keep_promises(self) -> None:
        """Moves groups to parts that lack a label they must have, where another part can spare."""
        rarest_first = np.argsort((self.counts > 0).sum(axis=0), kind="stable")
        for part in (0, 1, 2):
            for label in rarest_first:
                if self.groups_held[part, label] >= self.least[part, label]:
                    continue
                mine = np.flatnonzero((self.counts[:, label] > 0) & (self.part != part))
                free = [int(group) for group in mine if self._spared(int(group))]
                if free:
                    chosen = min(free, key=lambda group: self._change(group, part))
                    self._put(chosen, part)

    def improve(self) -> None:
        """Makes single moves while they bring the counts nearer to what is wanted."""
        for _ in range(PASSES):
            moved = False
            for group in range(len(self.counts)):
                if not self._spared(group):
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

    def _spared(self, group: int) -> bool:
        """Returns whether the group's part keeps what was promised without it."""
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

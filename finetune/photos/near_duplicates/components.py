"""Connected components: what belongs together when pairs do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


class Components:
    """A union-find over ``0 .. size - 1`` that takes whole arrays of pairs at once.

    The result does not depend on the order in which pairs come.
    """

    def __init__(self, size: int) -> None:
        self._root: Indices = np.arange(size)

    def join(self, first: Indices, second: Indices) -> None:
        """Puts the two ends of each pair into one component."""
        while len(first):
            a, b = self._root[first], self._root[second]
            apart = a != b
            if not apart.any():
                return
            a, b = a[apart], b[apart]
            first, second = first[apart], second[apart]
            # The larger of two roots hangs itself below the smallest root that wants it; what a
            # pair did not get this time it gets in the next round.
            np.minimum.at(self._root, np.maximum(a, b), np.minimum(a, b))
            self._flatten()

    def ids(self) -> Indices:
        """Returns for each index the smallest index of its component, ``(size,)``."""
        return self._root.copy()

    def _flatten(self) -> None:
        while True:
            above = self._root[self._root]
            if np.array_equal(above, self._root):
                return
            self._root = above


def members(ids: Indices) -> list[Indices]:
    """Returns the indices of each component of two or more, by ascending smallest index."""
    _, roots, counts = np.unique(ids, return_inverse=True, return_counts=True)
    together = np.flatnonzero(counts[roots] > 1)
    if not len(together):
        return []
    together = together[np.argsort(ids[together], kind="stable")]
    starts = np.flatnonzero(np.diff(ids[together])) + 1
    return np.split(together, starts)

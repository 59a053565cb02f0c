"""Nearest labels of photos, from the labels that some of them have.

Photos are compared with the centroid of each label in the space of the square roots of features
(Hellinger distance). The score of a photo is the log odds of its nearest label, in a softmax over
its cosines to all centroids. Every labeled photo is scored in the same way with its near-duplicates
left out, so that scores of the right and wrong among them say how far an unlabeled photo's score
can be trusted. How often a photo of a label that nobody has given yet would score as high is
measured by leaving each label out, and weighted by the share of photos with such labels that is to
be expected (Good 1953, "The population frequencies of species", Biometrika 40).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.curation.score_calibration import Calibration, fit_calibration

NONE = ""
"""Name of the label of photos that none of the labels fits."""

TEMPERATURE = 0.2
"""Temperature of the softmax over cosines. Of 0.05, 0.1 and 0.2, photos of the same score are right
most equally often in different collections at this one."""

CHUNK = 4096

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Nearest labels of N photos.

    Attributes:
        labels: ``(N,) int64``, index of the nearest label.
        values: ``(N,)``, log odds of that label.
        cosines: ``(N, labels) float32``, cosines to all centroids.
    """

    labels: NDArray[np.int64]
    values: Array
    cosines: NDArray[np.float32]


class LabelModel:
    """Centroids of labels, and how far their scores can be trusted.

    Args:
        features: ``(N, F)`` of all photos.
        labeled: ``(M,)``, positions of the labeled ones.
        targets: ``(M,)``, index of the label of each.
        groups: Near-duplicate group of each labeled photo.
        names: Names of the labels; `NONE` for none of them.
        offered: Further labels that somebody named but that no photo has yet.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        labeled: NDArray[np.int64],
        targets: NDArray[np.int64],
        groups: Sequence[Hashable],
        names: Sequence[str],
        *,
        offered: int = 0,
    ) -> None:
        self._features = features
        self._space = RootSpace(features)
        self._rows = self._space.rows(features[labeled])
        self._targets = targets
        self.names = tuple(names)
        index: dict[Hashable, int] = {}
        self._groups = np.array([index.setdefault(group, len(index)) for group in groups], np.int64)
        pairs = self._groups * len(names) + targets
        _, inverse, counts = np.unique(pairs, return_inverse=True, return_counts=True)
        self._weights = 1.0 / counts[inverse]
        self._sums = np.zeros((len(names), features.shape[1]))
        np.add.at(self._sums, targets, self._rows * self._weights[:, None])
        self.counts: Array = np.bincount(targets, self._weights, len(names)).astype(np.float64)
        """Independent photos of each label."""
        self._offered = offered

    def scores(self, positions: NDArray[np.int64]) -> Scores:
        """Returns the nearest labels of some photos."""
        centroids = unit(self._sums).T.astype(np.float32)
        cosines = np.zeros((len(positions), len(self.names)), np.float32)
        for start in range(0, len(positions), CHUNK):
            part = slice(start, start + CHUNK)
            cosines[part] = self._space.rows(self._features[positions[part]]) @ centroids
        labels, values = nearest(cosines.astype(np.float64))
        return Scores(labels=labels, values=values, cosines=cosines)

    def neighbors(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the index of the label of the nearest labeled photo of each."""
        cosines = self._space.rows(self._features[positions]) @ self._rows.T
        labels: NDArray[np.int64] = self._targets[cosines.argmax(axis=1)]
        return labels

    def calibration(self) -> Calibration:
        """Returns the calibration by the labeled photos, each scored without its group."""
        cosines = self._rows @ unit(self._sums).T
        members: dict[tuple[int, int], list[int]] = {}
        for row, pair in enumerate(zip(self._groups.tolist(), self._targets.tolist(), strict=True)):
            members.setdefault(pair, []).append(row)
        of_group: dict[int, list[int]] = {}
        for row, group in enumerate(self._groups.tolist()):
            of_group.setdefault(group, []).append(row)
        for (group, label), rows in members.items():
            rest = self._sums[label] - self._weights[rows] @ self._rows[rows]
            # A label of one group cannot be learned without it.
            alone = self.counts[label] < 1.5
            held = of_group[group]
            centroid = unit(rest[None])[0]
            cosines[held, label] = -1.0 if alone else self._rows[held] @ centroid
        labels, values = nearest(cosines)
        learnable = self.counts[self._targets] > 1.5
        cosines[np.arange(len(cosines)), self._targets] = -1.0
        # Of two labels none can be left out.
        is_label = np.array([name != NONE and len(self.names) > 2 for name in self.names])
        is_label = is_label[self._targets]
        unseen_labels, unseen = nearest(cosines[is_label])
        single = float(((self.counts < 1.5) & (self.counts > 0)).sum()) + self._offered
        share = min(1.0, (single + 0.5) / (self.counts.sum() + 1))
        others = np.full(len(unseen), share * self.counts.sum() / max(1, len(unseen)))
        return fit_calibration(
            np.concatenate([values[learnable], unseen]),
            np.concatenate([labels[learnable], unseen_labels]),
            np.concatenate([(labels == self._targets)[learnable], np.zeros(len(unseen), bool)]),
            np.concatenate([self._weights[learnable], others]),
            count=len(self.names),
            independent=float(self.counts.sum()),
        )


def nearest(cosines: Array) -> tuple[NDArray[np.int64], Array]:
    """Returns the nearest label, and its log odds, of each row of cosines ``(N, labels)``."""
    scaled = cosines / TEMPERATURE
    best = scaled.argmax(axis=1)
    rows = np.arange(len(scaled))
    top = scaled[rows, best]
    scaled[rows, best] = -np.inf
    with np.errstate(divide="ignore"):
        rest = np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    return best, np.minimum(-rest, 30.0)


class RootSpace:
    """Square roots of features, centered on a collection and of length 1.

    Args:
        features: ``(N, F)`` of the collection.
    """

    def __init__(self, features: NDArray[np.floating]) -> None:
        total = np.zeros(features.shape[1])
        for start in range(0, len(features), CHUNK):
            total += _roots(features[start : start + CHUNK]).sum(axis=0)
        self._mean = (total / max(1, len(features))).astype(np.float32)

    def rows(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Returns features ``(N, F)`` in this space."""
        rows: NDArray[np.float32] = unit(_roots(features) - self._mean)
        return rows


def _roots(features: NDArray[np.floating]) -> NDArray[np.float32]:
    rows = features.astype(np.float32)
    roots: NDArray[np.float32] = np.sign(rows) * np.sqrt(np.abs(rows))
    return roots


def unit(rows: NDArray[np.floating]) -> NDArray[Any]:
    """Returns rows scaled to length 1; zero rows stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)

"""Cohorts: unlabeled photos that are safe to label together, and calibrated shares.

Photos are compared with the centroid of each label in the space of the square roots of features
(Hellinger distance). The score of a photo is its cosine to the nearest centroid plus the margin to
the second. Every labeled photo is scored in the same way with its near-duplicates left out, so that
scores of the right and wrong among them say how far an unlabeled photo's score can be trusted. How
often a photo of a label that nobody has given yet would score as high is measured by leaving
each label out, and weighted by the share of photos with such labels that is to be expected (Good
1953, "The population frequencies of species", Biometrika 40).
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_LABELED = 5
"""Independent photos that a label needs; a burst counts once."""

LEAST_PHOTOS = 9
"""Smallest cohort: of 46 cohorts of at least 9 photos all were right for 90 % or more; of 55 of at
least 7, one was not. With 10, a sixth more keys were needed."""

PRECISION = 0.9
"""Share of right labels that the lower bound must reach."""

CONFIDENCE = 0.9
"""Confidence of that lower bound."""

WINDOW = 6
"""Two wrong ones among so many consecutive scores are doubt; cohorts end above it."""

LABEL_WINDOW = 6
"""The same, among photos with one predicted label."""

LEAST_CALIBRATED = 20
"""Independent labeled photos from which on a share is shown."""

NONE = ""
"""Name of the label of photos that none of the labels fits."""

NONE_QUANTILE = 0.5
"""Photos of none of the labels are as sure as the surer half of those labeled so: photos that are
hard to tell, too, are unlike all labels."""

CHUNK = 4096

SAMPLE = 1500
"""Photos of a large collection among which the next ones are chosen."""

GRID = 2000
"""Shares among which a bound is found."""

CHECKED = 300
"""Scores at which the bound is computed."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Nearest labels of N photos.

    Attributes:
        labels: ``(N,) int64``, index of the nearest label.
        values: ``(N,)``, cosine to its centroid plus the margin to the second.
        cosines: ``(N, labels) float32``, cosines to all centroids.
    """

    labels: NDArray[np.int64]
    values: Array
    cosines: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Scores of the labeled photos, each with its near-duplicates left out.

    Attributes:
        labels: ``(M,) int64``, index of the nearest label.
        values: ``(M,)``, scores.
        right: ``(M,) bool``, whether the nearest label is the photo's own.
        weights: ``(M,)``; those of a group of near-duplicates sum to 1.
        unseen: ``(U,)``, scores of labeled photos with their own label left out.
        unseen_share: Expected share of unlabeled photos whose label has not been given yet.
    """

    labels: NDArray[np.int64]
    values: Array
    right: NDArray[np.bool_]
    weights: Array
    unseen: Array
    unseen_share: float

    @property
    def independent(self) -> float:
        """Number of independent labeled photos."""
        return float(self.weights.sum())

    def bounds(self) -> tuple[Array, Array]:
        """Returns the scores, highest first, and lower bounds of the share right from there up.

        The bound is that of Clopper and Pearson 1934 at `CONFIDENCE`.
        """
        order = np.argsort(-self.values, kind="stable")
        values, weights = self.values[order], self.weights[order]
        right = np.cumsum(weights * self.right[order])
        above = np.searchsorted(np.sort(-self.unseen), -values, side="right")
        unseen = above / max(1, len(self.unseen)) * self.unseen_share * self.independent
        wrong = np.cumsum(weights * ~self.right[order]) + unseen
        # Of thousands of scores some hundreds are enough.
        chosen = np.unique(np.linspace(0, len(values) - 1, CHECKED).astype(int))
        return values[chosen], lower_bounds(right[chosen], wrong[chosen])

    def threshold(self, label: int, *, quantile: float = 0.0) -> float | None:
        """Returns the lowest score at which photos of a label may be labeled together.

        None: too few photos are labeled, or they are not told apart well enough.

        Args:
            label: Index of the label.
            quantile: Of the scores of labeled photos that are rightly nearest to the label; no
                lower score counts.
        """
        values, bounds = self.bounds()
        safe = np.flatnonzero(bounds >= PRECISION)
        own = self.values[self.right & (self.labels == label)]
        if not len(safe) or not len(own):
            return None
        predicted = self.labels == label
        return max(
            float(values[safe[-1]]),
            float(np.quantile(own, quantile)),
            _doubt(self.values, self.right, WINDOW),
            _doubt(self.values[predicted], self.right[predicted], LABEL_WINDOW),
        )

    def shares(self, values: Array) -> Array | None:
        """Returns the calibrated probability that photos of these scores have their nearest label.

        The nearest-rank share of right ones among the labeled photos, made monotonic (pool adjacent
        violators: Barlow and others 1972), with one right and one wrong added. None with too few
        labeled photos.
        """
        if self.independent < LEAST_CALIBRATED:
            return None
        order = np.argsort(self.values, kind="stable")
        fitted = isotonic(self.right[order].astype(float), self.weights[order])
        known = (fitted * self.independent + 1) / (self.independent + 2)
        places = np.searchsorted(self.values[order], values, side="right") - 1
        return np.where(places < 0, known[0], known[np.maximum(places, 0)])


def lower_bounds(right: Array, wrong: Array) -> Array:
    """Returns the lower bounds of shares at `CONFIDENCE`, from numbers that need not be whole.

    The bound of Clopper and Pearson is a quantile of Beta(right, wrong + 1); 0 with none right.
    """
    shares = (np.arange(GRID) + 0.5) / GRID
    logarithms = (right[:, None] - 1) * np.log(shares) + wrong[:, None] * np.log1p(-shares)
    densities = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
    cumulative = np.cumsum(densities, axis=1)
    cumulative /= cumulative[:, -1:]
    bounds: Array = shares[(cumulative < 1 - CONFIDENCE).sum(axis=1).clip(0, GRID - 1)]
    return np.where(right >= 0.5, bounds, 0.0)


def _doubt(values: Array, right: NDArray[np.bool_], window: int) -> float:
    """Returns the score below which `window` consecutive ones can have two wrong ones."""
    order = np.argsort(-values, kind="stable")
    wrong = np.flatnonzero(~right[order])
    for first, second in itertools.pairwise(wrong.tolist()):
        if second - first < window:
            return float(np.nextafter(values[order[first]], np.inf))
    return -np.inf


def isotonic(values: Array, weights: Array) -> Array:
    """Returns the non-decreasing values with the least weighted squared distance."""
    means: list[float] = []
    sums: list[float] = []
    sizes: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        means.append(value)
        sums.append(weight)
        sizes.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            total = sums[-2] + sums[-1]
            means[-2] = (means[-2] * sums[-2] + means[-1] * sums[-1]) / total
            sums[-2], sizes[-2] = total, sizes[-2] + sizes[-1]
            del means[-1], sums[-1], sizes[-1]
    return np.repeat(means, sizes)


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Photos that probably have one label.

    Attributes:
        label: Index of the label.
        positions: The photos, the surest first.
        share: Calibrated share that has the label.
    """

    label: int
    positions: tuple[int, ...]
    share: float | None


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
        centroids = _unit(self._sums).T.astype(np.float32)
        cosines = np.zeros((len(positions), len(self.names)), np.float32)
        for start in range(0, len(positions), CHUNK):
            part = slice(start, start + CHUNK)
            cosines[part] = self._space.rows(self._features[positions[part]]) @ centroids
        labels, values = _nearest(cosines.astype(np.float64))
        return Scores(labels=labels, values=values, cosines=cosines)

    def neighbors(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the index of the label of the nearest labeled photo of each."""
        cosines = self._space.rows(self._features[positions]) @ self._rows.T
        labels: NDArray[np.int64] = self._targets[cosines.argmax(axis=1)]
        return labels

    def calibration(self) -> Calibration:
        """Returns the scores of the labeled photos, each without its group."""
        cosines = self._rows @ _unit(self._sums).T
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
            centroid = _unit(rest[None])[0]
            cosines[held, label] = -1.0 if alone else self._rows[held] @ centroid
        labels, values = _nearest(cosines)
        learnable = self.counts[self._targets] > 1.5
        cosines[np.arange(len(cosines)), self._targets] = -1.0
        is_label = np.array([name != NONE for name in self.names])[self._targets]
        _, unseen = _nearest(cosines)
        single = float(((self.counts < 1.5) & (self.counts > 0)).sum()) + self._offered
        return Calibration(
            labels=labels[learnable],
            values=values[learnable],
            right=(labels == self._targets)[learnable],
            weights=self._weights[learnable],
            unseen=unseen[is_label],
            unseen_share=min(1.0, (single + 0.5) / (self.counts.sum() + 1)),
        )


def best_cohort(
    model: LabelModel,
    scores: Scores,
    calibration: Calibration,
    positions: NDArray[np.int64],
    *,
    most: int,
) -> Cohort | None:
    """Returns the largest cohort that is safe to offer, or None.

    Its photos have the label with at least `LEAST_LABELED` independent photos as the nearest, by
    centroid and by nearest labeled photo, with scores above `Calibration.threshold`.

    Args:
        model: The labels.
        scores: Of the photos to choose from.
        calibration: Of the same model.
        positions: ``(P,)``, these photos.
        most: Largest number of photos.
    """
    best: Cohort | None = None
    for label in np.flatnonzero(model.counts >= LEAST_LABELED - 1e-6).tolist():
        is_none = model.names[label] == NONE
        threshold = calibration.threshold(label, quantile=NONE_QUANTILE if is_none else 0.0)
        if threshold is None:
            continue
        fits = np.flatnonzero((scores.labels == label) & (scores.values >= threshold))
        if len(fits) < LEAST_PHOTOS:
            continue
        fits = fits[model.neighbors(positions[fits]) == label]
        chosen = fits[np.argsort(-scores.values[fits], kind="stable")][:most]
        if len(chosen) >= LEAST_PHOTOS and (best is None or len(chosen) > len(best.positions)):
            shares = calibration.shares(scores.values[chosen])
            best = Cohort(
                label=label,
                positions=tuple(positions[chosen].tolist()),
                share=None if shares is None else float(shares.mean()),
            )
    return best


def _nearest(cosines: Array) -> tuple[NDArray[np.int64], Array]:
    """Returns the nearest label, and the score, of each row of cosines ``(N, labels)``."""
    best = cosines.argmax(axis=1)
    rows = np.arange(len(cosines))
    top = cosines[rows, best]
    if cosines.shape[1] < 2:
        return best, top
    second = np.partition(cosines, -2, axis=1)[:, -2]
    return best, top + (top - second)


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
        rows: NDArray[np.float32] = _unit(_roots(features) - self._mean)
        return rows


def select_next(
    features: NDArray[np.floating],
    labeled: NDArray[np.int64],
    positions: NDArray[np.int64],
    *,
    priority: Array | None = None,
    count: int = 20,
) -> list[int]:
    """Returns the positions of the photos to label next: those that stand for most others.

    Greedy facility location (Nemhauser, Wolsey and Fisher 1978): the photo that adds most to
    the sum, over all unlabeled photos, of the cosine to the nearest labeled or chosen one. Of a
    burst, one photo is taken. Of a large collection, `SAMPLE` random photos stand for all.

    Args:
        features: ``(N, F)`` of all photos.
        labeled: Positions of the labeled photos.
        positions: ``(P,)``, positions of the photos to choose from.
        priority: ``(P,)``, factors of what each photo adds.
        count: Maximum number of photos.
    """
    factors = np.ones(len(positions)) if priority is None else priority
    if len(positions) > SAMPLE:
        drawn = np.sort(np.random.default_rng(0).permutation(len(positions))[:SAMPLE])
        positions, factors = positions[drawn], factors[drawn]
    space = RootSpace(features)
    rows = space.rows(features[positions])
    cosines = rows @ rows.T
    covered = np.zeros(len(rows), np.float32)
    for start in range(0, len(labeled), CHUNK):
        others = space.rows(features[labeled[start : start + CHUNK]])
        covered = np.maximum(covered, (rows @ others.T).max(axis=1))
    free = np.ones(len(rows), bool)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        gains = np.maximum(cosines - covered[:, None], 0).sum(axis=0) * factors
        best = int(np.where(free, gains, -1.0).argmax())
        chosen.append(int(positions[best]))
        free[best] = False
        covered = np.maximum(covered, cosines[best])
    return chosen


def balance(counts: Array, predicted: NDArray[np.int64]) -> Array:
    """Returns the priorities of photos, given the independent photos of each label.

    Labels with few photos come first, so that each soon has the `LEAST_LABELED` of a cohort.
    """
    few = np.minimum(counts, LEAST_LABELED)[predicted]
    result: Array = np.where(few < LEAST_LABELED - 1e-6, 3.0, 1.0) / (1 + few) ** 2
    return result


def uncertainty(probabilities: Array) -> Array:
    """Returns 1 minus the margin between the two likeliest labels, ``(N,)`` in [0, 1]."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    two = -np.partition(-probabilities, 1, axis=1)[:, :2]
    margin: Array = 1 - (two[:, 0] - two[:, 1])
    return margin


def _roots(features: NDArray[np.floating]) -> NDArray[np.float32]:
    rows = features.astype(np.float32)
    roots: NDArray[np.float32] = np.sign(rows) * np.sqrt(np.abs(rows))
    return roots


def _unit(rows: NDArray[np.floating]) -> NDArray[Any]:
    """Returns rows scaled to length 1; zero rows stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)

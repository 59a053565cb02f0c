"""Distances of features from those of training photos.

The relative Mahalanobis distance of Ren et al. (2021, "A Simple Fix to Mahalanobis Distance for
Improving Near-OOD Detection", eq. 3) is the squared distance of features to the nearest label's
mean, in units of the spread within labels, minus that to the mean of all photos, in units of the
spread of all. Unusual light or sharpness adds to both. One rotation makes both spreads diagonal, so
that a run keeps a matrix, the means and one weight per dimension. It tells apart what is like the
training photos; the nearest neighbors find what is like nothing among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.evaluation.probabilities import Floats

DIMENSIONS = 64
"""Number of principal components used."""

SHRINKAGE = 0.1
"""Shrinkage: share of the mean variance added to each component's."""

BASIS_PHOTOS = 500
"""Maximum number of photos for the principal components."""

NEIGHBOR = 5
"""Rank of the neighbor whose similarity counts."""

BANK_PHOTOS = 1000
"""Maximum number of photos among which neighbors are searched."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Principal components of the features.

    Attributes:
        matrix: ``(F, K)``: a photo's coordinates are ``(features - mean) @ matrix``.
        mean: ``(F,)``.
    """

    matrix: Floats
    mean: Floats

    def __call__(self, features: ArrayLike) -> Floats:
        """Returns coordinates ``(N, K)`` of features ``(N, F)``."""
        return np.asarray((np.asarray(features, np.float64) - self.mean) @ self.matrix)


def find_basis(features: ArrayLike, *, dimensions: int = DIMENSIONS) -> Basis:
    """Returns the principal components of standardized features ``(N, F)``.

    At most `dimensions` and a quarter of the number of photos, but at least 2 if possible: the
    spread within labels is estimated in each.
    """
    values = np.asarray(features, np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
    standard = (values - mean) * scale
    count = min(dimensions, max(2, len(values) // 4), *standard.shape)
    if len(standard) <= standard.shape[1]:
        # The same components from the smaller of both Gram matrices.
        variances, left = np.linalg.eigh(standard @ standard.T)
        places = np.argsort(variances)[::-1][:count]
        places = places[variances[places] > 1e-9 * max(variances.max(), 1e-300)]
        components = standard.T @ left[:, places] / np.sqrt(variances[places])
    else:
        _, right = np.linalg.eigh(standard.T @ standard)
        components = right[:, ::-1][:, :count]
    if not components.shape[1]:  # all photos look alike: a direction in which all are at 0
        components = np.eye(len(scale), 1)
    return Basis(matrix=scale[:, None] * components, mean=mean)


@dataclass(frozen=True, kw_only=True)
class RelativeDistance:
    """Fitted relative Mahalanobis distance.

    Attributes:
        projection: ``(F, K) float32``; coordinates are ``features @ projection + offset``.
        offset: ``(K,) float32``.
        means: ``(C, K) float32``: the labels' means in these coordinates, in which the variance
            within labels is 1 in each direction.
        background: ``(K,) float32``: inverse variances of all photos, whose mean is the origin.
    """

    projection: NDArray[np.float32]
    offset: NDArray[np.float32]
    means: NDArray[np.float32]
    background: NDArray[np.float32]

    def __call__(self, features: ArrayLike) -> Floats:
        """Returns minus the relative distance of features ``(N, F)``, ``(N,)``."""
        where = np.asarray(features, np.float64) @ self.projection.astype(np.float64) + self.offset
        means = self.means.astype(np.float64)
        squared = (where**2).sum(1)[:, None] + (means**2).sum(1) - 2 * where @ means.T  # (N, C)
        return np.asarray(where**2 @ self.background - squared.min(axis=1))

    def composed_with(self, basis: Basis) -> RelativeDistance:
        """Returns this distance, composed with the projection onto a basis."""
        turn = self.projection.astype(np.float64)
        return RelativeDistance(
            projection=(basis.matrix @ turn).astype(np.float32),
            offset=(self.offset - basis.mean @ basis.matrix @ turn).astype(np.float32),
            means=self.means,
            background=self.background,
        )


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Directions of the features of training photos.

    The cosine similarity to the k-th nearest training photo is the score of Sun et al. (2022,
    "Out-of-Distribution Detection with Deep Nearest Neighbors").

    Attributes:
        bank: ``(M, F) float16``, features of length 1.
    """

    bank: NDArray[np.float16]

    def __call__(self, features: ArrayLike) -> Floats:
        """Returns the similarity of features ``(N, F)`` to the k-th nearest, ``(N,)``."""
        similarity = unit_length(features).astype(np.float32) @ self.bank.T.astype(np.float32)
        place = min(NEIGHBOR, len(self.bank))
        return np.partition(similarity, -place, axis=1)[:, -place].astype(np.float64)


def unit_length(features: ArrayLike) -> Floats:
    """Returns features ``(N, F)`` scaled to length 1."""
    values = np.asarray(features, np.float64)
    lengths = np.sqrt((values**2).sum(axis=1, keepdims=True))
    return np.asarray(values / np.maximum(lengths, 1e-12))


@dataclass(frozen=True, kw_only=True)
class FeatureDistance:
    """Relative distance and nearest neighbors of features, fitted to training photos.

    Attributes:
        neighbors: None in runs of earlier versions.
    """

    relative: RelativeDistance
    neighbors: Neighbors | None

    def __call__(self, features: ArrayLike) -> Floats:
        """Returns in-distribution scores of features ``(N, F)``, a column each: ``(N, D)``."""
        values = np.asarray(features, np.float64)
        columns = [self.relative(values)]
        if self.neighbors is not None:
            columns.append(self.neighbors(values))
        return np.stack(columns, axis=1)

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Returns the arrays by name; `from_tensors` is the inverse."""
        found: dict[str, NDArray[Any]] = {
            name: getattr(self.relative, name) for name in _RELATIVE_TENSORS
        }
        if self.neighbors is not None:
            found["neighbors"] = self.neighbors.bank
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> FeatureDistance:
        """Inverse of `to_tensors`; raises KeyError if an array is missing."""
        relative = RelativeDistance(
            **{name: np.asarray(tensors[name], np.float32) for name in _RELATIVE_TENSORS}
        )
        bank = tensors.get("neighbors")
        neighbors = None if bank is None else Neighbors(bank=np.asarray(bank, np.float16))
        return cls(relative=relative, neighbors=neighbors)


_RELATIVE_TENSORS = ("projection", "offset", "means", "background")


def fit_feature_distance(features: ArrayLike, targets: ArrayLike) -> FeatureDistance:
    """Returns the distance fitted to training photos: features ``(N, F)`` and labels ``(N,)``."""
    values = np.asarray(features, np.float64)
    basis = find_basis(values)
    return FeatureDistance(
        relative=fit_relative_distance(basis(values), targets).composed_with(basis),
        neighbors=Neighbors(bank=unit_length(values).astype(np.float16)),
    )


def fit_relative_distance(
    features: ArrayLike, targets: ArrayLike, *, shrinkage: float = SHRINKAGE
) -> RelativeDistance:
    """Returns the distance fitted to training photos.

    Args:
        features: ``(N, F)``, or the coordinates of a `Basis` (see
            `RelativeDistance.composed_with`) if there are fewer photos than features.
        targets: ``(N,)``; an index without photos has no mean.
        shrinkage: See `SHRINKAGE`.
    """
    coordinates, labels = np.asarray(features, np.float64), np.asarray(targets)
    center = coordinates.mean(axis=0)
    centered = coordinates - center
    present = np.unique(labels)
    means = np.stack([centered[labels == label].mean(axis=0) for label in present])
    inside = centered - means[np.searchsorted(present, labels)]
    within = _shrunk(inside.T @ inside / len(centered), shrinkage)
    overall = _shrunk(centered.T @ centered / len(centered), shrinkage)
    # Whitening makes the variance within labels 1; a rotation, which keeps it, then makes the
    # overall covariance diagonal.
    variances, directions = np.linalg.eigh(within)
    whitening = directions / np.sqrt(variances)
    ratios, rotation = np.linalg.eigh(whitening.T @ overall @ whitening)
    turn = whitening @ rotation
    return RelativeDistance(
        projection=turn.astype(np.float32),
        offset=(-center @ turn).astype(np.float32),
        means=(means @ turn).astype(np.float32),
        background=(1 / ratios).astype(np.float32),
    )


def _shrunk(covariance: Floats, shrinkage: float) -> Floats:
    size = len(covariance)
    # Where nothing varies (one photo a label), any spread will do: all distances are then equal.
    variance = max(float(np.trace(covariance)) / size, 1e-9)
    result: Floats = covariance + shrinkage * variance * np.eye(size)
    return result

"""Relative Mahalanobis distance of features from the training labels.

The relative Mahalanobis distance of Ren et al. (2021, "A Simple Fix to Mahalanobis Distance for
Improving Near-OOD Detection", eq. 3): the squared distance to the nearest label's mean, in units of
the spread within labels, less that to the mean of all photos, in units of the spread of them all. A
photo of something else is near no label; how unusual its light or its sharpness is, adds to both
distances and so to neither side. All of it is linear and quadratic, so that one rotation makes both
spreads diagonal, and what a run keeps is a matrix, the means and one weight a dimension.
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
"""Most photos that the directions are found from."""


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

    As many as `dimensions`, and as a quarter of the photos allows, but 2 at least where there are
    so many photos and features: a spread within labels must be known in each.
    """
    values = np.asarray(features, np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
    standard = (values - mean) * scale
    count = min(dimensions, max(2, len(values) // 4), *standard.shape)
    if len(standard) <= standard.shape[1]:
        # The same components from the smaller of the two products.
        variances, left = np.linalg.eigh(standard @ standard.T)
        places = np.argsort(variances)[::-1][:count]
        places = places[variances[places] > 1e-9 * max(variances.max(), 1e-300)]
        components = standard.T @ left[:, places] / np.sqrt(variances[places])
    else:
        _, right = np.linalg.eigh(standard.T @ standard)
        components = right[:, ::-1][:, :count]
    return Basis(matrix=scale[:, None] * components, mean=mean)


@dataclass(frozen=True, kw_only=True)
class RelativeDistance:
    """Fitted relative Mahalanobis distance.

    Attributes:
        projection: ``(F, K) float32``; coordinates are ``features @ projection + offset``.
        offset: ``(K,) float32``.
        means: ``(C, K) float32``: the labels' means in these coordinates, in which the spread
            within labels is 1 in each direction.
        background: ``(K,) float32``: one over the variance of all photos in each direction; their
            mean is the origin.
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

    def behind(self, basis: Basis) -> RelativeDistance:
        """Returns this distance, composed with the projection onto a basis."""
        turn = self.projection.astype(np.float64)
        return RelativeDistance(
            projection=(basis.matrix @ turn).astype(np.float32),
            offset=(self.offset - basis.mean @ basis.matrix @ turn).astype(np.float32),
            means=self.means,
            background=self.background,
        )

    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Returns its arrays by name; `from_tensors` is the inverse."""
        return {
            "projection": self.projection,
            "offset": self.offset,
            "means": self.means,
            "background": self.background,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> RelativeDistance:
        """Returns the distance of `to_tensors`; raises KeyError where an array is missing."""
        return cls(
            **{
                name: np.asarray(tensors[name], np.float32)
                for name in ("projection", "offset", "means", "background")
            }
        )


def fit_relative_distance(
    features: ArrayLike, targets: ArrayLike, *, shrinkage: float = SHRINKAGE
) -> RelativeDistance:
    """Returns the distance from photos that were learned.

    Args:
        features: ``(N, F)``; the coordinates of a `Basis`, where there are fewer photos than
            features, and `RelativeDistance.behind` then takes the features themselves.
        targets: ``(N,)``; an index without photos has no mean.
        shrinkage: As `SHRINKAGE`.
    """
    coordinates, labels = np.asarray(features, np.float64), np.asarray(targets)
    center = coordinates.mean(axis=0)
    centered = coordinates - center
    present = np.unique(labels)
    means = np.stack([centered[labels == label].mean(axis=0) for label in present])
    inside = centered - means[np.searchsorted(present, labels)]
    within = _shrunk(inside.T @ inside / len(centered), shrinkage)
    overall = _shrunk(centered.T @ centered / len(centered), shrinkage)
    # First the spread within labels becomes 1 everywhere, then a rotation, which leaves it at 1,
    # makes the overall spread diagonal.
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

"""Out-of-distribution scores, and the threshold below which a photo is unknown.

The relative Mahalanobis distance of Ren et al. (2021, "A Simple Fix to Mahalanobis Distance for
Improving Near-OOD Detection", eq. 3) is the squared distance of features to the nearest label's
mean, in units of the spread within labels, minus that to the mean of all photos, in units of the
spread of all. Unusual light or sharpness adds to both. One rotation makes both spreads diagonal, so
that a run keeps a matrix, the means and one weight per dimension.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.evaluation.intervals import Interval
from finetune.evaluation.probabilities import Floats, check_finite, log_softmax


@dataclass(frozen=True, kw_only=True)
class UnknownThreshold:
    """Threshold on an out-of-distribution score, with the precision it was fitted for.

    Attributes:
        score: Which score it belongs to.
        threshold: Minimum score of accepted photos; None if no threshold reaches any precision
            target, and all photos are accepted.
        precision: Precision target: the share of accepted photos that should be right.
        measured_precision: Precision on the photos fitted on; None if none is accepted.
        precision_interval: Its 95 % Wilson interval.
        coverage: Share of photos of known labels that are accepted.
        refused_unknown: Share of photos of held-out labels that are rejected; None without any.
        photos: Number of photos of known labels fitted on.
        unknown_photos: Number of photos of held-out labels fitted on.
        unknown_share: Assumed share of out-of-distribution photos.
        confidence: Confidence of the precision target; 0.5 in old runs.
        mixture: Set for ``odds_and_distance``.
        distance: Set for ``odds_and_distance``; saved in a file of its own.
    """

    score: Score
    threshold: float | None
    precision: float
    measured_precision: float | None
    precision_interval: Interval | None
    coverage: float
    refused_unknown: float | None
    photos: int
    unknown_photos: int
    unknown_share: float | None = None
    confidence: float = 0.5
    mixture: Mixture | None = None
    distance: RelativeDistance | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values, without the distance."""
        content = dataclasses.asdict(dataclasses.replace(self, distance=None))
        del content["distance"]
        return content

    @classmethod
    def from_dict(
        cls, content: dict[str, Any], distance: RelativeDistance | None = None
    ) -> UnknownThreshold:
        """Inverse of `to_dict`; raises TypeError if fields differ.

        Raises:
            ValueError: The score needs a distance, which is missing.
        """
        interval = content.get("precision_interval")
        mixture = content.get("mixture")
        if content.get("score") == "odds_and_distance" and (distance is None or mixture is None):
            raise ValueError("the distance of its threshold for unknown photos")
        return cls(
            **{
                **content,
                "precision_interval": (float(interval[0]), float(interval[1]))
                if interval
                else None,
                "mixture": Mixture(**mixture) if mixture else None,
                "distance": distance,
            }
        )

    @property
    def needs_features(self) -> bool:
        """Whether the score needs features beside logits."""
        return self.score == "odds_and_distance"

    def distances(self, features: ArrayLike) -> Floats:
        """Returns the in-distribution scores of features, ``(N, F)`` to ``(N,)``.

        Raises:
            ValueError: The score does not use features.
        """
        if self.distance is None:
            raise ValueError(f"{self.score} does not use features")
        return self.distance(features)

    def scores(
        self, logits: ArrayLike, distances: ArrayLike | None, *, temperature: float
    ) -> Floats:
        """Returns the score of photos, ``(N,)``.

        Args:
            logits: ``(N, C)``.
            distances: ``(N,)``; see `distances`. Required if the score needs features.
            temperature: Divides the logits.

        Raises:
            ModelError: Some logits are not finite.
            ValueError: The score needs distances, which are missing.
        """
        if not self.needs_features:
            return ood_score(logits, score=self.score, temperature=temperature)
        if distances is None or self.mixture is None:
            raise ValueError("odds_and_distance needs distances and a mixture")
        values = np.asarray(logits, np.float64)
        check_finite(values)
        odds = log_odds(values, temperature=temperature)
        return self.mixture(odds, np.asarray(distances, np.float64))

    def is_unknown(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Returns which scores are below the threshold, ``(N,) bool``."""
        values = np.asarray(scores, dtype=np.float64)
        if self.threshold is None:
            return np.zeros(values.shape, dtype=bool)
        return np.asarray(values < self.threshold)


Score = Literal["energy", "max_logit", "max_probability", "odds_and_distance"]


def ood_score(logits: ArrayLike, *, score: Score = "energy", temperature: float = 1.0) -> Floats:
    """Returns an out-of-distribution score of logits, ``(N,)``; higher is more in-distribution.

    Args:
        logits: ``(N, C)``.
        score: ``energy``: ``T·logsumexp(z/T)``, the negative free energy of Liu et al. (2020);
            ``max_logit``: Hendrycks et al. (2022); ``max_probability``: Hendrycks & Gimpel (2017).
            ``odds_and_distance`` needs features; see `UnknownThreshold.scores`.
        temperature: T of energy and max_probability; max_logit does not depend on it.

    Returns:
        ``(N,) float64``, higher is more in-distribution.

    Raises:
        ModelError: Some logits are not finite.
        ValueError: An unknown score.
    """
    values = np.asarray(logits, dtype=np.float64)
    check_finite(values)
    if score == "max_logit":
        return np.asarray(values.max(axis=1))
    scaled = values / temperature
    if score == "energy":
        # log_softmax = z - logsumexp(z), so that any column gives logsumexp back.
        return np.asarray(temperature * (scaled - log_softmax(scaled))[:, 0])
    if score == "max_probability":
        return np.asarray(np.exp(log_softmax(scaled).max(axis=1)))
    raise ValueError(f"score {score!r} needs features, or is not one of {get_args(Score)}")


def log_odds(logits: ArrayLike, *, temperature: float = 1.0) -> Floats:
    """Returns ``log(p / (1 - p))`` of each photo's greatest probability p, ``(N,)``.

    Computed from the logits: exact even where p rounds to 1. With one label it is infinity.
    """
    scaled = np.sort(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    if scaled.shape[1] < 2:
        return np.full(len(scaled), np.inf)
    first, others = scaled[:, -1], scaled[:, :-1]
    second = others[:, -1]
    rest = np.log(np.exp(others - second[:, None]).sum(axis=1))
    return np.asarray(first - second - rest)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Sum of log odds and distance, each in units of its spread on known photos.

    Attributes:
        odds_spread: Standard deviation of the log odds.
        distance_spread: Standard deviation of the distance.
    """

    odds_spread: float
    distance_spread: float

    def __call__(self, odds: Floats, distances: Floats) -> Floats:
        """Returns the score, ``(N,)``."""
        return odds / self.odds_spread + distances / self.distance_spread


def fit_mixture(odds: ArrayLike, distances: ArrayLike) -> Mixture:
    """Returns the mixture with equal weights on photos of known labels."""
    spreads = [float(np.std(np.asarray(values, np.float64))) for values in (odds, distances)]
    first, second = (spread if spread > 1e-9 else 1.0 for spread in spreads)
    return Mixture(odds_spread=first, distance_spread=second)


DIMENSIONS = 64
"""Number of principal components used."""

SHRINKAGE = 0.1
"""Shrinkage: share of the mean variance added to each component's."""

BASIS_PHOTOS = 500
"""Maximum number of photos for the principal components."""


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

    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Returns the arrays by name; `from_tensors` is the inverse."""
        return {
            "projection": self.projection,
            "offset": self.offset,
            "means": self.means,
            "background": self.background,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> RelativeDistance:
        """Inverse of `to_tensors`; raises KeyError if an array is missing."""
        return cls(
            **{
                name: np.asarray(tensors[name], np.float32)
                for name in ("projection", "offset", "means", "background")
            }
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

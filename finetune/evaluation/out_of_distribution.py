"""Detection of photos that are unlike all that was learned.

An out-of-distribution score is compared with a threshold that a stated share of photos of known
labels falls below: the false alarms. The threshold is a quantile of the scores of held-out photos
with the correction of conformal prediction (Vovk et al. 2005), so that the share holds for new
photos, whatever the score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.config import FALSE_ALARMS
from finetune.evaluation.feature_distance import FeatureDistance
from finetune.evaluation.probabilities import Floats, check_finite, log_softmax

MAX_SCORES = 1000
"""Largest number of saved scores; of more photos, quantiles are saved."""


@dataclass(frozen=True, kw_only=True)
class Power:
    """Share of photos of other subjects that were detected at the default false alarms.

    Attributes:
        subject: Their kind, in words.
        photos: How many there were.
        detected: How many of them were detected.
    """

    subject: str
    photos: int
    detected: int


@dataclass(frozen=True, kw_only=True)
class UnknownDetector:
    """Fitted out-of-distribution score with the scores of held-out photos of known labels.

    Attributes:
        score: Which score it is.
        known_scores: Ascending, or their quantiles.
        photos: Number of held-out photos.
        power: Measured detection of other subjects.
        mixture: Set where the score uses distances.
        distance: Likewise; saved in a file of its own.
        fixed: Threshold of a run of an earlier version, instead of `known_scores`.
    """

    score: Score
    known_scores: tuple[float, ...] = ()
    photos: int = 0
    power: tuple[Power, ...] = ()
    mixture: Mixture | None = None
    distance: FeatureDistance | None = field(default=None, repr=False, compare=False)
    fixed: float | None = None

    def threshold(self, false_alarms: float = FALSE_ALARMS) -> float | None:
        """Returns the score below which a photo is unknown.

        None where no photo is: for no false alarms, or too few held-out photos to state so few.
        A run of an earlier version has one threshold for any share above 0.
        """
        if false_alarms <= 0:
            return None
        if not self.known_scores:
            return self.fixed
        return conformal_quantile(self.known_scores, false_alarms, photos=self.photos)

    def is_unknown(
        self, scores: ArrayLike, false_alarms: float = FALSE_ALARMS
    ) -> NDArray[np.bool_]:
        """Returns which scores are below the threshold, ``(N,) bool``."""
        limit = self.threshold(false_alarms)
        return np.asarray(scores, np.float64) < (-np.inf if limit is None else limit)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values, without the distance."""
        return {
            "score": self.score,
            "false_alarms": FALSE_ALARMS,
            "threshold": self.threshold(),
            "photos": self.photos,
            "power": [vars(item) for item in self.power],
            "mixture": self.mixture.to_dict() if self.mixture else None,
            "known_scores": list(self.known_scores),
        }

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], distance: FeatureDistance | None = None
    ) -> UnknownDetector:
        """Inverse of `to_dict`; reads runs of earlier versions, too.

        Raises:
            KeyError: An entry is missing.
            ValueError: The score needs a distance, which is missing.
        """
        score, spreads = content["score"], content.get("mixture")
        if score == "odds_and_distance" and (distance is None or not spreads):
            raise ValueError("the distance of its threshold for unknown photos")
        threshold = content["threshold"]
        scores = tuple(float(value) for value in content.get("known_scores", ()))
        return cls(
            score=score,
            known_scores=scores,
            photos=int(content["photos"]),
            power=tuple(Power(**item) for item in content.get("power", ())),
            mixture=Mixture.from_dict(spreads) if spreads else None,
            distance=distance,
            fixed=None if scores or threshold is None else float(threshold),
        )

    @property
    def needs_features(self) -> bool:
        """Whether the score needs features beside logits."""
        return self.score == "odds_and_distance"

    def distances(self, features: ArrayLike) -> Floats:
        """Returns the in-distribution scores of features, ``(N, F)`` to ``(N, D)``.

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
            distances: ``(N, D)``; see `distances`. Required if the score needs features.
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


def conformal_quantile(
    scores: ArrayLike, share: float, *, photos: int | None = None
) -> float | None:
    """Returns the score below which this share of new photos falls; None for too few scores.

    A new photo's rank among n others is uniform, so that it falls below the k-th smallest of them
    with probability ``k / (n + 1)``; between two ranks the scores are interpolated.

    Args:
        scores: Ascending scores of held-out photos, or their quantiles in equal steps.
        share: Above 0 and below 1.
        photos: n, where `scores` are quantiles.

    Example:
        >>> conformal_quantile(range(1, 20), 0.05)
        1.0
    """
    values = np.asarray(scores, np.float64)
    count = photos or len(values)
    rank = share * (count + 1)
    if rank < 1 - 1e-9:
        return None
    # Places of the ranks 1 to n among the quantiles, of which each stands for count / M ranks.
    place = (rank - 0.5) * len(values) / count - 0.5
    return float(np.interp(place, np.arange(len(values)), values))


def needed_photos(false_alarms: float) -> int:
    """Returns the fewest held-out photos for a share of false alarms."""
    return math.ceil(1 / false_alarms - 1 - 1e-9)


def saved_scores(scores: ArrayLike) -> tuple[float, ...]:
    """Returns ascending scores, or of many their quantiles in equal steps."""
    values = np.sort(np.asarray(scores, np.float64))
    if len(values) > MAX_SCORES:
        steps = (np.arange(MAX_SCORES) + 0.5) * len(values) / MAX_SCORES - 0.5
        values = np.interp(steps, np.arange(len(values)), values)
    return tuple(values.tolist())


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
    """Sum of log odds and distances, each in units of its spread on known photos.

    Attributes:
        odds_spread: Standard deviation of the log odds.
        distance_spread: That of the relative distance.
        similarity_spread: That of the similarity to neighbors; None in runs of earlier versions.
    """

    odds_spread: float
    distance_spread: float
    similarity_spread: float | None = None

    def __call__(self, odds: Floats, distances: Floats) -> Floats:
        """Returns the score ``(N,)`` of log odds ``(N,)`` and distances ``(N, D)``."""
        score = odds / self.odds_spread + distances[:, 0] / self.distance_spread
        if self.similarity_spread is not None:
            score = score + distances[:, 1] / self.similarity_spread
        return np.asarray(score)

    def to_dict(self) -> dict[str, float]:
        """Returns JSON values, without missing ones."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Mixture:
        """Inverse of `to_dict`; raises TypeError for an unknown spread."""
        return cls(**{name: float(value) for name, value in content.items()})


def fit_mixture(odds: ArrayLike, distances: ArrayLike) -> Mixture:
    """Returns the mixture with equal weights on photos of known labels."""
    columns = [np.asarray(odds, np.float64), *np.asarray(distances, np.float64).T]
    spreads = [float(column.std()) for column in columns]
    names = ("odds_spread", "distance_spread", "similarity_spread")
    safe = (spread if spread > 1e-9 else 1.0 for spread in spreads)
    return Mixture(**dict(zip(names, safe, strict=False)))

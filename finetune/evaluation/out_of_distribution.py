"""Unknown threshold: out-of-distribution score below which a photo is unknown."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.evaluation.intervals import Interval
from finetune.evaluation.mahalanobis import RelativeDistance
from finetune.evaluation.ood_scores import Mixture, Score, familiarity, log_odds
from finetune.evaluation.probabilities import Floats, check_finite


@dataclass(frozen=True, kw_only=True)
class UnknownThreshold:
    """Threshold on an out-of-distribution score, with the precision it was fitted for.

    Attributes:
        score: Which score it belongs to.
        threshold: A photo is answered where its score is at least this; None where no threshold
            keeps any precision, and no photo is then refused.
        precision: The stated precision: of the photos answered, this share should be right.
        measured_precision: What the photos fitted on gave; None where none is answered.
        precision_interval: Its 95 % Wilson interval.
        coverage: Share of the known photos that are answered.
        refused_unknown: Share of the photos of foreign labels that are refused; None without any.
        photos: Known photos fitted on.
        unknown_photos: Photos of foreign labels fitted on; with 0 the promise knows no strangers.
        unknown_share: Share of foreign photos that the promise reckons with.
        confidence: How sure the promise is; 0.5 in runs of old.
        mixture: Of ``odds_and_distance``.
        distance: Likewise; beside the other fields, in a file of its own.
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
        """Returns the fields as plain JSON values, without the distance."""
        content = dataclasses.asdict(dataclasses.replace(self, distance=None))
        del content["distance"]
        return content

    @classmethod
    def from_dict(
        cls, content: dict[str, Any], distance: RelativeDistance | None = None
    ) -> UnknownThreshold:
        """Returns the threshold of `to_dict`; raises TypeError where fields differ.

        Raises:
            ValueError: The score needs a distance, and there is none.
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
            ValueError: The score looks at no features.
        """
        if self.distance is None:
            raise ValueError(f"{self.score} looks at no features")
        return self.distance(features)

    def scores(
        self, logits: ArrayLike, distances: ArrayLike | None, *, temperature: float
    ) -> Floats:
        """Returns the score of photos, ``(N,)``.

        Args:
            logits: ``(N, C)``.
            distances: ``(N,)``, as `distances` returns them, where the score needs features.
            temperature: Divides the logits.

        Raises:
            ModelError: Some logits are not finite.
            ValueError: The score needs features, and there are no distances.
        """
        if not self.needs_features:
            return familiarity(logits, score=self.score, temperature=temperature)
        if distances is None or self.mixture is None:
            raise ValueError("odds_and_distance needs distances and a mixture")
        values = np.asarray(logits, np.float64)
        check_finite(values)
        odds = log_odds(values, temperature=temperature)
        return self.mixture(odds, np.asarray(distances, np.float64))

    def refuses(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Returns which scores are below the threshold, ``(N,) bool``."""
        values = np.asarray(scores, dtype=np.float64)
        if self.threshold is None:
            return np.zeros(values.shape, dtype=bool)
        return np.asarray(values < self.threshold)

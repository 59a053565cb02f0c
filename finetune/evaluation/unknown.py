"""When to say "none of these": a score of familiarity and a threshold for a stated precision.

A photo of something that the network never learned still gets a label. Each score here is greater
for photos like those trained on; below the threshold the answer is "none of these".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.intervals import Interval, wilson
from finetune.evaluation.probabilities import Floats, check_finite, log_softmax

Score = Literal["energy", "max_logit", "max_probability"]


def familiarity(logits: ArrayLike, *, score: Score = "energy", temperature: float = 1.0) -> Floats:
    """Returns how much each photo resembles what was trained on; greater is more familiar.

    Args:
        logits: ``(N, C)``.
        score: ``energy``: ``T·logsumexp(z/T)``, the negative free energy of Liu et al. (2020);
            ``max_logit``: Hendrycks et al. (2022); ``max_probability``: Hendrycks & Gimpel (2017).
        temperature: T of energy and max_probability; max_logit does not depend on it.

    Returns:
        ``(N,) float64``.

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
    raise ValueError(f"score {score!r} is none of {', '.join(get_args(Score))}")


def nearest_distance(
    features: ArrayLike, known_features: ArrayLike, *, neighbour: int = 1
) -> Floats:
    """Returns minus the distance to the k-th nearest known photo; greater is more familiar.

    Features are scaled to length 1 first (Sun et al. 2022, "Out-of-Distribution Detection with
    Deep Nearest Neighbors", eq. 2). Zero features stay zero.

    Args:
        features: ``(N, D)`` of the photos asked about.
        known_features: ``(M, D)`` of the training photos.
        neighbour: k, at most M.

    Returns:
        ``(N,) float64`` in -2..0.
    """
    asked, known = _unit_rows(features), _unit_rows(known_features)
    if not 1 <= neighbour <= len(known):
        raise ValueError(f"neighbour {neighbour} must lie in 1..{len(known)}")
    result = np.empty(len(asked))
    # Rows in blocks: all distances of 6,000 photos to 60,000 would take 3 GB.
    for start in range(0, len(asked), 512):
        block = asked[start : start + 512]
        squared = (block**2).sum(1)[:, None] + (known**2).sum(1) - 2 * block @ known.T
        kth = np.partition(squared, neighbour - 1, axis=1)[:, neighbour - 1]
        result[start : start + 512] = -np.sqrt(np.maximum(kth, 0.0))
    return result


@dataclass(frozen=True, kw_only=True)
class UnknownThreshold:
    """Below which score a photo is "none of these", and what it was fitted for.

    Attributes:
        score: Which score it belongs to.
        threshold: A photo is answered where its score is at least this; None where no threshold
            reaches the precision, and no photo is then refused.
        precision: The stated precision: of the photos answered, this share should be right.
        measured_precision: What the photos fitted on gave; None where none is answered.
        precision_interval: Its 95 % Wilson interval.
        coverage: Share of the known photos that are answered.
        refused_unknown: Share of the photos of foreign labels that are refused; None without any.
        photos: Known photos fitted on.
        unknown_photos: Photos of foreign labels fitted on.
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

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> UnknownThreshold:
        """Returns the threshold that `to_dict` described; TypeError where fields differ."""
        interval = content.get("precision_interval")
        ends = (float(interval[0]), float(interval[1])) if interval else None
        return cls(**{**content, "precision_interval": ends})

    def refuses(self, scores: ArrayLike) -> np.ndarray:
        """Returns for each score whether the answer is "none of these", ``(N,) bool``."""
        values = np.asarray(scores, dtype=np.float64)
        if self.threshold is None:
            return np.zeros(values.shape, dtype=bool)
        return np.asarray(values < self.threshold)


def fit_threshold(
    scores: ArrayLike,
    correct: ArrayLike,
    *,
    unknown_scores: ArrayLike = (),
    unknown_share: float | None = None,
    precision: float = 0.95,
    caution: float = 0.0,
    score: Score = "energy",
) -> UnknownThreshold:
    """Returns the lowest threshold at which the answers given are right as often as stated.

    An answered photo of a foreign label counts as wrong. Among the thresholds that reach the
    precision the lowest is taken, which answers most. Photos of equal score are answered all or
    none. Without `unknown_scores` the precision is one among photos of known labels alone, and
    foreign photos will break it; `finetune.evaluation.held_out_labels` makes some.

    Args:
        scores: ``(N,)`` of validation photos, greater is more familiar.
        correct: ``(N,)`` whether the label said is right.
        unknown_scores: ``(M,)`` of photos whose labels the network never saw.
        unknown_share: Share of foreign photos among those that will be asked about, 0 <= share < 1;
            None: as many as there are scores.
        precision: Share of the answers that should be right, 0 < precision <= 1.
        caution: Binomial standard errors by which the precision must be surpassed here. The best of
            many thresholds looks better than it is: 0 keeps the stated precision on these photos, 1
            on most other photos too, at the cost of fewer answers.
        score: The name to remember.
    """
    known = np.asarray(scores, dtype=np.float64)
    right = np.asarray(correct, dtype=bool)
    foreign = np.asarray(unknown_scores, dtype=np.float64)
    if not 0 < precision <= 1:
        raise ValueError(f"precision {precision} must lie above 0 and be at most 1")
    if unknown_share is not None and not 0 <= unknown_share < 1:
        raise ValueError(f"unknown_share {unknown_share} must be 0 or more and below 1")
    if known.shape != right.shape:
        raise ValueError(f"{known.shape} scores, but {right.shape} of right and wrong")
    weight = 1.0
    if unknown_share is not None and len(foreign):
        weight = unknown_share / (1 - unknown_share) * len(known) / len(foreign)
    every = np.concatenate([known, foreign])
    hits = np.concatenate([right, np.zeros(len(foreign), dtype=bool)])
    weights = np.concatenate([np.ones(len(known)), np.full(len(foreign), weight)])
    order = np.argsort(-every, kind="stable")
    ranked = every[order]
    right_so_far = np.cumsum(hits[order])
    taken = np.cumsum(weights[order])
    last_of_ties = np.r_[ranked[1:] != ranked[:-1], True] if len(every) else np.zeros(0, bool)
    margin = caution * np.sqrt(precision * (1 - precision) * taken)
    enough = (right_so_far > 0) & (right_so_far >= precision * taken + margin - 1e-9)
    good = np.flatnonzero(last_of_ties & enough)
    threshold = float(ranked[good[-1]]) if len(good) else None
    answered = float(taken[good[-1]]) if len(good) else 0.0
    successes = int(right_so_far[good[-1]]) if len(good) else 0
    limit = np.inf if threshold is None else threshold
    return UnknownThreshold(
        score=score,
        threshold=threshold,
        precision=precision,
        measured_precision=successes / answered if answered else None,
        precision_interval=wilson(successes, max(successes, round(answered))),
        coverage=float((known >= limit).mean()) if len(known) else 0.0,
        refused_unknown=float((foreign < limit).mean()) if len(foreign) else None,
        photos=len(known),
        unknown_photos=len(foreign),
    )


def _unit_rows(features: ArrayLike) -> Floats:
    values = np.asarray(features, dtype=np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1.0))

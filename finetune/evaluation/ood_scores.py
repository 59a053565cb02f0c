"""Out-of-distribution scores of logits and features; higher is more in-distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from finetune.evaluation.probabilities import Floats, check_finite, log_softmax

Score = Literal["energy", "max_logit", "max_probability", "odds_and_distance"]


def familiarity(logits: ArrayLike, *, score: Score = "energy", temperature: float = 1.0) -> Floats:
    """Returns an out-of-distribution score of logits, ``(N,)``; higher is more in-distribution.

    Args:
        logits: ``(N, C)``.
        score: ``energy``: ``T·logsumexp(z/T)``, the negative free energy of Liu et al. (2020);
            ``max_logit``: Hendrycks et al. (2022); ``max_probability``: Hendrycks & Gimpel (2017).
            ``odds_and_distance`` needs features; see `UnknownThreshold.scores`.
        temperature: T of energy and max_probability; max_logit does not depend on it.

    Returns:
        ``(N,) float64``, greater is more familiar.

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
    raise ValueError(f"score {score!r} is no score of logits alone, or none of {get_args(Score)}")


def log_odds(logits: ArrayLike, *, temperature: float = 1.0) -> Floats:
    """Returns ``log(p / (1 - p))`` of each photo's greatest probability p, ``(N,)``.

    Computed from the logits, so that the odds of a probability that rounds to 1 are still told
    apart. With one label there is no doubt: infinity.
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
    """Returns the mixture that weighs both equally on known photos."""
    spreads = [float(np.std(np.asarray(values, np.float64))) for values in (odds, distances)]
    first, second = (spread if spread > 1e-9 else 1.0 for spread in spreads)
    return Mixture(odds_spread=first, distance_spread=second)

"""How far a share measured on few photos can be trusted."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from finetune.evaluation.probabilities import Floats

Interval = tuple[float, float]
"""Lower and upper end."""


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval | None:
    """Returns Wilson's score interval of a share; None without a trial.

    ``(p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` with ``p = successes / n``
    (Wilson 1927, eq. 4). Unlike ``p ± z·sqrt(p(1-p)/n)`` it stays within 0..1 and has a width at
    0 of n and n of n.

    Example:
        >>> [round(end, 4) for end in wilson(8, 10)]
        [0.4902, 0.9433]
    """
    if trials == 0:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # Rounding may leave the ends of 0 of n and n of n a hair outside.
    low = 0.0 if successes == 0 else (centre - reach) / scale
    high = 1.0 if successes == trials else (centre + reach) / scale
    return low, high


def percentile_interval(values: Floats, *, confidence: float = 0.95) -> Interval | None:
    """Returns the percentile bootstrap interval (Efron 1979) of a statistic's resampled values.

    It spans the middle `confidence` share of them; NaN (undefined) is left out, and None is
    returned where all are.
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

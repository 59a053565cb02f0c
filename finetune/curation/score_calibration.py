"""Calibrated probabilities that photos have their nearest label, with a cautious bound.

Logistic regression on the score (Platt 1999) with an offset for each predicted label, as a Bayesian
estimate: the prior of intercept and slope is their mean and spread over many collections, the
posterior is approximated at its mode (Laplace; MacKay 1992, "The evidence framework applied to
classification networks"). The bound falls by some posterior deviations, so that few labeled photos,
and a label that was often wrong, count as doubt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR = np.array([1.4, 2.2])
"""Intercept and slope: rounded means (1.38, 2.17) over eleven mixtures of flowers, pets, hand
signs, CIFAR-10 and web photos, each with its near-duplicates left out."""

PRIOR_DEVIATION = np.array([0.7, 0.7])
"""About their standard deviations over these (0.69, 0.83)."""

OFFSET_DEVIATION = 0.5
"""Standard deviation of the offsets of labels."""

CAUTION = 1.5
"""Posterior standard deviations by which the bound lies below the mode."""

LEAST_LABELED = 20
"""Independent labeled photos from which on there are probabilities."""

MOST_STEPS = 50
LARGEST_STEP = 3.0
SMALL_STEP = 1e-6

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Fitted logistic regression, and scores of the labeled photos.

    Attributes:
        mode: ``(2,)``, intercept and slope.
        offsets: ``(labels,)``.
        covariance: ``(2, 2)`` of intercept and slope.
        shared: ``(2, labels)``, covariance of these with the offsets.
        variances: ``(labels,)`` of the offsets.
        independent: Number of independent labeled photos.
        least_right: Lowest score of a labeled photo whose nearest label is right; None without one.
    """

    mode: Array
    offsets: Array
    covariance: Array
    shared: Array
    variances: Array
    independent: float
    least_right: float | None

    def shares(self, values: Array, labels: Labels) -> Array | None:
        """Returns the probability that photos have their nearest label; None with few labeled."""
        if self.independent < LEAST_LABELED:
            return None
        return _sigmoid(self._log_odds(values, labels))

    def bounds(self, values: Array, labels: Labels) -> Array:
        """Returns a cautious lower bound of that probability; 0 with few labeled photos."""
        if self.independent < LEAST_LABELED:
            return np.zeros(len(values))
        rows = np.stack([np.ones(len(values)), values], axis=1)
        variance = np.einsum("ij,jk,ik->i", rows, self.covariance, rows)
        variance += 2 * (rows * self.shared[:, labels].T).sum(axis=1) + self.variances[labels]
        return _sigmoid(self._log_odds(values, labels) - CAUTION * np.sqrt(variance))

    def _log_odds(self, values: Array, labels: Labels) -> Array:
        result: Array = self.mode[0] + self.mode[1] * values + self.offsets[labels]
        return result


def fit_calibration(
    values: Array,
    labels: Labels,
    right: NDArray[np.bool_],
    weights: Array,
    *,
    count: int,
    independent: float,
) -> Calibration:
    """Returns the calibration by photos whose label is known.

    Newton's method; the Hessian is an arrow, whose block of offsets is diagonal.

    Args:
        values: ``(M,)``, scores.
        labels: ``(M,)``, index of the nearest label.
        right: ``(M,)``, whether that is the photo's own.
        weights: ``(M,)``.
        count: Number of labels.
        independent: Number of independent labeled photos.
    """
    rows = np.stack([np.ones(len(values)), values], axis=1)
    precision, offset_precision = 1 / PRIOR_DEVIATION**2, 1 / OFFSET_DEVIATION**2
    mode, offsets = PRIOR.copy(), np.zeros(count)
    for _ in range(MOST_STEPS):
        p = _sigmoid(rows @ mode + offsets[labels])
        rest, curvature = weights * (right - p), weights * p * (1 - p)
        corner = (rows * curvature[:, None]).T @ rows + np.diag(precision)
        edge = np.stack([np.bincount(labels, curvature * row, count) for row in rows.T])
        diagonal = np.bincount(labels, curvature, count) + offset_precision
        slope = rest @ rows - precision * (mode - PRIOR)
        offset_slope = np.bincount(labels, rest, count) - offset_precision * offsets
        covariance: Array = np.linalg.inv(corner - (edge / diagonal) @ edge.T).astype(np.float64)
        step = covariance @ (slope - edge @ (offset_slope / diagonal))
        offset_step = (offset_slope - edge.T @ step) / diagonal
        mode = mode + step.clip(-LARGEST_STEP, LARGEST_STEP)
        offsets = offsets + offset_step.clip(-LARGEST_STEP, LARGEST_STEP)
        if max(np.abs(step).max(), np.abs(offset_step).max(initial=0)) < SMALL_STEP:
            break
    shared = -covariance @ edge / diagonal
    return Calibration(
        mode=mode,
        offsets=offsets,
        covariance=covariance,
        shared=shared,
        variances=1 / diagonal - (edge / diagonal * shared).sum(axis=0),
        independent=independent,
        least_right=float(values[right].min()) if right.any() else None,
    )


def _sigmoid(values: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-values.clip(-500, 500)))
    return result

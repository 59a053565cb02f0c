"""Calibration against SciPy's minimizer and numeric derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from finetune.curation.score_calibration import (
    CAUTION,
    OFFSET_DEVIATION,
    PRIOR,
    PRIOR_DEVIATION,
    Calibration,
    fit_calibration,
)

Floats = NDArray[np.float64]
LABELS = 3


def drawn(count: int = 60, seed: int = 0) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
    """Scores, labels, and whether they are right: label 2 is wrong more often."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.5, 1.2, count)
    labels = rng.integers(0, LABELS, count)
    odds = 0.6 + 1.5 * values - 1.5 * (labels == 2)
    return values, labels, rng.random(count) < 1 / (1 + np.exp(-odds))


def fitted(independent: float = 60) -> Calibration:
    values, labels, right = drawn()
    weights = np.linspace(0.2, 1, len(values))
    return fit_calibration(values, labels, right, weights, count=LABELS, independent=independent)


def energy(parameters: Floats) -> float:
    """Negative logarithm of the posterior."""
    values, labels, right = drawn()
    weights = np.linspace(0.2, 1, len(values))
    mode, offsets = parameters[:2], parameters[2:]
    odds = mode[0] + mode[1] * values + offsets[labels]
    loss = (weights * np.logaddexp(0, np.where(right, -odds, odds))).sum()
    prior = (((mode - PRIOR) / PRIOR_DEVIATION) ** 2).sum() / 2
    return float(loss + prior + ((offsets / OFFSET_DEVIATION) ** 2).sum() / 2)


def hessian(at: Floats, step: float = 1e-3) -> Floats:
    size = len(at)
    result = np.zeros((size, size))
    eye = np.eye(size) * step
    for i in range(size):
        for j in range(size):
            corners = [energy(at + a * eye[i] + b * eye[j]) for a in (1, -1) for b in (1, -1)]
            result[i, j] = (corners[0] - corners[1] - corners[2] + corners[3]) / (4 * step**2)
    return result


def test_the_mode_is_that_of_scipy() -> None:
    found = fitted()
    expected = minimize(energy, np.zeros(2 + LABELS), tol=1e-10).x
    np.testing.assert_allclose([*found.mode, *found.offsets], expected, atol=1e-4)


def test_bounds_are_those_of_the_laplace_approximation() -> None:
    found = fitted()
    covariance = np.linalg.inv(hessian(np.array([*found.mode, *found.offsets])))
    values, labels = np.array([-1.0, 0.5, 3.0]), np.array([0, 2, 1])
    shares = found.shares(values, labels)
    assert shares is not None
    for value, label, share, bound in zip(
        values, labels, shares, found.bounds(values, labels), strict=True
    ):
        row = np.array([1.0, value, *np.eye(LABELS)[label]])
        odds = row @ [*found.mode, *found.offsets]
        assert share == pytest.approx(1 / (1 + np.exp(-odds)))
        odds -= CAUTION * np.sqrt(row @ covariance @ row)
        assert bound == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-4)


def test_few_labeled_photos_give_no_probability() -> None:
    found = fitted(independent=19.9)
    assert found.shares(np.ones(2), np.zeros(2, np.int64)) is None
    assert found.bounds(np.ones(2), np.zeros(2, np.int64)).tolist() == [0, 0]


def test_a_label_that_is_often_wrong_is_doubted() -> None:
    shares = fitted().shares(np.ones(LABELS), np.arange(LABELS))
    assert shares is not None
    assert shares.argmin() == 2


def test_the_least_right_score() -> None:
    values, _, right = drawn()
    assert fitted().least_right == values[right].min()
    none = fit_calibration(
        values, np.zeros(60, np.int64), np.zeros(60, bool), np.ones(60), count=1, independent=60
    )
    assert none.least_right is None

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import nnls

from finetune.evaluation.learning_curve import (
    EXPONENTS,
    CurveOutputs,
    LearningCurve,
    fit_learning_curve,
    forecasts,
)

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def draw(
    rng: np.random.Generator, errors: NDArray[np.float64], photos: int, draws: int = 2
) -> CurveOutputs:
    """Two labels; each photo is as hard as a random number says, whatever the share."""
    hardness = rng.random(photos) + 0.05 * rng.normal(size=(len(errors), draws, photos))
    targets = rng.integers(0, 2, photos)
    wrong = hardness < errors[:, None, None]
    return CurveOutputs(
        shares=SHARES,
        photos=tuple(share * 0.8 * photos for share in SHARES),
        predicted=np.where(wrong, 1 - targets, targets),
        targets=targets,
        groups=np.arange(photos),
    )


def test_a_power_law_is_continued() -> None:
    ratios = np.array(SHARES)
    for constant, slope, exponent in ((0.05, 0.1, 0.5), (0.0, 0.2, 0.3), (0.1, 0.0, 0.5)):
        errors = constant + slope * ratios**-exponent
        expected = constant + slope * 2**-exponent
        assert forecasts(ratios, errors[None])[0] == pytest.approx(expected, abs=1e-9)


def test_the_best_of_all_exponents_is_taken_with_parts_of_at_least_zero() -> None:
    rng = np.random.default_rng(0)
    ratios = np.array(SHARES)
    errors = np.sort(rng.random((20, 6)), axis=1)[:, ::-1] * 0.4
    errors[10:] = rng.random((10, 6)) * 0.4
    weights = np.sqrt(ratios)
    expected = []
    for row in errors:
        fits = []
        for exponent in EXPONENTS:
            basis = np.stack([np.ones(6), ratios**-exponent], axis=1)
            (constant, slope), loss = nnls(basis * weights[:, None], row * weights)
            gain = constant + slope - (constant + slope * 2**-exponent)
            fits.append((loss, max(row[-1] - gain, 0)))
        expected.append(min(fits)[1])
    np.testing.assert_allclose(forecasts(ratios, errors), expected, atol=1e-6)


def test_the_interval_covers_the_accuracy_with_twice_the_photos() -> None:
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        law = 0.04 + 0.12 * np.array([*SHARES, 2.0]) ** -0.5
        curve = fit_learning_curve(draw(rng, law[:-1], 300), rng=rng)
        seen = 1 - rng.binomial(600, law[-1]) / 600
        covered += curve.interval[0] <= seen <= curve.interval[1]
        assert curve.interval[0] <= curve.forecast <= curve.interval[1]
        assert curve.interval[1] - curve.interval[0] < 0.15
    assert covered >= 36


def test_gains_are_told_from_a_level_curve() -> None:
    rng = np.random.default_rng(3)
    steep = fit_learning_curve(draw(rng, 0.25 * np.array(SHARES) ** -0.6, 800), rng=rng)
    level = fit_learning_curve(draw(rng, np.full(6, 0.1), 800), rng=rng)
    assert steep.gain[0] > 0.02
    assert level.gain[1] < 0.01
    assert [point.photos for point in steep.points] == [64, 128, 256, 384, 512, 640]
    for point in (*steep.points, *level.points):
        assert point.interval[0] <= point.accuracy <= point.interval[1]


def test_labels_that_gain_and_labels_that_look_alike_are_told_apart() -> None:
    """Label 2 is learned with more photos; 0 and 1 stay confused."""
    targets = np.repeat(np.arange(3), 100)
    predicted = np.repeat(targets[None, None], 6, axis=0)
    predicted[:, 0, :15] = 1
    for place, share in enumerate(SHARES):
        predicted[place, 0, 200 : 200 + round(5 / share)] = 0
    outputs = CurveOutputs(
        shares=SHARES,
        photos=tuple(240 * share for share in SHARES),
        predicted=predicted,
        targets=targets,
        groups=np.arange(300),
    )
    curve = fit_learning_curve(outputs, rng=np.random.default_rng(0))
    first = curve.labels[0]
    assert (first.label, first.photos, first.wrong) == (2, 100, 5)
    assert first.fewer == pytest.approx(2.5, abs=0.1)
    assert {one.label: round(one.fewer, 6) for one in curve.labels[1:]} == {0: 0, 1: 0}
    (pair,) = curve.look_alikes
    assert (pair.labels, pair.confused, pair.before) == ((0, 1), 15, 15)


def test_a_saved_curve_is_the_same() -> None:
    rng = np.random.default_rng(5)
    curve = fit_learning_curve(draw(rng, 0.2 * np.array(SHARES) ** -0.5, 60), rng=rng)
    assert LearningCurve.from_dict(json.loads(json.dumps(curve.to_dict()))) == curve

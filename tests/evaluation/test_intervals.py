from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest

from finetune.evaluation.intervals import (
    accuracy_difference,
    cross_validated_interval,
    mcnemar,
    mean_interval,
    percentile_interval,
    student_t,
    wilson,
)


def ends(successes: int, trials: int, **options: float) -> tuple[float, float]:
    interval = wilson(successes, trials, **options)
    assert interval is not None
    return interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (3, 7), (95, 100), (10, 10)])
def test_wilson_ends_solve_the_score_equation(successes: int, trials: int) -> None:
    """Wilson's ends are the p at which |share - p| = z·sqrt(p(1-p)/n)."""
    share = successes / trials
    for end in ends(successes, trials):
        reach = 1.959963984540054 * math.sqrt(end * (1 - end) / trials)
        assert abs(share - end) == pytest.approx(reach, abs=1e-9)


def test_wilson_stays_within_zero_and_one_and_has_a_width_at_both_ends() -> None:
    assert ends(0, 20)[0] == 0.0
    assert ends(20, 20)[1] == 1.0
    assert ends(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)
    assert ends(20, 20)[0] == pytest.approx(0.8389, abs=1e-4)


def test_wilson_without_a_trial_is_undefined() -> None:
    assert wilson(0, 0) is None


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    narrow, wide = ends(30, 50, confidence=0.8), ends(30, 50, confidence=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_percentile_interval_leaves_undefined_values_out() -> None:
    assert percentile_interval(np.array([np.nan, 0.5, 0.5])) == (0.5, 0.5)
    assert percentile_interval(np.array([np.nan])) is None


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 30, 99, 100, 999])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 0.975, 0.995, 0.9999])
def test_t_quantiles_are_scipys(freedom: int, probability: float) -> None:
    expected = stats.t.ppf(probability, freedom)
    assert student_t(probability, freedom) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("probability", "freedom"), [(1.0, 3), (0.4, 3), (0.9, 0)])
def test_t_quantiles_outside_their_range_are_refused(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no t quantile for"):
        student_t(probability, freedom)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_interval_of_a_mean_is_scipys(values: list[float]) -> None:
    if np.ptp(values) < 1e-9:
        return
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


def test_one_value_has_no_interval() -> None:
    assert mean_interval([0.5]) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean_interval([0.75, 0.75, 0.75]) == (0.75, 0.75)


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (1, 0), (3, 3), (1, 9), (12, 30), (400, 350), (2500, 2700)]
)
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_bootstrap_of_counts_is_the_bootstrap_of_photos() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(200) < 0.8, rng.random(200) < 0.9
    pairs = second.astype(int) - first.astype(int)
    values = [pairs[rng.integers(0, 200, 200)].mean() for _ in range(8000)]
    expected = np.quantile(values, [0.025, 0.975])
    difference, ends = accuracy_difference(first, second, rng=np.random.default_rng(1))
    assert difference == pytest.approx(second.mean() - first.mean(), abs=1e-12)
    np.testing.assert_allclose(ends, expected, atol=0.006)


def test_interval_covers_the_true_difference_at_its_confidence() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        first = rng.random(150) < 0.8
        second = np.where(rng.random(150) < 0.2, rng.random(150) < 0.5, first)
        _, (low, high) = accuracy_difference(first, second, rng=rng, resamples=400)
        held += low <= 0.2 * 0.5 + 0.8 * 0.8 - 0.8 <= high
    assert 0.90 <= held / 300 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    first, second = [True, False, True, True], [True, True, False, True]
    again = [accuracy_difference(first, second, rng=np.random.default_rng(5)) for _ in range(2)]
    assert again[0] == again[1]


def test_equal_predictions_have_no_difference() -> None:
    ends = accuracy_difference([True, False], [True, False], rng=np.random.default_rng(0))
    assert ends == (0.0, (0.0, 0.0))


@pytest.mark.parametrize("second", [[True], []])
def test_predictions_on_other_photos_are_refused(second: list[bool]) -> None:
    with pytest.raises(ValueError, match="are not predictions of the same photos"):
        accuracy_difference([True, False][: len(second) * 2], second, rng=np.random.default_rng(0))


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_the_interval_of_a_cross_validation_has_nadeau_and_bengios_variance(folds: int) -> None:
    # Of many photos, where Wilson's interval is the normal one: p ± 1.96 sqrt(p (1 - p) (1/K +
    # 1/(K - 1)) / (n/K)).
    low, high = cross_validated_interval(60_000, 100_000, folds=folds) or (0, 0)
    fold = 100_000 / folds
    variance = 0.6 * 0.4 / fold * (1 / folds + 1 / (folds - 1))
    assert (high - low) / 2 == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-3)
    assert cross_validated_interval(0, 0, folds=folds) is None

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from finetune.evaluation.paired_tests import accuracy_difference, mcnemar


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (1, 0), (3, 3), (1, 9), (12, 30), (400, 350), (2500, 2700)]
)
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_bootstrap_of_counts_is_the_bootstrap_of_photos():
    rng = np.random.default_rng(0)
    first, second = rng.random(200) < 0.8, rng.random(200) < 0.9
    pairs = second.astype(int) - first.astype(int)
    values = [pairs[rng.integers(0, 200, 200)].mean() for _ in range(8000)]
    expected = np.quantile(values, [0.025, 0.975])
    difference, ends = accuracy_difference(first, second, rng=np.random.default_rng(1))
    assert difference == pytest.approx(second.mean() - first.mean(), abs=1e-12)
    np.testing.assert_allclose(ends, expected, atol=0.006)


def test_interval_holds_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        first = rng.random(150) < 0.8
        second = np.where(rng.random(150) < 0.2, rng.random(150) < 0.5, first)
        _, (low, high) = accuracy_difference(first, second, rng=rng, resamples=400)
        held += low <= 0.2 * 0.5 + 0.8 * 0.8 - 0.8 <= high
    assert 0.90 <= held / 300 <= 0.99


def test_the_same_seed_gives_the_same_interval():
    first, second = [True, False, True, True], [True, True, False, True]
    again = [accuracy_difference(first, second, rng=np.random.default_rng(5)) for _ in range(2)]
    assert again[0] == again[1]


def test_equal_answers_differ_by_nothing():
    ends = accuracy_difference([True, False], [True, False], rng=np.random.default_rng(0))
    assert ends == (0.0, (0.0, 0.0))


@pytest.mark.parametrize("second", [[True], []])
def test_answers_on_other_photos_are_refused(second):
    with pytest.raises(ValueError, match="are not answers on the same photos"):
        accuracy_difference([True, False][: len(second) * 2], second, rng=np.random.default_rng(0))

from __future__ import annotations

import math

import numpy as np
import pytest

from finetune.evaluation.intervals import percentile_interval, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (3, 7), (95, 100), (10, 10)])
def test_wilson_ends_solve_the_score_equation(successes, trials):
    """Wilson's ends are the p at which |share - p| = z·sqrt(p(1-p)/n)."""
    share = successes / trials
    for end in wilson(successes, trials):
        reach = 1.959963984540054 * math.sqrt(end * (1 - end) / trials)
        assert abs(share - end) == pytest.approx(reach, abs=1e-9)


def test_wilson_stays_within_zero_and_one_and_has_a_width_at_both_ends():
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)
    assert wilson(20, 20)[0] == pytest.approx(0.8389, abs=1e-4)


def test_wilson_without_a_trial_is_undefined():
    assert wilson(0, 0) is None


def test_a_wider_confidence_gives_a_wider_interval():
    narrow, wide = wilson(30, 50, confidence=0.8), wilson(30, 50, confidence=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_percentile_interval_leaves_undefined_values_out():
    assert percentile_interval(np.array([np.nan, 0.5, 0.5])) == (0.5, 0.5)
    assert percentile_interval(np.array([np.nan])) is None

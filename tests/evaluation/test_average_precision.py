from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from finetune.evaluation.average_precision import average_precision, resampled_average_precision


@pytest.mark.parametrize("decimals", [1, 8])
def test_average_precision_equals_scikit_learns(decimals):
    rng = np.random.default_rng(decimals)
    scores, positive = np.round(rng.random(150), decimals), rng.integers(0, 2, 150)
    expected = reference.average_precision_score(positive, scores)
    assert average_precision(scores, positive) == pytest.approx(expected, abs=1e-9)


def test_average_precision_is_undefined_without_a_positive():
    assert average_precision([0.1, 0.4], [0, 0]) is None


@pytest.mark.parametrize("positive", [[1, 1, 1], [0, 1, 0]])
def test_average_precision_of_equal_scores_is_the_share_of_positives(positive):
    assert average_precision([0.5, 0.5, 0.5], positive) == pytest.approx(np.mean(positive))


def test_resampled_average_precision_is_that_of_the_drawn_photos():
    rng = np.random.default_rng(2)
    scores, positive = np.round(rng.random(40), 1), rng.integers(0, 2, 40)
    drawn = rng.multinomial(40, np.full(40, 1 / 40), size=20)
    ours = resampled_average_precision(scores, positive, drawn)
    for found, times in zip(ours, drawn, strict=True):
        again = np.repeat(np.arange(40), times)
        expected = reference.average_precision_score(positive[again], scores[again])
        assert found == pytest.approx(expected, abs=1e-12)


def test_resampled_average_precision_is_undefined_where_no_positive_was_drawn():
    found = resampled_average_precision([0.3, 0.7], [1, 0], [[0, 2], [1, 1]])
    assert np.isnan(found[0])
    assert found[1] == 0.5

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit, logsumexp, softmax

from finetune.errors import ModelError
from finetune.evaluation.ood_scores import Mixture, familiarity, fit_mixture, log_odds


def test_energy_is_lius_formula():
    logits = np.random.default_rng(0).normal(size=(20, 5)) * 4
    for temperature in (1.0, 2.5):
        ours = familiarity(logits, score="energy", temperature=temperature)
        expected = temperature * logsumexp(logits / temperature, axis=1)
        np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_max_logit_and_max_probability_are_what_they_say():
    logits = np.array([[1.0, 3.0], [800.0, -800.0]])
    assert familiarity(logits, score="max_logit").tolist() == [3.0, 800.0]
    expected = [1 / (1 + np.exp(-2.0)), 1.0]
    assert familiarity(logits, score="max_probability").tolist() == pytest.approx(expected)
    assert familiarity(logits, score="max_probability", temperature=2)[0] == pytest.approx(
        1 / (1 + np.exp(-1.0))
    )


def test_an_unknown_score_and_a_diverged_network_are_refused():
    with pytest.raises(ValueError, match="score 'odin' is no score of logits alone"):
        familiarity([[0.0, 1.0]], score="odin")
    with pytest.raises(ModelError, match="training has diverged"):
        familiarity([[np.inf, 1.0]])


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_log_odds_are_those_of_the_greatest_probability(temperature):
    logits = np.random.default_rng(1).normal(size=(30, 6)) * 3
    expected = logit(softmax(logits / temperature, axis=1).max(axis=1))
    np.testing.assert_allclose(log_odds(logits, temperature=temperature), expected, atol=1e-9)


def test_log_odds_tell_probabilities_apart_that_round_to_one():
    assert log_odds([[100.0, 0.0], [200.0, 0.0]]).tolist() == [100.0, 200.0]


def test_with_one_label_there_is_no_doubt():
    assert log_odds([[3.0]]).tolist() == [np.inf]


def test_a_mixture_counts_both_in_units_of_their_spread():
    odds, distances = np.array([0.0, 2.0, 4.0]), np.array([10.0, 10.0, 40.0])
    mixture = fit_mixture(odds, distances)
    expected = odds / np.std(odds) + distances / np.std(distances)
    np.testing.assert_allclose(mixture(odds, distances), expected)


def test_what_never_varies_has_the_unit_one():
    assert fit_mixture([2.0, 2.0], [5.0, 5.0]) == Mixture(odds_spread=1.0, distance_spread=1.0)

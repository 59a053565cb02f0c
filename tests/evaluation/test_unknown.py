from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.neighbors import NearestNeighbors

from finetune.errors import ModelError
from finetune.evaluation.unknown import (
    UnknownThreshold,
    familiarity,
    fit_threshold,
    nearest_distance,
)


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
    with pytest.raises(ValueError, match="score 'odin' is none of energy, max_logit"):
        familiarity([[0.0, 1.0]], score="odin")
    with pytest.raises(ModelError, match="training has diverged"):
        familiarity([[np.inf, 1.0]])


@pytest.mark.parametrize("neighbour", [1, 5])
def test_nearest_distance_equals_scikit_learns_on_unit_features(neighbour):
    rng = np.random.default_rng(1)
    asked, known = rng.normal(size=(600, 8)), rng.normal(size=(50, 8))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (asked, known)]
    search = NearestNeighbors(n_neighbors=neighbour).fit(unit[1])
    expected = -search.kneighbors(unit[0])[0][:, -1]
    ours = nearest_distance(asked, known, neighbour=neighbour)
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_nearest_distance_takes_zero_features_and_names_a_wrong_neighbour():
    assert nearest_distance(np.zeros((1, 2)), np.array([[3.0, 0.0]])).tolist() == [-1.0]
    with pytest.raises(ValueError, match=r"neighbour 3 must lie in 1\.\.2"):
        nearest_distance(np.zeros((1, 2)), np.zeros((2, 2)), neighbour=3)


def _by_trying_every_threshold(scores, correct, foreign, precision):
    every = np.r_[scores, foreign]
    right = np.r_[correct, np.zeros(len(foreign), bool)]
    for threshold in np.unique(every):  # lowest first
        answered = every >= threshold
        if right[answered].sum() >= precision * answered.sum() - 1e-9:
            return threshold
    return None


@pytest.mark.parametrize("precision", [0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_threshold_is_the_lowest_that_reaches_the_precision(precision, seed):
    rng = np.random.default_rng(seed)
    scores, foreign = np.round(rng.normal(2, 1, 200), 1), np.round(rng.normal(0, 1, 80), 1)
    correct = rng.random(200) < 0.9
    found = fit_threshold(scores, correct, unknown_scores=foreign, precision=precision)
    assert found.threshold == _by_trying_every_threshold(scores, correct, foreign, precision)
    if found.threshold is not None:
        answered = np.r_[scores, foreign] >= found.threshold
        right = np.r_[correct, np.zeros(80, bool)]
        assert found.measured_precision == pytest.approx(right[answered].mean())
        assert found.measured_precision >= precision - 1e-9
        assert found.coverage == pytest.approx((scores >= found.threshold).mean())
        assert found.refused_unknown == pytest.approx((foreign < found.threshold).mean())
    assert (found.photos, found.unknown_photos) == (200, 80)


def test_threshold_holds_its_precision_on_photos_it_was_not_fitted_on():
    rng = np.random.default_rng(9)

    def photos(known: int, unknown: int):
        correct = rng.random(known) < 0.93
        return rng.normal(np.where(correct, 5.0, 3.0), 1.2), correct, rng.normal(1.5, 1.2, unknown)

    scores, correct, foreign = photos(2000, 800)
    found = fit_threshold(scores, correct, unknown_scores=foreign, precision=0.95)
    scores, correct, foreign = photos(2000, 800)
    answered = ~found.refuses(np.r_[scores, foreign])
    held = np.r_[correct, np.zeros(800, bool)][answered].mean()
    reach = 3 * np.sqrt(0.95 * 0.05 / answered.sum())
    assert held == pytest.approx(0.95, abs=reach)
    assert found.coverage > 0.6


def test_refuses_below_the_threshold_and_answers_on_it():
    found = fit_threshold([3.0, 2.0, 1.0], [True, True, False], precision=1.0)
    assert found.threshold == 2.0
    assert found.refuses([2.5, 2.0, 1.9]).tolist() == [False, False, True]


def test_a_precision_out_of_reach_refuses_nothing_and_says_so():
    found = fit_threshold([2.0, 1.0], [False, False], unknown_scores=[5.0])
    assert found.threshold is None
    assert found.coverage == 0.0
    assert found.measured_precision is None
    assert found.precision_interval is None
    assert found.refused_unknown == 1.0
    assert found.refuses([-100.0]).tolist() == [False]


def test_no_photos_give_no_threshold():
    found = fit_threshold([], [])
    assert found.threshold is None
    assert found.photos == 0
    assert found.refused_unknown is None


def test_json_gives_the_threshold_back():
    found = fit_threshold([3.0, 2.0], [True, True], unknown_scores=[0.5], score="max_logit")
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert UnknownThreshold.from_dict(content) == found


@pytest.mark.parametrize("precision", [0.0, 1.1, float("nan")])
def test_a_precision_outside_zero_to_one_is_refused(precision):
    with pytest.raises(ValueError, match="must lie above 0 and be at most 1"):
        fit_threshold([1.0], [True], precision=precision)


def test_scores_and_correct_must_be_of_one_length():
    with pytest.raises(ValueError, match=r"\(2,\) scores, but \(1,\) of right and wrong"):
        fit_threshold([1.0, 2.0], [True])


def test_a_share_of_foreign_photos_weighs_as_if_there_were_so_many():
    rng = np.random.default_rng(3)
    scores, correct = rng.normal(2, 1, 300), rng.random(300) < 0.95
    foreign = rng.normal(0, 1, 100)
    found = fit_threshold(scores, correct, unknown_scores=foreign, unknown_share=0.4, precision=0.9)
    # 300 known photos and a share of 0.4 make 200 foreign ones: each of the 100 twice.
    twice = fit_threshold(scores, correct, unknown_scores=np.repeat(foreign, 2), precision=0.9)
    assert found.threshold == twice.threshold
    assert found.measured_precision == pytest.approx(twice.measured_precision)
    assert found.refused_unknown == twice.refused_unknown
    assert found.unknown_photos == 100


def test_an_impossible_share_is_refused():
    with pytest.raises(ValueError, match=r"unknown_share 1\.0 must be 0 or more and below 1"):
        fit_threshold([1.0], [True], unknown_share=1.0)


def test_caution_asks_for_so_many_standard_errors_more():
    rng = np.random.default_rng(4)
    scores = rng.normal(size=400)
    correct = rng.random(400) < 1 / (1 + np.exp(-2.5 * scores - 1))
    plain = fit_threshold(scores, correct, precision=0.9)
    cautious = fit_threshold(scores, correct, precision=0.9, caution=1.0)
    answered = (scores >= cautious.threshold).sum()
    error = np.sqrt(0.9 * 0.1 / answered)
    assert cautious.measured_precision >= 0.9 + error - 1e-9
    assert cautious.threshold > plain.threshold
    for threshold in scores[scores < cautious.threshold]:  # no lower one would do
        taken = scores >= threshold
        assert correct[taken].mean() < 0.9 + np.sqrt(0.9 * 0.1 / taken.sum())

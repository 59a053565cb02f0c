from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import logit, logsumexp, softmax

from finetune.errors import ModelError
from finetune.evaluation.feature_distance import (
    FeatureDistance,
    Neighbors,
    fit_relative_distance,
    unit_length,
)
from finetune.evaluation.out_of_distribution import (
    Mixture,
    Power,
    UnknownDetector,
    conformal_quantile,
    fit_mixture,
    log_odds,
    needed_photos,
    ood_score,
    saved_scores,
)

FEATURES = np.random.default_rng(0).normal(size=(30, 4))
PLAIN = UnknownDetector(
    score="max_logit", known_scores=tuple(float(score) for score in range(1, 100)), photos=99
)
MIXED = dataclasses.replace(
    PLAIN,
    score="odds_and_distance",
    mixture=Mixture(odds_spread=2.0, distance_spread=4.0, similarity_spread=0.5),
    distance=FeatureDistance(
        relative=fit_relative_distance(FEATURES, np.arange(30) % 3),
        neighbors=Neighbors(bank=unit_length(FEATURES).astype(np.float16)),
    ),
    power=(Power(subject="labels left out", photos=20, detected=12),),
)


def test_rejects_below_the_threshold_and_accepts_on_it() -> None:
    assert PLAIN.threshold(0.05) == 5.0
    assert PLAIN.is_unknown([6.0, 5.0, 4.9]).tolist() == [False, False, True]
    assert PLAIN.is_unknown([6.0, 5.0, 4.9], 0.055).tolist() == [False, True, True]


def test_without_false_alarms_nothing_is_refused() -> None:
    assert PLAIN.threshold(0.0) is None
    assert PLAIN.is_unknown([-1e9], 0.0).tolist() == [False]


def test_too_few_photos_state_no_false_alarms() -> None:
    few = dataclasses.replace(PLAIN, known_scores=PLAIN.known_scores[:18], photos=18)
    assert needed_photos(0.05) == 19
    assert few.threshold(0.05) is None
    assert few.is_unknown([-1e9]).tolist() == [False]
    assert few.threshold(0.1) is not None


@pytest.mark.parametrize("count", [19, 33, 100, 1000, 2750])
def test_the_stated_share_of_new_photos_is_flagged(count: int) -> None:
    rng = np.random.default_rng(count)
    shares = []
    for _ in range(300):
        limit = conformal_quantile(saved_scores(rng.random(count)), 0.05, photos=count)
        assert limit is not None
        shares.append(limit)  # that share of uniform scores is below
    assert np.mean(shares) == pytest.approx(0.05, abs=4 * np.std(shares) / 300**0.5)


def test_of_many_scores_quantiles_are_saved() -> None:
    scores = np.random.default_rng(0).normal(size=50_000)
    saved = saved_scores(scores)
    assert len(saved) == 1000
    few = conformal_quantile(saved, 0.05, photos=50_000)
    assert few == pytest.approx(np.quantile(scores, 0.05), abs=2e-3)


def test_a_score_of_logits_is_the_ood_score() -> None:
    logits = np.random.default_rng(1).normal(size=(5, 3))
    assert not PLAIN.needs_features
    np.testing.assert_array_equal(PLAIN.scores(logits, None, temperature=2.0), logits.max(axis=1))


def test_odds_distance_and_similarity_are_mixed() -> None:
    logits = np.random.default_rng(1).normal(size=(30, 3))
    distances = MIXED.distances(FEATURES)
    assert MIXED.distance is not None
    assert MIXED.distance.neighbors is not None
    expected = log_odds(logits, temperature=2.0) / 2.0
    expected += MIXED.distance.relative(FEATURES) / 4.0
    expected += MIXED.distance.neighbors(FEATURES) / 0.5
    np.testing.assert_allclose(MIXED.scores(logits, distances, temperature=2.0), expected)
    assert MIXED.needs_features


def test_missing_or_superfluous_features_are_an_error() -> None:
    with pytest.raises(ValueError, match="needs distances and a mixture"):
        MIXED.scores(np.zeros((1, 3)), None, temperature=1.0)
    with pytest.raises(ValueError, match="max_logit does not use features"):
        PLAIN.distances(FEATURES)


@pytest.mark.parametrize("detector", [PLAIN, MIXED])
def test_json_gives_the_detector_back(detector: UnknownDetector) -> None:
    content = json.loads(json.dumps(detector.to_dict(), allow_nan=False))
    assert UnknownDetector.from_dict(content, detector.distance) == detector


@pytest.mark.parametrize("threshold", [0.7, None])
def test_a_threshold_of_an_earlier_version_is_read(threshold: float | None) -> None:
    earlier = {
        "score": "max_probability",
        "threshold": threshold,
        "precision": 0.95,
        "measured_precision": 0.96,
        "precision_interval": [0.9, 0.99],
        "coverage": 0.7,
        "refused_unknown": 0.5,
        "photos": 10,
        "unknown_photos": 10,
    }
    detector = UnknownDetector.from_dict(earlier)
    assert detector.fixed == threshold
    assert detector.is_unknown([0.71, 0.69]).tolist() == [False, threshold is not None]
    assert detector.is_unknown([0.69], 0.0).tolist() == [False]


def test_a_mixture_of_an_earlier_version_has_no_neighbors() -> None:
    mixture = Mixture.from_dict({"odds_spread": 2.0, "distance_spread": 4.0})
    odds, distances = np.array([1.0, 3.0]), np.array([[2.0], [8.0]])
    np.testing.assert_allclose(mixture(odds, distances), [1.0, 3.5])


def test_a_detector_without_its_distance_is_not_read() -> None:
    with pytest.raises(ValueError, match="the distance of its threshold for unknown photos"):
        UnknownDetector.from_dict(MIXED.to_dict())


def test_energy_is_lius_formula() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5)) * 4
    for temperature in (1.0, 2.5):
        ours = ood_score(logits, score="energy", temperature=temperature)
        expected = temperature * logsumexp(logits / temperature, axis=1)
        np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_max_logit_and_max_probability_equal_their_formulas() -> None:
    logits = np.array([[1.0, 3.0], [800.0, -800.0]])
    assert ood_score(logits, score="max_logit").tolist() == [3.0, 800.0]
    expected = [1 / (1 + np.exp(-2.0)), 1.0]
    assert ood_score(logits, score="max_probability").tolist() == pytest.approx(expected)
    assert ood_score(logits, score="max_probability", temperature=2)[0] == pytest.approx(
        1 / (1 + np.exp(-1.0))
    )


def test_an_unknown_score_and_a_diverged_network_are_refused() -> None:
    with pytest.raises(ValueError, match="score 'odin' needs features, or is not one of"):
        ood_score([[0.0, 1.0]], score="odin")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="training has diverged"):
        ood_score([[np.inf, 1.0]])


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_log_odds_are_those_of_the_greatest_probability(temperature: float) -> None:
    logits = np.random.default_rng(1).normal(size=(30, 6)) * 3
    expected = logit(softmax(logits / temperature, axis=1).max(axis=1))
    np.testing.assert_allclose(log_odds(logits, temperature=temperature), expected, atol=1e-9)


def test_log_odds_tell_probabilities_apart_that_round_to_one() -> None:
    assert log_odds([[100.0, 0.0], [200.0, 0.0]]).tolist() == [100.0, 200.0]


def test_with_one_label_there_is_no_doubt() -> None:
    assert log_odds([[3.0]]).tolist() == [np.inf]


def test_a_mixture_counts_all_in_units_of_their_spread() -> None:
    odds = np.array([0.0, 2.0, 4.0])
    distances = np.array([[10.0, 1.0], [10.0, 0.0], [40.0, 1.0]])
    mixture = fit_mixture(odds, distances)
    expected = odds / np.std(odds) + (distances / distances.std(axis=0)).sum(axis=1)
    np.testing.assert_allclose(mixture(odds, distances), expected)


def test_what_never_varies_has_the_unit_one() -> None:
    assert fit_mixture([2.0, 2.0], [[5.0], [5.0]]) == Mixture(odds_spread=1.0, distance_spread=1.0)

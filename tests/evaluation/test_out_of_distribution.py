from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from scipy.special import logit, logsumexp, softmax
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from finetune.errors import ModelError
from finetune.evaluation.out_of_distribution import (
    SHRINKAGE,
    Mixture,
    RelativeDistance,
    UnknownThreshold,
    find_basis,
    fit_mixture,
    fit_relative_distance,
    log_odds,
    ood_score,
)

PLAIN = UnknownThreshold(
    score="max_probability",
    threshold=0.7,
    precision=0.9,
    measured_precision=0.92,
    precision_interval=(0.85, 0.96),
    coverage=0.8,
    refused_unknown=0.6,
    photos=100,
    unknown_photos=50,
)
FEATURES = np.random.default_rng(0).normal(size=(30, 4))
MIXED = dataclasses.replace(
    PLAIN,
    score="odds_and_distance",
    unknown_share=0.2,
    confidence=0.9,
    mixture=Mixture(odds_spread=2.0, distance_spread=4.0),
    distance=fit_relative_distance(FEATURES, np.arange(30) % 3),
)


def test_rejects_below_the_threshold_and_accepts_on_it() -> None:
    assert PLAIN.is_unknown([0.8, 0.7, 0.6]).tolist() == [False, False, True]


def test_without_a_threshold_nothing_is_refused() -> None:
    assert dataclasses.replace(PLAIN, threshold=None).is_unknown([-9.0]).tolist() == [False]


def test_a_score_of_logits_is_the_ood_score() -> None:
    logits = np.random.default_rng(1).normal(size=(5, 3))
    assert not PLAIN.needs_features
    expected = ood_score(logits, score="max_probability", temperature=2.0)
    np.testing.assert_array_equal(PLAIN.scores(logits, None, temperature=2.0), expected)


def test_odds_and_distance_are_mixed() -> None:
    logits = np.random.default_rng(1).normal(size=(30, 3))
    distances = MIXED.distances(FEATURES)
    expected = log_odds(logits, temperature=2.0) / 2.0 + distances / 4.0
    np.testing.assert_allclose(MIXED.scores(logits, distances, temperature=2.0), expected)
    assert MIXED.needs_features


def test_missing_or_superfluous_features_are_an_error() -> None:
    with pytest.raises(ValueError, match="needs distances and a mixture"):
        MIXED.scores(np.zeros((1, 3)), None, temperature=1.0)
    with pytest.raises(ValueError, match="max_probability does not use features"):
        PLAIN.distances(FEATURES)


@pytest.mark.parametrize("limit", [PLAIN, MIXED])
def test_json_gives_the_threshold_back(limit: UnknownThreshold) -> None:
    content = json.loads(json.dumps(limit.to_dict(), allow_nan=False))
    assert UnknownThreshold.from_dict(content, limit.distance) == limit


def test_a_threshold_of_an_earlier_version_is_read() -> None:
    fields = ["score", "threshold", "precision", "measured_precision", "precision_interval"]
    fields += ["coverage", "refused_unknown", "photos", "unknown_photos"]
    content = PLAIN.to_dict()
    earlier = {name: content[name] for name in fields}
    assert UnknownThreshold.from_dict(earlier) == PLAIN


def test_a_threshold_without_its_distance_is_not_read() -> None:
    with pytest.raises(ValueError, match="the distance of its threshold for unknown photos"):
        UnknownThreshold.from_dict(MIXED.to_dict())


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


def test_a_mixture_counts_both_in_units_of_their_spread() -> None:
    odds, distances = np.array([0.0, 2.0, 4.0]), np.array([10.0, 10.0, 40.0])
    mixture = fit_mixture(odds, distances)
    expected = odds / np.std(odds) + distances / np.std(distances)
    np.testing.assert_allclose(mixture(odds, distances), expected)


def test_what_never_varies_has_the_unit_one() -> None:
    assert fit_mixture([2.0, 2.0], [5.0, 5.0]) == Mixture(odds_spread=1.0, distance_spread=1.0)


def photos(
    seed: int = 0, count: int = 90, width: int = 6, labels: int = 3
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % labels
    spread = rng.normal(size=(width, width)) / 2
    means = rng.normal(size=(labels, width)) * 3
    return means[targets] + rng.normal(size=(count, width)) @ spread + 5, targets


def by_the_papers_formula(
    features: NDArray[np.float64], targets: NDArray[np.int64], asked: NDArray[np.float64]
) -> list[float]:
    """Ren et al. 2021, eq. 3, with scipy's distances."""
    centered = features - features.mean(axis=0)
    means = [centered[targets == label].mean(axis=0) for label in np.unique(targets)]
    inside = np.concatenate([centered[targets == label] - mean for label, mean in enumerate(means)])

    def precision(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        covariance = np.cov(rows.T, bias=True)
        size = len(covariance)
        return np.linalg.inv(covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size))

    within, overall = precision(inside), precision(centered)
    result = []
    for photo in asked - features.mean(axis=0):
        nearest = min(mahalanobis(photo, mean, within) ** 2 for mean in means)
        result.append(mahalanobis(photo, np.zeros_like(photo), overall) ** 2 - nearest)
    return result


def test_it_is_the_relative_mahalanobis_distance() -> None:
    features, targets = photos()
    asked = np.random.default_rng(5).normal(size=(20, 6)) * 4 + 5
    ours = fit_relative_distance(features, targets)(asked)
    np.testing.assert_allclose(ours, by_the_papers_formula(features, targets, asked), rtol=1e-4)


def test_photos_of_other_subjects_have_lower_scores() -> None:
    features, targets = photos()
    distance = fit_relative_distance(features[::2], targets[::2])
    others = features[1::2] + np.random.default_rng(2).normal(size=(45, 6)) * 8
    assert np.median(distance(features[1::2])) > np.median(distance(others))


def test_a_label_without_photos_has_no_mean() -> None:
    features, targets = photos()
    kept = targets != 1
    distance = fit_relative_distance(features[kept], targets[kept])
    assert distance.means.shape[0] == 2


@pytest.mark.parametrize(("count", "width"), [(40, 200), (200, 20)])
def test_a_basis_spans_the_principal_components_of_standardized_features(
    count: int, width: int
) -> None:
    features = np.random.default_rng(3).normal(size=(count, width)) ** 3 + 7
    basis = find_basis(features, dimensions=5)
    scaled = StandardScaler().fit_transform(features)
    expected = PCA(n_components=5, svd_solver="full").fit_transform(scaled)
    np.testing.assert_allclose(np.abs(basis(features)), np.abs(expected), atol=1e-6)


def test_a_basis_has_no_more_dimensions_than_a_quarter_of_the_photos() -> None:
    assert find_basis(np.random.default_rng(0).normal(size=(40, 100))).matrix.shape == (100, 10)
    assert find_basis(np.random.default_rng(0).normal(size=(3, 100))).matrix.shape[1] == 2


def test_constant_features_have_no_effect() -> None:
    features = np.random.default_rng(0).normal(size=(30, 4))
    features[:, 2] = 9.0
    matrix = find_basis(features).matrix
    np.testing.assert_array_equal(matrix[2], 0.0)
    assert np.isfinite(matrix).all()


@pytest.mark.parametrize("shape", [(12, 30), (12, 3)])
def test_photos_that_all_look_alike_are_at_equal_distances(shape: tuple[int, int]) -> None:
    features = np.full(shape, 7.0)
    basis = find_basis(features)
    distance = fit_relative_distance(basis(features), np.arange(12) % 2).composed_with(basis)
    found = distance(features)
    np.testing.assert_array_equal(found, found[0])
    assert np.isfinite(found).all()


def test_behind_a_basis_it_takes_the_features_themselves() -> None:
    features, targets = photos(count=60, width=30)
    basis = find_basis(features, dimensions=8)
    of_coordinates = fit_relative_distance(basis(features), targets)
    whole = of_coordinates.composed_with(basis)
    asked = features * 1.5
    np.testing.assert_allclose(whole(asked), of_coordinates(basis(asked)), rtol=1e-3, atol=1e-3)


def test_one_photo_a_label_gives_distances_all_the_same() -> None:
    distance = fit_relative_distance(np.eye(3), np.arange(3))
    assert np.isfinite(distance(np.eye(3))).all()


def test_tensors_give_it_back() -> None:
    features, targets = photos()
    distance = fit_relative_distance(features, targets)
    again = RelativeDistance.from_tensors(distance.to_tensors())
    np.testing.assert_array_equal(again(features), distance(features))
    with pytest.raises(KeyError):
        RelativeDistance.from_tensors({"means": distance.means})

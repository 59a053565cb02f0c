from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

from finetune.evaluation.feature_distance import (
    SHRINKAGE,
    FeatureDistance,
    Neighbors,
    find_basis,
    fit_relative_distance,
    unit_length,
)


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


def test_the_similarity_is_that_of_the_fifth_nearest_training_photo() -> None:
    rng = np.random.default_rng(4)
    training, asked = rng.normal(size=(40, 8)), rng.normal(size=(6, 8)) * 3
    neighbors = Neighbors(bank=unit_length(training).astype(np.float16))
    expected = np.sort(cosine_similarity(asked, training), axis=1)[:, -5]
    np.testing.assert_allclose(neighbors(asked), expected, atol=2e-3)
    few = Neighbors(bank=unit_length(training[:3]).astype(np.float16))
    expected = cosine_similarity(asked, training[:3]).min(axis=1)
    np.testing.assert_allclose(few(asked), expected, atol=2e-3)


@pytest.mark.parametrize("with_neighbors", [True, False])
def test_tensors_give_it_back(with_neighbors: bool) -> None:
    features, targets = photos()
    bank = unit_length(features).astype(np.float16)
    distance = FeatureDistance(
        relative=fit_relative_distance(features, targets),
        neighbors=Neighbors(bank=bank) if with_neighbors else None,
    )
    again = FeatureDistance.from_tensors(distance.to_tensors())
    np.testing.assert_array_equal(again(features), distance(features))
    assert again(features).shape == (90, 2 if with_neighbors else 1)
    with pytest.raises(KeyError):
        FeatureDistance.from_tensors({"neighbors": bank})

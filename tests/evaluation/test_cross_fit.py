from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.evaluation.cross_fit import (
    LABEL_FOLDS,
    CrossFit,
    HeldOutLogits,
    cross_fit,
    fit_detector,
    fit_precision,
)
from finetune.evaluation.feature_distance import FeatureDistance, fit_relative_distance
from finetune.evaluation.out_of_distribution import Power, log_odds
from finetune.evaluation.probabilities import softmax


def cloud(
    rng: np.random.Generator, labels: range, per_label: int, centers: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    targets = np.repeat(np.asarray(labels), per_label)
    return centers[targets] + rng.normal(size=(len(targets), centers.shape[1])), targets


def head_of_means(
    features: NDArray[np.float64], targets: NDArray[np.int64], labels: int
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """A head that needs no training: minus half the squared distance to each label's mean."""
    nowhere = np.full(features.shape[1], 1e3)
    means = np.stack(
        [
            features[targets == c].mean(axis=0) if (targets == c).any() else nowhere
            for c in range(labels)
        ]
    )
    return lambda asked: -((asked[:, None] - means) ** 2).sum(axis=2) / 2


def fit_on(
    features: NDArray[np.float64],
    targets: NDArray[np.int64],
    labels: int,
    asked_about: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] | None = None,
) -> Callable[
    [NDArray[np.bool_], NDArray[np.bool_]], tuple[NDArray[np.float64], NDArray[np.float64]]
]:
    def fit(
        learned: NDArray[np.bool_], asked: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if asked_about is not None:
            asked_about.append((learned.copy(), asked.copy()))
        head = head_of_means(features[learned], targets[learned], labels)
        return head(features[asked]), features[asked].sum(axis=1, keepdims=True)

    return fit


def test_every_photo_is_predicted_by_heads_trained_without_it_or_its_label() -> None:
    rng = np.random.default_rng(1)
    features, targets = cloud(rng, range(6), 20, rng.normal(size=(6, 4)) * 4)
    folds = rng.integers(-1, 3, len(targets))
    calls: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []
    found = cross_fit(targets, np.arange(120), folds, fit_on(features, targets, 6, calls), rng=rng)
    assert len(calls) == 3 + 6
    for learned, asked in calls:
        assert not (learned & asked).any()
        assert (learned | asked).all()
    for learned, asked in calls[3:]:
        assert not set(targets[learned]) & set(targets[asked])
    assert np.sum([asked for _, asked in calls[:3]], axis=0).tolist() == (folds >= 0).tolist()
    assert np.sum([asked for _, asked in calls[3:]], axis=0).tolist() == [1] * 120
    assert len(found.known.logits) == (folds >= 0).sum()
    assert [group.logits.shape for group in found.unknown] == [(20, 5)] * 6
    assert sorted(set(np.concatenate([g.targets for g in found.unknown]))) == list(range(6))
    assert found.known.distances is not None
    assert len(found.known.distances) == len(found.known.targets)


def test_many_labels_are_held_out_several_at_a_time() -> None:
    rng = np.random.default_rng(2)
    features, targets = cloud(rng, range(23), 4, rng.normal(size=(23, 3)) * 9)
    found = cross_fit(
        targets, np.arange(92), np.arange(92) % 3, fit_on(features, targets, 23), rng=rng
    )
    assert len(found.unknown) == LABEL_FOLDS
    for group in found.unknown:
        assert group.logits.shape[1] == 23 - len(set(group.targets))
    assert sum(len(group.targets) for group in found.unknown) == 92


def test_of_two_labels_none_is_held_out() -> None:
    rng = np.random.default_rng(3)
    features, targets = cloud(rng, range(2), 10, rng.normal(size=(2, 3)) * 4)
    groups = np.arange(20)
    found = cross_fit(targets, groups, np.arange(20) % 4, fit_on(features, targets, 2), rng=rng)
    assert found.unknown == ()
    assert sorted(found.known.groups.tolist()) == groups.tolist()
    assert fit_detector(found, temperature=1.0, distance=None).power == ()


def held_out(rng: np.random.Generator, count: int, labels: int) -> HeldOutLogits:
    return HeldOutLogits(
        logits=rng.normal(size=(count, labels)),
        targets=rng.integers(0, labels, count),
        groups=np.arange(count),
        distances=rng.normal(size=(count, 2)) * 7,
    )


def test_scores_mix_odds_and_distances_by_their_spread_on_known_photos() -> None:
    rng = np.random.default_rng(4)
    fit = CrossFit(known=held_out(rng, 50, 4), unknown=(held_out(rng, 9, 3), held_out(rng, 8, 3)))
    assert fit.known.distances is not None
    distance = FeatureDistance(
        relative=fit_relative_distance(rng.normal(size=(9, 4)), np.arange(9) % 3), neighbors=None
    )
    detector = fit_detector(fit, temperature=0.5, distance=distance)
    odds = log_odds(fit.known.logits, temperature=0.5)
    spreads = fit.known.distances.std(axis=0)
    expected = odds / odds.std() + (fit.known.distances / spreads).sum(axis=1)
    np.testing.assert_allclose(detector.known_scores, np.sort(expected))
    assert (detector.photos, detector.distance) == (50, distance)
    limit = detector.threshold()
    flagged = 0
    for group in fit.unknown:
        assert group.distances is not None
        scores = log_odds(group.logits, temperature=0.5) / odds.std()
        scores += (group.distances / spreads).sum(axis=1)
        flagged += int((scores < limit).sum())
    assert detector.power == (Power(subject="labels left out", photos=17, detected=flagged),)


def test_logits_alone_decide_without_features() -> None:
    known = dataclasses.replace(held_out(np.random.default_rng(5), 40, 3), distances=None)
    detector = fit_detector(CrossFit(known=known), temperature=0.5, distance=None)
    assert detector.score == "max_logit"
    np.testing.assert_allclose(detector.known_scores, np.sort(known.logits.max(axis=1)))


def test_precision_is_that_of_calibrated_probabilities() -> None:
    known = held_out(np.random.default_rng(6), 40, 3)
    curve = fit_precision(known, temperature=0.5)
    probabilities = softmax(known.logits / 0.5).max(axis=1)
    np.testing.assert_allclose(curve.thresholds, np.sort(probabilities)[::-1])
    assert curve.right[-1] == (known.logits.argmax(axis=1) == known.targets).sum()


def test_the_detector_flags_the_stated_share_of_known_photos_and_more_of_other_labels() -> None:
    known_flagged: list[float] = []
    other_flagged: list[float] = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=(16, 12)) * 1.3
        features, targets = cloud(rng, range(12), 30, centers)
        test, _ = cloud(rng, range(12), 60, centers)
        unknown, _ = cloud(rng, range(12, 16), 60, centers)
        fit = fit_on(features, targets, 12)
        crossed = cross_fit(targets, np.arange(360), rng.permutation(360) % 5, fit, rng=rng)
        detector = fit_detector(
            dataclasses.replace(
                crossed,
                known=dataclasses.replace(crossed.known, distances=None),
                unknown=tuple(dataclasses.replace(g, distances=None) for g in crossed.unknown),
            ),
            temperature=1.0,
            distance=None,
        )
        head = head_of_means(features, targets, 12)
        for asked, shares in ((test, known_flagged), (unknown, other_flagged)):
            scores = detector.scores(head(asked), None, temperature=1.0)
            shares.append(detector.is_unknown(scores).mean())
    assert np.mean(known_flagged) == pytest.approx(0.05, abs=0.02)
    assert np.mean(other_flagged) > 0.3

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.evaluation.cross_fit import (
    LABEL_FOLDS,
    CrossFit,
    HeldOutLogits,
    cross_fit,
    drop_own_label,
    masked_scores,
)
from finetune.evaluation.out_of_distribution import log_odds
from finetune.evaluation.precision_target import PrecisionTarget, fit_threshold
from finetune.evaluation.probabilities import softmax


def test_a_photos_own_label_is_struck_out() -> None:
    logits = np.arange(12.0).reshape(3, 4)
    expected = [np.delete(row, k) for row, k in zip(logits, [0, 3, 2], strict=True)]
    np.testing.assert_array_equal(drop_own_label(logits, [0, 3, 2]), expected)


def test_masked_scores_are_those_of_a_smaller_softmax() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(30, 5)), rng.integers(0, 5, 30)
    found = masked_scores(logits, targets, temperature=2.0)
    for k, target in enumerate(targets):
        rest = np.exp(np.delete(logits[k], target) / 2.0)
        assert found.unknown_scores[k] == pytest.approx(rest.max() / rest.sum(), abs=1e-9)
    np.testing.assert_allclose(found.scores, softmax(logits / 2).max(axis=1), atol=1e-12)
    np.testing.assert_array_equal(found.correct, logits.argmax(axis=1) == targets)
    np.testing.assert_array_equal(found.labels, targets)
    np.testing.assert_array_equal(found.unknown_labels, targets)


@pytest.mark.parametrize("labels", [1, 2])
def test_two_labels_are_too_few_to_hold_one_out(labels: int) -> None:
    with pytest.raises(ConfigError) as caught:
        drop_own_label(np.zeros((2, labels)), np.zeros(2, int))
    assert str(caught.value) == (f"Holding labels out needs at least 3 labels; there are {labels}.")
    assert masked_scores(np.zeros((2, labels)), np.zeros(2, int)).unknown_scores.shape == (0,)


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
        return head(features[asked]), features[asked].sum(axis=1)

    return fit


def test_every_photo_is_predicted_by_heads_trained_without_it_or_its_label() -> None:
    rng = np.random.default_rng(1)
    features, targets = cloud(rng, range(6), 20, rng.normal(size=(6, 4)) * 4)
    folds = rng.integers(-1, 3, len(targets))
    calls: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []
    found = cross_fit(targets, folds, fit_on(features, targets, 6, calls), rng=rng)
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
    assert found.known.distances.shape == found.known.targets.shape


def test_many_labels_are_held_out_several_at_a_time() -> None:
    rng = np.random.default_rng(2)
    features, targets = cloud(rng, range(23), 4, rng.normal(size=(23, 3)) * 9)
    found = cross_fit(targets, np.arange(92) % 3, fit_on(features, targets, 23), rng=rng)
    assert len(found.unknown) == LABEL_FOLDS
    for group in found.unknown:
        assert group.logits.shape[1] == 23 - len(set(group.targets))
    assert sum(len(group.targets) for group in found.unknown) == 92


def test_of_two_labels_none_is_held_out() -> None:
    rng = np.random.default_rng(3)
    features, targets = cloud(rng, range(2), 10, rng.normal(size=(2, 3)) * 4)
    found = cross_fit(targets, np.arange(20) % 4, fit_on(features, targets, 2), rng=rng)
    assert found.unknown == ()
    scores, _ = found.scores(temperature=1.0)
    assert scores.unknown_scores.shape == scores.unknown_labels.shape == (0,)


def test_scores_mix_odds_and_distances_by_their_spread_on_known_photos() -> None:
    rng = np.random.default_rng(4)

    def held_out(count: int, labels: int) -> HeldOutLogits:
        return HeldOutLogits(
            logits=rng.normal(size=(count, labels)),
            targets=rng.integers(0, labels, count),
            distances=rng.normal(size=count) * 7,
        )

    fit = CrossFit(known=held_out(50, 4), unknown=(held_out(9, 3), held_out(8, 3)))
    found, mixture = fit.scores(temperature=0.5)
    odds = log_odds(fit.known.logits, temperature=0.5)
    expected = odds / odds.std() + fit.known.distances / fit.known.distances.std()
    np.testing.assert_allclose(found.scores, expected)
    second = fit.unknown[1]
    expected = log_odds(second.logits, temperature=0.5) / odds.std()
    expected += second.distances / fit.known.distances.std()
    np.testing.assert_allclose(found.unknown_scores[9:], expected)
    assert mixture.odds_spread == pytest.approx(odds.std())
    assert found.unknown_labels[9:].tolist() == second.targets.tolist()


def test_a_threshold_by_held_out_labels_holds_its_precision_on_labels_never_seen() -> None:
    """With held-out labels the target of 90 % holds; without them precision is far lower."""
    share = 0.3
    precisions: list[float] = []
    naive: list[float] = []
    target = PrecisionTarget(precision=0.9, unknown_share=share, confidence=0.5, hardest_share=1.0)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=(16, 12)) * 1.3
        features, targets = cloud(rng, range(12), 100, centers)
        test, truth = cloud(rng, range(12), 60, centers)
        unknown, _ = cloud(rng, range(12, 16), 60, centers)
        fitted_head = fit_on(features, targets, 12)
        crossed = cross_fit(targets, rng.permutation(1200) % 3, fitted_head, rng=rng)
        head = head_of_means(features, targets, 12)
        found, mixture = crossed.scores(temperature=1.0)
        empty = found.unknown_scores[:0]
        alone = type(found)(
            scores=found.scores,
            correct=found.correct,
            labels=found.labels,
            unknown_scores=empty,
            unknown_labels=empty.astype(int),
        )
        known = mixture(log_odds(head(test)), test.sum(axis=1))
        unknown_scores = mixture(log_odds(head(unknown)), unknown.sum(axis=1))
        weight = share / (1 - share) * len(test) / len(unknown)
        for evidence, kept in ((found, precisions), (alone, naive)):
            limit = fit_threshold(evidence, target)
            accepted, accepted_unknown = ~limit.is_unknown(known), ~limit.is_unknown(unknown_scores)
            hits = (head(test).argmax(axis=1) == truth)[accepted].sum()
            kept.append(hits / (accepted.sum() + weight * accepted_unknown.sum()))
    spread = np.std(precisions) / np.sqrt(len(precisions))
    assert np.mean(precisions) == pytest.approx(0.9, abs=max(0.02, 3 * spread))
    assert np.mean(naive) < np.mean(precisions) - 0.04

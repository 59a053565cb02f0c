from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import ConfigError
from finetune.evaluation.held_out_labels import cross_fit, drop_own_label, masked_scores
from finetune.evaluation.probabilities import softmax
from finetune.evaluation.unknown import fit_threshold


def test_a_photos_own_label_is_struck_out():
    logits = np.arange(12.0).reshape(3, 4)
    expected = [np.delete(row, k) for row, k in zip(logits, [0, 3, 2], strict=True)]
    np.testing.assert_array_equal(drop_own_label(logits, [0, 3, 2]), expected)


def test_masked_scores_are_those_of_a_smaller_softmax():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(30, 5)), rng.integers(0, 5, 30)
    found = masked_scores(logits, targets, temperature=2.0)
    for k, target in enumerate(targets):
        rest = np.exp(np.delete(logits[k], target) / 2.0)
        assert found.unknown_scores[k] == pytest.approx(rest.max() / rest.sum(), abs=1e-9)
    np.testing.assert_allclose(found.scores, softmax(logits / 2).max(axis=1), atol=1e-12)
    np.testing.assert_array_equal(found.correct, logits.argmax(axis=1) == targets)


@pytest.mark.parametrize("labels", [1, 2])
def test_two_labels_are_too_few_to_hold_one_out(labels):
    with pytest.raises(ConfigError) as caught:
        drop_own_label(np.zeros((2, labels)), np.zeros(2, int))
    assert str(caught.value) == (
        'Saying "none of these" is learnt by holding labels out, which needs 3 labels; '
        f"there are {labels}."
    )


def cloud(rng, labels, per_label, centres):
    targets = np.repeat(np.asarray(labels), per_label)
    return centres[targets] + rng.normal(size=(len(targets), centres.shape[1])), targets


def nearest_mean_head(features, targets):
    """A head that needs no training: minus half the squared distance to each label's mean."""
    means = np.stack([features[targets == c].mean(axis=0) for c in range(targets.max() + 1)])

    def logits(asked):
        return -((asked[:, None] - means) ** 2).sum(axis=2) / 2

    return logits


def test_each_label_is_foreign_to_one_head_and_known_to_the_others():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(6, 4)) * 4
    train, validation = cloud(rng, range(6), 20, centres), cloud(rng, range(6), 10, centres)
    fitted = []

    def fit(features, targets):
        fitted.append((len(features), sorted(set(targets.tolist()))))
        return nearest_mean_head(features, targets)

    found = cross_fit(train, validation, fit, folds=3, rng=np.random.default_rng(0))
    assert fitted == [(80, [0, 1, 2, 3])] * 3
    assert len(found.unknown_scores) == 60
    assert len(found.scores) == len(found.correct) == 120
    assert found.scores.mean() > found.unknown_scores.mean()
    assert found.correct.mean() > 0.9


def test_three_labels_leave_two_to_each_head():
    rng = np.random.default_rng(1)
    data = cloud(rng, range(3), 5, rng.normal(size=(3, 2)) * 5)
    sizes = []

    def fit(features, targets):
        sizes.append(targets.max() + 1)
        return nearest_mean_head(features, targets)

    cross_fit(data, data, fit, rng=rng)
    assert sizes == [2, 2, 2]


def test_a_threshold_by_held_out_labels_holds_its_precision_on_labels_never_seen():
    """Without them it promises 90 and keeps far less; with them it keeps what it promises."""
    share, precisions, naive = 0.3, [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(16, 12)) * 1.3
        known, foreign = range(12), range(12, 16)
        train, validation = cloud(rng, known, 60, centres), cloud(rng, known, 40, centres)
        test, strangers = cloud(rng, known, 60, centres), cloud(rng, foreign, 60, centres)
        head = nearest_mean_head(*train)
        found = cross_fit(train, validation, nearest_mean_head, folds=6, rng=rng)
        fitted = fit_threshold(
            found.scores,
            found.correct,
            unknown_scores=found.unknown_scores,
            unknown_share=share,
            precision=0.9,
            score="max_probability",
        )
        right = head(validation[0]).argmax(axis=1) == validation[1]
        plain = fit_threshold(softmax(head(validation[0])).max(axis=1), right, precision=0.9)
        weight = share / (1 - share) * len(test[0]) / len(strangers[0])
        for threshold, kept in ((fitted, precisions), (plain, naive)):
            answered = ~threshold.refuses(softmax(head(test[0])).max(axis=1))
            fooled = ~threshold.refuses(softmax(head(strangers[0])).max(axis=1))
            hits = (head(test[0]).argmax(axis=1) == test[1])[answered].sum()
            kept.append(hits / (answered.sum() + weight * fooled.sum()))
    spread = np.std(precisions) / np.sqrt(len(precisions))
    assert np.mean(precisions) == pytest.approx(0.9, abs=max(0.02, 3 * spread))
    assert np.mean(naive) < np.mean(precisions) - 0.04

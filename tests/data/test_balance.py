from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from finetune.data.balance import (
    balanced_order,
    draw_keys,
    label_counts,
    label_weights,
    prior_logits,
    strata,
)
from finetune.data.loaders import epoch_batches, epoch_order

ONE = np.repeat([0, 1, 2], [60, 25, 5])
SEVERAL = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], np.float32)


def test_photos_count_for_each_of_their_labels() -> None:
    assert label_counts(ONE, 4).tolist() == [60, 25, 5, 0]
    assert label_counts(SEVERAL, 3).tolist() == [3, 2, 0]


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.999999, 1.0])
def test_weights_are_the_inverse_of_the_effective_number_of_photos(beta: float) -> None:
    counts = np.array([60, 25, 5])
    # The geometric series itself, in place of its closed form.
    effective = np.array([sum(beta**k for k in range(n)) for n in counts])
    expected = 1 / effective
    expected *= counts.sum() / (counts * expected).sum()
    weights = label_weights(ONE, 4, beta=beta)
    np.testing.assert_allclose(weights[:3], expected, rtol=1e-9)
    assert weights[3] == 1
    assert (weights[:3] * counts).sum() / counts.sum() == pytest.approx(1)


def test_weights_of_the_ends_are_none_and_inverse_frequency() -> None:
    np.testing.assert_allclose(label_weights(ONE, 3, beta=0.0), 1)
    weights = label_weights(ONE, 3, beta=1.0)
    np.testing.assert_allclose(weights * [60, 25, 5], 30)


def test_prior_logits_are_those_of_the_share_of_photos_with_the_label() -> None:
    found = prior_logits(SEVERAL)
    share = (np.array([3, 2, 0]) + 0.5) / 7
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), share)


def test_strata_are_labels_and_then_photos_without_any() -> None:
    assert [s.tolist() for s in strata(SEVERAL, 3)] == [[0, 1, 3], [1, 5], [2, 4]]
    assert [len(s) for s in strata(ONE, 4)] == [60, 25, 5]


@pytest.mark.parametrize("epoch", range(4))
def test_labels_are_drawn_alike_and_their_photos_too(epoch: int) -> None:
    order = balanced_order(strata(ONE, 3), 90, seed=3, epoch=epoch)
    assert len(order) == 90
    assert np.bincount(ONE[order]).tolist() == [30, 30, 30]
    times = Counter(order.tolist())
    for label in range(3):
        drawn = [times[int(index)] for index in np.flatnonzero(label == ONE)]
        assert max(drawn) - min(drawn) <= 1


def test_a_remainder_goes_to_labels_that_chance_chooses() -> None:
    groups = strata(ONE, 3)
    counts = [np.bincount(ONE[balanced_order(groups, 91, seed=0, epoch=e)]) for e in range(30)]
    assert all(sorted(count.tolist()) == [30, 30, 31] for count in counts)
    assert len({int(count.argmax()) for count in counts}) == 3


def test_photos_of_several_labels_and_of_none_are_drawn_alike() -> None:
    groups = strata(SEVERAL, 3)
    order = balanced_order(groups, 600, seed=0, epoch=0)
    without = np.isin(order, [2, 4]).sum()
    assert without == 200
    assert (order == 1).sum() == pytest.approx(200 / 3 + 100, abs=1)


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    groups = strata(ONE, 3)
    first = balanced_order(groups, 90, seed=1, epoch=2)
    np.random.default_rng(0).random(10)
    assert (balanced_order(groups, 90, seed=1, epoch=2) == first).all()
    assert (balanced_order(groups, 90, seed=1, epoch=3) != first).any()
    assert (balanced_order(groups, 90, seed=2, epoch=2) != first).any()


def test_steps_are_as_many_as_without_balance() -> None:
    plain = epoch_batches(90, 16, seed=0, epoch=1)
    balanced = epoch_batches(90, 16, seed=0, epoch=1, strata=strata(ONE, 3))
    assert [len(step) for step in plain] == [len(step) for step in balanced]
    assert (np.concatenate(plain) == epoch_order(90, seed=0, epoch=1)).all()
    drawn = ONE[np.concatenate(balanced)]
    assert np.bincount(drawn).tolist() == [30, 30, 30]


def test_a_photo_that_comes_again_has_another_key() -> None:
    steps = [np.array([3, 0, 3]), np.array([1, 3, 0])]
    assert [key.tolist() for key in draw_keys(steps, 5)] == [[3, 0, 8], [1, 13, 5]]
    plain = epoch_batches(20, 6, seed=0, epoch=0)
    assert all((key == step).all() for key, step in zip(draw_keys(plain, 20), plain, strict=True))

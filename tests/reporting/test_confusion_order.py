from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune.reporting.confusion_order import by_confusion, by_recall, most_confused


def test_labels_that_are_taken_for_each_other_stand_side_by_side():
    matrix = np.diag(np.full(6, 20))
    matrix[0, 4], matrix[4, 0], matrix[2, 5], matrix[4, 1] = 5, 3, 4, 1
    order = by_confusion(matrix)
    assert abs(order.index(0) - order.index(4)) == 1
    assert abs(order.index(2) - order.index(5)) == 1
    assert abs(order.index(4) - order.index(1)) == 1
    assert order[-1] == 3  # no mistakes at all


@given(st.integers(1, 12), st.integers(0, 1000))
def test_every_order_holds_each_label_once(size, seed):
    matrix = np.random.default_rng(seed).integers(0, 4, (size, size))
    before = matrix.copy()
    assert sorted(by_confusion(matrix)) == sorted(by_recall(matrix)) == list(range(size))
    np.testing.assert_array_equal(matrix, before)


def test_the_worst_label_comes_first_and_one_without_photos_last():
    matrix = np.array([[9, 1, 0], [0, 0, 0], [5, 0, 5]])
    assert by_recall(matrix) == [2, 0, 1]


def test_the_most_confused_labels_are_those_in_most_mistakes():
    matrix = np.diag(np.full(5, 9))
    matrix[1, 3] = 4
    matrix[0, 3] = 1
    assert most_confused(matrix, 2) == [1, 3]
    assert most_confused(matrix, 3) == [0, 1, 3]

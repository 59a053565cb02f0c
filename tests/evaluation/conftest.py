"""Logits for tests: random ones, and edge cases in which metrics divide by zero."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

Case = tuple[NDArray[np.float64], NDArray[np.int64]]


def draw(seed: int, photos: int, labels: int) -> Case:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, labels, photos)
    logits = rng.normal(size=(photos, labels)) * 2
    logits[np.arange(photos), targets] += 1.5
    return logits, targets


def _label_absent() -> Case:
    logits, targets = draw(1, 60, 5)
    targets[targets == 3] = 0
    logits[:, 3] -= 1  # still predicted now and then
    return logits, targets


def _label_absent_and_never_predicted() -> Case:
    logits, targets = draw(2, 60, 5)
    targets[targets == 3] = 0
    logits[:, 3] = -50
    return logits, targets


def _all_wrong() -> Case:
    logits, targets = draw(3, 40, 4)
    logits[np.arange(40), targets] = -9
    return logits, targets


def _all_right() -> Case:
    logits, targets = draw(4, 40, 4)
    logits[np.arange(40), targets] = 9
    return logits, targets


def _ties() -> Case:
    logits, targets = draw(5, 80, 4)
    return np.round(logits / 2) * 2, targets


CASES: dict[str, Case] = {
    "random": draw(0, 500, 7),
    "many_labels": draw(6, 400, 40),
    "two_labels": draw(7, 120, 2),
    "label_absent": _label_absent(),
    "label_absent_and_never_predicted": _label_absent_and_never_predicted(),
    "all_wrong": _all_wrong(),
    "all_right": _all_right(),
    "ties": _ties(),
    "all_equal": (np.zeros((9, 3)), np.array([0, 1, 2, 2, 2, 1, 0, 0, 0])),
    "one_photo": (np.array([[0.2, 1.0, -0.3]]), np.array([1])),
    "one_photo_wrong": (np.array([[0.2, 1.0, -0.3]]), np.array([2])),
    "one_label_predicted": (np.array([[3.0, 0.0, 0.0]] * 6), np.array([0, 0, 0, 0, 0, 0])),
}


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    logits, targets = CASES[request.param]
    return logits.copy(), targets.copy()

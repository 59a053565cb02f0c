"""Photos to label next."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.curation.label_model import RootSpace
from finetune.curation.next_photos import FEW, balance, select_next, uncertainty
from tests.curation.clusters import clusters


def test_next_photos_stand_for_the_others() -> None:
    rows, own = clusters(20, 20, 20, noise=0.1)
    chosen = select_next(rows, np.zeros(0, np.int64), np.arange(60), count=3)
    assert sorted(own[k] for k in chosen) == [0, 1, 2]
    labeled = np.array([k for k in range(60) if own[k] != 1][:20])
    rest = np.setdiff1d(np.arange(60), labeled)
    (first, *_) = select_next(rows, labeled, rest, count=1)
    assert own[first] == 1
    priority = np.where(np.array(own)[rest] == 2, 1.0, 0.0)
    (first, *_) = select_next(rows, labeled, rest, priority=priority, count=1)
    assert own[first] == 2


def test_the_first_choice_adds_most() -> None:
    rows, _ = clusters(15, 15)
    unit = RootSpace(rows).rows(rows)
    gains = np.maximum(unit @ unit.T, 0).sum(axis=0)
    assert select_next(rows, np.zeros(0, np.int64), np.arange(30), count=1) == [gains.argmax()]


def test_labels_with_few_photos_come_first() -> None:
    counts = np.array([0.0, 4.0, FEW, 50.0])
    found = balance(counts, np.arange(4))
    assert found.tolist() == pytest.approx([3, 3 / 25, 1 / 36, 1 / 36])
    # Sure photos come last, but not while their label has few.
    found = balance(counts, np.arange(4), np.full(4, 0.75))
    assert found.tolist() == pytest.approx([3, 3 / 25, 0.25 / 36, 0.25 / 36])


def test_uncertainty_is_one_less_the_margin() -> None:
    table = np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert np.allclose(uncertainty(table), [0.5, 1.0, 0.0])
    assert np.array_equal(uncertainty(np.ones((3, 1))), np.ones(3))

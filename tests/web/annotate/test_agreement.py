"""Cohen's kappa against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from finetune.web.annotate.agreement import agreements, cohen_kappa


@pytest.mark.parametrize("seed", range(5))
def test_kappa_and_confusion_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 4, 60)
    second = np.where(rng.random(60) < 0.7, first, rng.integers(0, 4, 60))
    votes = [{"anna": (f"l{a}",), "ben": (f"l{b}",)} for a, b in zip(first, second, strict=True)]
    (pair,) = agreements([*votes, {"anna": ("l0",)}, {}])
    assert pair.annotators == ("anna", "ben")
    assert pair.photos == 60
    assert pair.kappa == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert pair.agreement == pytest.approx(np.mean(first == second))
    assert np.array_equal(pair.confusion, confusion_matrix(first, second))


def test_kappa_is_one_for_full_agreement_and_none_for_a_single_label() -> None:
    assert cohen_kappa([[3, 0], [0, 4]]) == 1.0
    assert cohen_kappa([[5]]) is None
    assert cohen_kappa([[0, 5], [5, 0]]) == -1.0


def test_three_annotators_make_three_pairs_and_label_sets_are_compared() -> None:
    pairs = agreements([{"a": ("x", "y"), "b": ("x", "y"), "c": ()}])
    assert [pair.annotators for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs[0].labels == ("x + y",)
    assert pairs[1].labels == ("none of the labels", "x + y")

"""What is suggested for photos whose features were made up."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.curation.suggestions import neighbor_probabilities
from finetune.web.annotate.features import Features
from finetune.web.annotate.suggestions import (
    COHORT,
    HEAD_LEAST,
    Known,
    Opinion,
    RunAnswers,
    Suggester,
)


def features(*clusters: int) -> Features:
    """A photo a cluster that is named, a little apart from others of it; called 0, 1, 2 ..."""
    rng = np.random.default_rng(0)
    rows = np.eye(6, dtype=np.float32)[list(clusters)]
    rows += rng.normal(0, 0.01, rows.shape).astype(np.float32)
    return Features(ids=tuple(map(str, range(len(clusters)))), rows=rows)


def test_photos_with_one_label_are_known() -> None:
    known = Known.of([("x",), (), ("x", "y"), ("y",)])
    assert known.places.tolist() == [0, 3]
    assert known.labels == ("x", "y")
    assert Known.of([]).places.dtype == np.int64


def test_with_one_label_and_no_run_there_is_no_opinion() -> None:
    seen = features(0, 0, 1)
    for own in ([(), (), ()], [("x",), ("x",), ()]):
        assert Suggester().opinion(seen, Known.of(own), RunAnswers(), ["x", "y"]) is None


def test_labels_stand_in_the_order_in_which_they_are_offered() -> None:
    own = [("x",), (), ("y",)]
    opinion = Suggester().opinion(features(0, 0, 1), Known.of(own), RunAnswers(), ["z", "y", "x"])
    assert opinion is not None
    assert opinion.labels == ("y", "x")
    assert opinion.probabilities.sum(axis=1) == pytest.approx(1)
    assert opinion.probabilities.argmax(axis=1).tolist() == [1, 1, 0]


def test_a_run_and_neighbors_have_the_same_say() -> None:
    run = RunAnswers()
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    run.put(["0", "1", "2"], ("x", "q"), shares)
    seen = features(0, 0, 1)
    opinion = Suggester().opinion(seen, Known.of([("x",), (), ("y",)]), run, ["x", "y", "q"])
    assert opinion is not None
    assert opinion.labels == ("x", "y", "q")
    by_neighbors = neighbor_probabilities(seen.rows, seen.rows[[0, 2]], np.array([0, 1]), 3)
    by_run = np.insert(shares, 1, 0, axis=1)
    np.testing.assert_allclose(opinion.probabilities, (by_neighbors + by_run) / 2)


def test_a_head_has_a_say_from_enough_labels_on_and_loses_it_when_they_are_taken_back() -> None:
    clusters = [0, 1] * (HEAD_LEAST // 2) + [0, 1]
    seen, suggester = features(*clusters), Suggester()
    own = [("xy"[cluster],) for cluster in clusters[:HEAD_LEAST]] + [(), ()]

    def say(count: int) -> np.ndarray:
        known = Known.of([*own[:count], *[()] * (len(clusters) - count)])
        opinion = suggester.opinion(seen, known, RunAnswers(), ["x", "y"])
        assert opinion is not None
        return opinion.probabilities

    few = say(HEAD_LEAST - 1)
    enough = say(HEAD_LEAST)
    assert np.abs(enough - few).max() > 0.01
    np.testing.assert_array_equal(say(HEAD_LEAST - 1), few)


def test_suggestions_are_rounded_and_doubt_is_the_lack_of_a_margin() -> None:
    opinion = Opinion(
        labels=("x", "y", "z"),
        probabilities=np.array([[0.1, 0.2, 0.7], [0.334, 0.333, 0.333], [1.0, 0.0, 0.0]]),
        features=features(0, 0, 1),
    )
    advice = opinion.advice(np.array([0, 1]))
    assert advice.keys() == {"0", "1"}
    assert advice["0"].ranked == (("z", 0.7), ("y", 0.2), ("x", 0.1))
    assert advice["0"].uncertainty == 0.5
    assert advice["1"].uncertainty == 1.0
    assert advice["0"].disagreement is None


def test_a_cohort_is_of_one_suggestion_sure_and_open() -> None:
    shares = np.array([[0.9, 0.1], [0.8, 0.2], [0.55, 0.45], [0.9, 0.1], [0.2, 0.8]])
    opinion = Opinion(labels=("x", "y"), probabilities=shares, features=features(0, 0, 0, 1, 0))
    assert opinion.cohort("0", lambda other: True) == ("x", ["0", "1", "3"])
    assert opinion.cohort("0", lambda other: other != "1") == ("x", ["0", "3"])
    assert opinion.cohort("2", lambda other: True) == ("x", ["2"])
    assert opinion.cohort("9", lambda other: True) == (None, [])


def test_a_cohort_is_not_larger_than_a_person_can_look_at() -> None:
    count = 2 * COHORT
    opinion = Opinion(
        labels=("x",), probabilities=np.ones((count, 1)), features=features(*[0] * count)
    )
    _, ids = opinion.cohort("7", lambda other: True)
    assert len(ids) == len(set(ids)) == COHORT
    assert ids[0] == "7"

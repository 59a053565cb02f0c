"""Suggestions and label errors on synthetic features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune import Predictor
from finetune.curation.suggestions import neighbor_probabilities
from finetune.photos.scan import scan
from finetune.web.annotate.features import Features
from finetune.web.annotate.session import Session
from finetune.web.annotate.suggestions import (
    COHORT_SIZE,
    MIN_LABELED,
    REFIT_EVERY,
    Labeled,
    Predictions,
    Suggester,
    run_classifier,
)

IDS = tuple(map(str, range(20)))
CLUSTERS = [number % 2 for number in range(20)]
WRONG = 4


def features(*clusters: int) -> Features:
    """Returns features of one photo a named cluster, with noise; the ids are 0, 1, 2 ..."""
    rng = np.random.default_rng(0)
    rows = np.eye(6, dtype=np.float32)[list(clusters)]
    rows += rng.normal(0, 0.01, rows.shape).astype(np.float32)
    return Features(ids=tuple(map(str, range(len(clusters)))), rows=rows)


def test_only_photos_with_exactly_one_label_count_as_labeled() -> None:
    labeled = Labeled.of([("x",), (), ("x", "y"), ("y",)])
    assert labeled.positions.tolist() == [0, 3]
    assert labeled.labels == ("x", "y")
    assert Labeled.of([]).positions.dtype == np.int64


def test_one_label_without_a_run_predicts_nothing() -> None:
    seen = features(0, 0, 1)
    for own in ([(), (), ()], [("x",), ("x",), ()]):
        assert Suggester().predict(seen, Labeled.of(own), ["x", "y"]) is None


def test_predicted_labels_are_in_display_order() -> None:
    own = [("x",), (), ("y",)]
    predictions = Suggester().predict(features(0, 0, 1), Labeled.of(own), ["z", "y", "x"])
    assert predictions is not None
    assert predictions.labels == ("y", "x")
    assert predictions.probabilities.sum(axis=1) == pytest.approx(1)
    assert predictions.probabilities.argmax(axis=1).tolist() == [1, 1, 0]


def test_run_and_neighbors_have_equal_weight() -> None:
    suggester = Suggester()
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    suggester.add_run(["0", "1", "2"], ("x", "q"), shares)
    seen = features(0, 0, 1)
    predictions = suggester.predict(seen, Labeled.of([("x",), (), ("y",)]), ["x", "y", "q"])
    assert predictions is not None
    assert predictions.labels == ("x", "y", "q")
    by_neighbors = neighbor_probabilities(seen.rows, seen.rows[[0, 2]], np.array([0, 1]), 3)
    by_run = np.insert(shares, 1, 0, axis=1)
    np.testing.assert_allclose(predictions.probabilities, (by_neighbors + by_run) / 2)


def test_head_is_used_only_with_enough_labels() -> None:
    clusters = [0, 1] * (MIN_LABELED // 2) + [0, 1]
    seen, suggester = features(*clusters), Suggester()
    own = [("xy"[cluster],) for cluster in clusters[:MIN_LABELED]] + [(), ()]

    def predict(count: int) -> NDArray[np.float64]:
        labeled = Labeled.of([*own[:count], *[()] * (len(clusters) - count)])
        predictions = suggester.predict(seen, labeled, ["x", "y"])
        assert predictions is not None
        return predictions.probabilities

    few = predict(MIN_LABELED - 1)
    enough = predict(MIN_LABELED)
    assert np.abs(enough - few).max() > 0.01
    np.testing.assert_array_equal(predict(MIN_LABELED - 1), few)


def test_suggestions_are_rounded_and_uncertainty_is_the_lack_of_a_margin() -> None:
    predictions = Predictions(
        labels=("x", "y", "z"),
        probabilities=np.array([[0.1, 0.2, 0.7], [0.334, 0.333, 0.333], [1.0, 0.0, 0.0]]),
        features=features(0, 0, 1),
    )
    suggested = predictions.suggestions(np.array([0, 1]))
    assert suggested.keys() == {"0", "1"}
    assert suggested["0"].ranked == (("z", 0.7), ("y", 0.2), ("x", 0.1))
    assert suggested["0"].uncertainty == 0.5
    assert suggested["1"].uncertainty == 1.0
    assert suggested["0"].disagreement is None


def test_cohort_photos_share_a_confident_suggestion_and_are_open() -> None:
    shares = np.array([[0.9, 0.1], [0.8, 0.2], [0.55, 0.45], [0.9, 0.1], [0.2, 0.8]])
    predictions = Predictions(
        labels=("x", "y"), probabilities=shares, features=features(0, 0, 0, 1, 0)
    )
    assert predictions.cohort("0", lambda other: True) == ("x", ["0", "1", "3"])
    assert predictions.cohort("0", lambda other: other != "1") == ("x", ["0", "3"])
    assert predictions.cohort("2", lambda other: True) == ("x", ["2"])
    assert predictions.cohort("9", lambda other: True) == (None, [])


def test_cohort_size_is_bounded() -> None:
    count = 2 * COHORT_SIZE
    predictions = Predictions(
        labels=("x",), probabilities=np.ones((count, 1)), features=features(*[0] * count)
    )
    _, ids = predictions.cohort("7", lambda other: True)
    assert len(ids) == len(set(ids)) == COHORT_SIZE
    assert ids[0] == "7"


def test_run_predictions_are_kept_by_photo() -> None:
    suggester = Suggester()
    suggester.add_run(["a", "b"], ("x", "y"), np.array([[0.75, 0.25], [0.5, 0.5]]))
    suggester.add_run(
        ["b", "c"], ("x", "y"), np.array([[0.0, 1.0], [1.0, 0.0]]), ["sure", "unknown"]
    )
    assert suggester.run_labels == ("x", "y")
    found = suggester.disagreements(["a", "b", "c"], [("x",)] * 3)
    assert [found[photo_id].disagreement for photo_id in "abc"] == [0.25, 1, 0]
    of_three = Features(ids=("a", "b", "c"), rows=np.eye(3, dtype=np.float32))
    predictions = suggester.predict(of_three, Labeled.of([(), (), ()]), ("x", "y"))
    assert predictions is not None
    suggested = predictions.suggestions(np.arange(3))
    assert [suggested[photo_id].status for photo_id in "abc"] == [None, "sure", "unknown"]


def test_run_classifier_returns_probabilities_in_the_order_of_the_runs_labels(
    train_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    run = train_tiny(tmp_path, photos=6, epochs=1)
    photos = tmp_path / "photos"
    scan(photos, workers=1)
    session = Session(photos)
    states = session.index.states()
    (photos / states[1].path).write_bytes(b"no photo any more")
    labels, probabilities, statuses = run_classifier(str(run), session)(
        [state.photo for state in states[:3] if state.photo is not None]
    )
    session.close()
    assert labels == ("ant", "bee")
    predictor = Predictor.load(run)
    for row, state in ((probabilities[0], states[0]), (probabilities[2], states[2])):
        answer = predictor(photos / state.path)
        assert row == pytest.approx([answer.probability_of(label) for label in labels])
    assert statuses == [predictor(photos / states[0].path).status, "failed", statuses[2]]
    # A photo that can no longer be opened gets equal probabilities.
    assert probabilities[1].tolist() == [0.5, 0.5]


@pytest.fixture
def two_clusters() -> Features:
    rng = np.random.default_rng(0)
    rows = np.eye(4, dtype=np.float32)[CLUSTERS] + rng.normal(0, 0.05, (20, 4)).astype(np.float32)
    return Features(ids=IDS, rows=rows)


def labels() -> list[tuple[str, ...]]:
    own: list[tuple[str, ...]] = [("xy"[cluster],) for cluster in CLUSTERS]
    own[WRONG] = ("y",)
    return own


def ignore(done: int = 0, total: int = 0) -> None:
    pass


def test_a_wrong_label_has_the_highest_disagreement(two_clusters: Features) -> None:
    suggester, own = Suggester(), labels()
    assert suggester.check_labels(two_clusters, Labeled.of(own), IDS, ignore)
    suggested = suggester.disagreements(IDS, own)
    assert max(suggested, key=lambda photo_id: suggested[photo_id].disagreement or 0) == str(WRONG)
    assert suggested[str(WRONG)].ranked[0][0] == "x"
    assert (suggested[str(WRONG)].disagreement or 0) > 0.5


def test_labels_are_checked_again_only_after_enough_new_ones(two_clusters: Features) -> None:
    suggester, own = Suggester(), labels()
    few = [*own[: REFIT_EVERY - 1], *[()] * (21 - REFIT_EVERY)]
    assert not suggester.check_labels(two_clusters, Labeled.of(few), IDS, ignore)
    assert suggester.check_labels(two_clusters, Labeled.of(own), IDS, ignore)
    assert not suggester.check_labels(two_clusters, Labeled.of(own), IDS, ignore)


def test_a_single_label_cannot_be_checked(two_clusters: Features) -> None:
    own = [("x",)] * 20
    assert not Suggester().check_labels(two_clusters, Labeled.of(own), IDS, ignore)


def test_labels_of_one_burst_each_cannot_be_held_out(two_clusters: Features) -> None:
    own = labels()
    bursts = [label[0] for label in own]
    assert not Suggester().check_labels(two_clusters, Labeled.of(own), bursts, ignore)
    assert Suggester().check_labels(two_clusters, Labeled.of(own), [*bursts[:-1], "alone"], ignore)


def test_a_stopped_check_raises(two_clusters: Features) -> None:
    def stop(done: int = 0, total: int = 0) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Suggester().check_labels(two_clusters, Labeled.of(labels()), IDS, stop)


def test_before_a_check_the_run_is_used() -> None:
    suggester = Suggester()
    suggester.add_run(["0", "1"], ("x", "y", "q"), np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]))
    own = [("y",), (), ("x", "y")]
    suggested = suggester.disagreements(["0", "1"], own[:2])
    assert suggested.keys() == {"0"}
    assert suggested["0"].ranked == (("x", 0.7), ("y", 0.2), ("q", 0.1))
    assert suggested["0"].disagreement == 0.8
    silent = Suggester().disagreements(["2"], own[2:])["2"]
    assert (silent.ranked, silent.disagreement) == ((), None)

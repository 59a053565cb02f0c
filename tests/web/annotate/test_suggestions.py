"""Suggestions from labels and from a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finetune import Predictor
from finetune.photos.scan import scan
from finetune.web.annotate.features import Features
from finetune.web.annotate.session import Session
from finetune.web.annotate.suggestions import (
    CHECK_EVERY,
    TEMPERATURE,
    Labeled,
    Predictions,
    Suggester,
    run_classifier,
)

IDS = tuple(map(str, range(20)))
CLUSTERS = [number % 2 for number in range(20)]
WRONG = 4

Own = list[tuple[str, ...] | None]


def features(*clusters: int) -> Features:
    """Returns features of one photo a named cluster, with noise; the ids are 0, 1, 2 ..."""
    rng = np.random.default_rng(0)
    rows = np.eye(6, dtype=np.float32)[list(clusters)]
    rows += rng.normal(0, 0.01, rows.shape).astype(np.float32)
    return Features(ids=tuple(map(str, range(len(clusters)))), rows=rows.astype(np.float16))


def labeled_of(own: Own) -> Labeled:
    return Labeled.of(own, [str(number) for number in range(len(own))])


def predict(
    suggester: Suggester, seen: Features, own: Own, offered: tuple[str, ...]
) -> Predictions:
    is_open = np.array([labels is None for labels in own])
    return suggester.predict(seen, labeled_of(own), offered, is_open)


def test_photos_with_one_label_or_none_of_them_are_learned_from() -> None:
    labeled = Labeled.of([("x",), None, ("x", "y"), ("y",), ()], list("abcde"))
    assert labeled.positions.tolist() == [0, 3, 4]
    assert labeled.labels == ("x", "y", "")
    assert labeled.groups == ("a", "d", "e")
    assert Labeled.of([], []).positions.dtype == np.int64


def test_one_label_without_a_run_predicts_nothing() -> None:
    seen = features(0, 0, 1)
    nothing: list[Own] = [[None, None, None], [("x",), ("x",), None]]
    for own in nothing:
        found = predict(Suggester(), seen, own, ("x", "y"))
        assert found.suggestions() == {}
        assert len(found.next_ids) == sum(labels is None for labels in own)


def test_predicted_labels_are_in_display_order_and_none_is_the_last() -> None:
    own: Own = [("x",), None, ("y",), ()]
    found = predict(Suggester(), features(0, 0, 1, 2), own, ("z", "y", "x"))
    assert found.labels == ("y", "x", "")
    assert found.ids == ("1",)
    assert found.probabilities.sum(axis=1) == pytest.approx(1)
    assert found.suggestions()["1"].ranked[0][0] == "x"


def test_none_of_the_labels_is_suggested_for_photos_like_those() -> None:
    own: Own = [("x",), ("y",), (), None, None]
    found = predict(Suggester(), features(0, 1, 2, 2, 0), own, ("x", "y"))
    suggested = found.suggestions()
    assert suggested["3"].ranked[0][0] == ""
    assert suggested["4"].ranked[0][0] == "x"
    assert suggested["3"].share is None


def test_run_and_labels_have_equal_weight() -> None:
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    with_run, without = Suggester(), Suggester()
    with_run.add_run(["0", "1", "2"], ("x", "q"), shares)
    own: Own = [("x",), None, ("y",)]
    seen = features(0, 0, 1)
    found = predict(with_run, seen, own, ("x", "y", "q"))
    alone = predict(without, seen, own, ("x", "y", "q"))
    assert found.labels == ("x", "y", "q")
    assert alone.labels == ("x", "y")
    by_labels = np.append(alone.probabilities[0], 0.0)
    np.testing.assert_allclose(found.probabilities[0], np.add(by_labels, [0.2, 0.0, 0.8]) / 2)


def test_probabilities_are_a_softmax_of_cosines() -> None:
    own: Own = [("x",), None, ("y",)]
    seen = features(0, 0, 1)
    roots = np.sign(seen.rows) * np.sqrt(np.abs(seen.rows.astype(np.float64)))
    unit = roots - roots.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    powers = np.exp(unit[[0, 2]] @ unit[1] / TEMPERATURE)
    found = predict(Suggester(), seen, own, ("x", "y"))
    np.testing.assert_allclose(found.probabilities[0], powers / powers.sum(), atol=1e-3)


def test_suggestions_are_rounded_and_uncertainty_is_the_lack_of_a_margin() -> None:
    predictions = Predictions(
        labels=("x", "y", "z"),
        probabilities=np.array([[0.1, 0.2, 0.7], [0.334, 0.333, 0.333]]),
        ids=("0", "1"),
        shares=np.array([0.913, 0.5]),
        unlike=np.array([False, True]),
    )
    suggested = predictions.suggestions()
    assert suggested["0"].ranked == (("z", 0.7), ("y", 0.2), ("x", 0.1))
    assert (suggested["0"].uncertainty, suggested["0"].share, suggested["0"].unlike) == (
        0.5,
        0.91,
        False,
    )
    assert (suggested["1"].uncertainty, suggested["1"].unlike) == (1.0, True)
    assert suggested["0"].disagreement is None


def test_a_cohort_is_offered_with_enough_labels() -> None:
    clusters = [0, 1] * 40
    own: Own = [("xy"[cluster],) for cluster in clusters[:30]]
    own += [None] * 50
    found = predict(Suggester(), features(*clusters), own, ("x", "y"))
    assert found.cohort is not None
    assert len(found.cohort.ids) == 40
    kinds = ["xy"[clusters[int(photo_id)]] for photo_id in found.cohort.ids]
    assert kinds == list(found.cohort.labels)
    few = [*own[:8], *[None] * 72]
    assert predict(Suggester(), features(*clusters), few, ("x", "y")).cohort is None


def test_run_predictions_are_kept_by_photo() -> None:
    suggester = Suggester()
    suggester.add_run(["a", "b"], ("x", "y"), np.array([[0.75, 0.25], [0.5, 0.5]]))
    suggester.add_run(
        ["b", "c"], ("x", "y"), np.array([[0.0, 1.0], [1.0, 0.0]]), ["sure", "unknown"]
    )
    assert suggester.run_labels == ("x", "y")
    found = suggester.disagreements(["a", "b", "c"], [("x",)] * 3)
    assert [found[photo_id].disagreement for photo_id in "abc"] == [0.25, 1, 0]
    of_three = Features(ids=("a", "b", "c"), rows=np.eye(3, dtype=np.float16))
    predictions = predict(suggester, of_three, [None, None, None], ("x", "y"))
    suggested = predictions.suggestions()
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
    return Features(ids=IDS, rows=rows.astype(np.float16))


def labels() -> Own:
    own: Own = [("xy"[cluster],) for cluster in CLUSTERS]
    own[WRONG] = ("y",)
    return own


def ignore(done: int = 0, total: int = 0) -> None:
    pass


def test_a_wrong_label_has_the_highest_disagreement(two_clusters: Features) -> None:
    suggester, own = Suggester(), labels()
    assert suggester.check_labels(two_clusters, labeled_of(own), ignore)
    suggested = suggester.disagreements(IDS, own)
    assert max(suggested, key=lambda photo_id: suggested[photo_id].disagreement or 0) == str(WRONG)
    assert suggested[str(WRONG)].ranked[0][0] == "x"
    assert (suggested[str(WRONG)].disagreement or 0) > 0.5


def test_labels_are_checked_again_only_after_enough_new_ones(two_clusters: Features) -> None:
    suggester, own = Suggester(), labels()
    few = [*own[: CHECK_EVERY - 1], *[None] * (21 - CHECK_EVERY)]
    assert not suggester.check_labels(two_clusters, labeled_of(few), ignore)
    assert suggester.check_labels(two_clusters, labeled_of(own), ignore)
    assert not suggester.check_labels(two_clusters, labeled_of(own), ignore)


def test_a_single_label_cannot_be_checked(two_clusters: Features) -> None:
    own: Own = [("x",)] * 20
    assert not Suggester().check_labels(two_clusters, labeled_of(own), ignore)


def test_labels_of_one_burst_each_cannot_be_held_out(two_clusters: Features) -> None:
    own = labels()
    bursts = ["".join(label or ()) for label in own]
    assert not Suggester().check_labels(two_clusters, Labeled.of(own, bursts), ignore)
    groups = [*bursts[:-1], "alone"]
    assert Suggester().check_labels(two_clusters, Labeled.of(own, groups), ignore)


def test_a_stopped_check_raises(two_clusters: Features) -> None:
    def stop(done: int = 0, total: int = 0) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Suggester().check_labels(two_clusters, labeled_of(labels()), stop)


def test_before_a_check_the_run_is_used() -> None:
    suggester = Suggester()
    suggester.add_run(["0", "1"], ("x", "y", "q"), np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]))
    own: Own = [("y",), None, ("x", "y")]
    suggested = suggester.disagreements(["0", "1"], own[:2])
    assert suggested.keys() == {"0"}
    assert suggested["0"].ranked == (("x", 0.7), ("y", 0.2), ("q", 0.1))
    assert suggested["0"].disagreement == 0.8
    silent = Suggester().disagreements(["2"], own[2:])["2"]
    assert (silent.ranked, silent.disagreement) == ((), None)

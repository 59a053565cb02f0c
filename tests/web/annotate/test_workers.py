"""What the machine says in a session, on features that were made up so that the answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.photos.crops import Crop
from finetune.photos.scan import scan
from finetune.web.annotate.actions import read_action
from finetune.web.annotate.session import Session
from finetune.web.annotate.workers import SuggestionWorker


@pytest.fixture
def session(make_photos, tmp_path: Path):
    """Thirty photos without labels; the first ten show one thing, and so on."""
    drawn = make_photos({"x": 10, "y": 10, "z": 10}, "drawn")
    root = tmp_path / "flat"
    root.mkdir()
    for number, path in enumerate(sorted(drawn.glob("*/*.jpg"))):
        path.rename(root / f"{number:02d}.jpg")
    scan(root, workers=1)
    opened = Session(root)
    yield opened
    opened.close()


@pytest.fixture
def suggestion_worker(session: Session) -> SuggestionWorker:
    """Knows features in three clear clusters, one of them wide."""
    rng = np.random.default_rng(0)
    centers = np.eye(8, dtype=np.float32)[:3]
    made = SuggestionWorker(session)
    for number, state in enumerate(session.index.states()):
        noise = rng.normal(0, 0.05 if number < 20 else 0.2, 8).astype(np.float32)
        made.extractor.put(state.id, centers[number // 10] + noise)
    return made


def label(session: Session, number: int, name: str) -> None:
    state = session.index.states()[number]
    body = {"kind": "label", "photos": {state.id: state.annotations.version}, "labels": [name]}
    session.act(read_action(body))


def rows(session: Session) -> list[dict[str, Any]]:
    return session.index.rows()


def test_before_any_label_the_most_different_photos_are_asked_first(session, suggestion_worker):
    suggestion_worker.suggest()
    rank = sorted(
        (row["rank"], number) for number, row in enumerate(rows(session)) if "rank" in row
    )
    clusters = [number // 10 for _, number in rank[:3]]
    assert sorted(clusters) == [0, 1, 2]
    assert not any("ranked" in row for row in rows(session))


def test_one_label_alone_suggests_nothing(session, suggestion_worker):
    label(session, 0, "x")
    suggestion_worker.suggest()
    assert not any("ranked" in row for row in rows(session))


def test_neighbors_suggest_and_the_unknown_cluster_is_asked_next(session, suggestion_worker):
    label(session, 0, "x")
    label(session, 10, "y")
    suggestion_worker.suggest()
    found = rows(session)
    assert all(row["ranked"][0][0] == "x" for row in found[1:10])
    assert all(row["ranked"][0][0] == "y" for row in found[11:20])
    first = min(range(30), key=lambda number: found[number].get("rank", 99))
    assert first >= 20
    assert np.mean([row["uncertainty"] for row in found[20:]]) > np.mean(
        [row["uncertainty"] for row in found[1:10]]
    )
    # What a person labeled is neither asked nor advised upon.
    assert "rank" not in found[0]
    assert "ranked" not in found[0]


def test_a_cohort_holds_open_look_alikes_of_one_suggestion(session, suggestion_worker):
    for number, name in ((0, "x"), (10, "y"), (20, "z")):
        label(session, number, name)
    suggestion_worker.suggest()
    states = session.index.states()
    name, ids = suggestion_worker.cohort(states[3])
    numbers = [int(session.index.get(photo_id).path[:2]) for photo_id in ids]
    assert name == "x"
    assert numbers[0] == 3
    assert set(numbers) <= set(range(1, 10))
    label(session, 4, "x")
    assert states[4].id not in suggestion_worker.cohort(states[3])[1]


def test_a_wrong_label_is_doubted_by_models_that_did_not_learn_it(session, suggestion_worker):
    for number in range(30):
        label(session, number, "y" if number == 5 else "xyz"[number // 10])
    suggestion_worker.suggest()
    suggestion_worker.check_labels()
    found = rows(session)
    doubts = [row["disagreement"] for row in found]
    assert int(np.argmax(doubts)) == 5
    assert found[5]["disagreement"] > 0.5
    assert found[5]["ranked"][0][0] == "x"
    assert sum(doubt > 0.5 for doubt in doubts[:20]) == 1


def test_similar_photos_come_first(session, suggestion_worker):
    states = session.index.states()
    ids = suggestion_worker.similar(states[12])
    assert ids[0] == states[12].id
    numbers = [int(session.index.get(photo_id).path[:2]) for photo_id in ids]
    assert set(numbers[:10]) == set(range(10, 20))
    assert sorted(numbers) == list(range(30))


def test_a_run_suggests_before_anything_is_labeled(session, suggestion_worker):
    session.index.add_labels(["x", "q"])
    ids = [state.id for state in session.index.states()]
    shares = np.array([[0.8, 0.2] if number % 2 else [0.1, 0.9] for number in range(30)])
    suggestion_worker.run_predictions.put(ids, ("x", "q"), shares)
    suggestion_worker.suggest()
    found = rows(session)
    assert found[1]["ranked"] == [["x", 0.8], ["q", 0.2]]
    assert found[2]["ranked"] == [["q", 0.9], ["x", 0.1]]


def test_advice_never_becomes_a_label(session, suggestion_worker):
    for number, name in ((0, "x"), (10, "y"), (20, "z")):
        label(session, number, name)
    suggestion_worker.suggest()
    assert {photo.path: photo.labels for photo in scan(session.root, workers=1).photos} == {
        f"{number:02d}.jpg": {0: ("x",), 10: ("y",), 20: ("z",)}.get(number, ())
        for number in range(30)
    }


def test_the_whole_chain_learns_from_real_photos(serve, birds: Path, wait_until):
    server = serve(birds, suggestion_worker=SuggestionWorker)
    wait_until(lambda: server.session.index.jobs.suggestions.state == "done", 60)
    state = server.session.index.states()[0]
    with server.client() as client:
        crop = client.get(f"/api/subject-crop?photo={state.id}").json()["crop"]
        assert Crop(center_x=crop[0], center_y=crop[1], side=crop[2]).side <= 1
        ids = client.get(f"/api/similar?photo={state.id}").json()["ids"]
        good = [e.id for e in server.session.index.states() if e.problem is None]
        assert sorted(ids) == sorted(good)
        assert client.get(f"/api/cohort?photo={state.id}").status_code == 200

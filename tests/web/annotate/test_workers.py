"""Suggestions of a session with synthetic features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
def session(make_photos: Callable[..., Path], tmp_path: Path) -> Iterator[Session]:
    """Thirty photos without labels, in three clusters of ten."""
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
    """Worker with features in three clear clusters, one of them wide."""
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


def numbers_of(session: Session, ids: list[str]) -> list[int]:
    numbers = {state.id: int(state.path[:2]) for state in session.index.states()}
    return [numbers[photo_id] for photo_id in ids]


def rows(session: Session) -> list[dict[str, Any]]:
    return session.index.rows()


def test_the_most_different_photos_come_first_without_labels(
    session: Session, suggestion_worker: SuggestionWorker
) -> None:
    suggestion_worker.suggest()
    rank = sorted(
        (row["rank"], number) for number, row in enumerate(rows(session)) if "rank" in row
    )
    clusters = [number // 10 for _, number in rank[:3]]
    assert sorted(clusters) == [0, 1, 2]
    assert not any("ranked" in row for row in rows(session))


def test_a_single_label_gives_no_suggestions(
    session: Session, suggestion_worker: SuggestionWorker
) -> None:
    label(session, 0, "x")
    suggestion_worker.suggest()
    assert not any("ranked" in row for row in rows(session))


def test_neighbors_suggest_and_the_unlabeled_cluster_comes_next(
    session: Session, suggestion_worker: SuggestionWorker
) -> None:
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
    # Labeled photos have no rank and no suggestion.
    assert "rank" not in found[0]
    assert "ranked" not in found[0]


def test_a_cohort_is_offered_once_enough_is_labeled(
    session: Session, suggestion_worker: SuggestionWorker
) -> None:
    for number in (0, 1, 2, 10, 11, 12, 20, 21):
        label(session, number, "xyz"[number // 10])
    suggestion_worker.suggest()
    assert session.index.cohort is None
    for number in (*range(3, 6), 13, 14, 15, *range(22, 26)):
        label(session, number, "xyz"[number // 10])
    suggestion_worker.suggest()
    assert session.index.cohort is None  # 18 photos are labeled
    for number in (6, 16):
        label(session, number, "xyz"[number // 10])
    suggestion_worker.suggest()
    offer = session.index.cohort
    assert offer is not None
    numbers = numbers_of(session, list(offer.ids))
    assert ["xyz"[number // 10] for number in numbers] == list(offer.labels)
    for number in (17, 18):
        label(session, number, "y")
    suggestion_worker.suggest()
    assert session.index.cohort is None  # 8 photos are left


def test_none_of_the_labels_is_learned(
    session: Session, suggestion_worker: SuggestionWorker
) -> None:
    label(session, 0, "x")
    label(session, 10, "y")
    state = session.index.states()[20]
    body = {"kind": "label", "photos": {state.id: state.annotations.version}, "labels": []}
    session.act(read_action(body))
    suggestion_worker.suggest()
    found = rows(session)
    assert sum(row["ranked"][0][0] == "" for row in found[21:]) >= 7
    assert all(row["ranked"][0][0] == "x" for row in found[1:10])
    assert "ranked" not in found[20]


def test_a_wrong_label_is_found_by_cross_validation(
    session: Session, suggestion_worker: SuggestionWorker
) -> None:
    for number in range(30):
        label(session, number, "y" if number == 5 else "xyz"[number // 10])
    suggestion_worker.suggest()
    suggestion_worker.check_labels()
    found = rows(session)
    disagreements = [row["disagreement"] for row in found]
    assert int(np.argmax(disagreements)) == 5
    assert found[5]["disagreement"] > 0.5
    assert found[5]["ranked"][0][0] == "x"
    assert sum(value > 0.5 for value in disagreements[:20]) == 1


def test_similar_photos_come_first(session: Session, suggestion_worker: SuggestionWorker) -> None:
    states = session.index.states()
    ids = suggestion_worker.similar(states[12])
    assert ids[0] == states[12].id
    numbers = numbers_of(session, ids)
    assert set(numbers[:10]) == set(range(10, 20))
    assert sorted(numbers) == list(range(30))


def test_a_run_suggests_before_anything_is_labeled(
    session: Session, suggestion_worker: SuggestionWorker
) -> None:
    ids = [state.id for state in session.index.states()]
    shares = np.array([[0.8, 0.2] if number % 2 else [0.1, 0.9] for number in range(30)])
    suggestion_worker.suggester.add_run(ids, ("x", "q"), shares)
    suggestion_worker.suggest()
    found = rows(session)
    assert found[1]["ranked"] == [["x", 0.8], ["q", 0.2]]
    assert found[2]["ranked"] == [["q", 0.9], ["x", 0.1]]


def test_suggestions_never_become_labels(
    session: Session, suggestion_worker: SuggestionWorker
) -> None:
    for number, name in ((0, "x"), (10, "y"), (20, "z")):
        label(session, number, name)
    suggestion_worker.suggest()
    assert {photo.path: photo.labels for photo in scan(session.root, workers=1).photos} == {
        f"{number:02d}.jpg": {0: ("x",), 10: ("y",), 20: ("z",)}.get(number, ())
        for number in range(30)
    }


def test_the_server_extracts_features_of_real_photos(
    serve: Callable[..., Any], birds: Path, wait_until: Callable[..., Any]
) -> None:
    for path in sorted(birds.glob("*/*.jpg"))[6:]:
        path.unlink()
    server = serve(birds, suggests=True)
    wait_until(lambda: server.session.index.jobs.suggestions.state == "done", 60)
    state = server.session.index.states()[0]
    with server.client() as client:
        crop = client.get(f"/api/subject-crop?photo={state.id}").json()["crop"]
        assert Crop(center_x=crop[0], center_y=crop[1], side=crop[2]).side <= 1
        ids = client.get(f"/api/similar?photo={state.id}").json()["ids"]
        good = [e.id for e in server.session.index.states() if e.problem is None]
        assert sorted(ids) == sorted(good)
        assert client.get("/api/photos").json()["cohort"] is None

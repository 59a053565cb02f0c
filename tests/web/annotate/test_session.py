from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from finetune.photos.catalog.undo_log import StaleError
from finetune.photos.scan import scan
from finetune.web.annotate.actions import BadRequestError, read_action
from finetune.web.annotate.session import Session


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    root = make_photos({"heron": 2, "wren": 2})
    scan(root, workers=1)
    return root


def open_session(root: Path, **options: Any) -> Session:
    return Session(root, **options)


def act(session: Session, kind: str, *paths: str, **extra: Any) -> None:
    states = [state for state in session.index.states() if state.path in paths]
    assert len(states) == len(paths)
    versions = {
        state.id: state.annotations.version_for(session.index.annotator) for state in states
    }
    body = {"kind": kind, "photos": versions, **extra}
    session.act(read_action(body))


def shown(session: Session) -> dict[str, tuple[str, ...]]:
    states = session.index.states()
    return {state.path: state.labels(session.index.annotator)[0] for state in states}


def test_folder_labels_are_shown_until_a_person_labels_the_photo(photos: Path) -> None:
    session = open_session(photos)
    assert session.index.labels == ("heron", "wren")
    act(session, "add", "heron/000.jpg", labels=["young"])
    assert shown(session)["heron/000.jpg"] == ("heron", "young")
    act(session, "remove", "heron/000.jpg", labels=["heron"])
    assert shown(session)["heron/000.jpg"] == ("young",)
    act(session, "clear", "heron/000.jpg")
    assert shown(session)["heron/000.jpg"] == ("heron",)
    session.close()


def test_a_label_can_be_given_before_the_scan_has_read_the_photo(
    make_photos: Callable[..., Path],
) -> None:
    root = make_photos({"": 2})
    session = open_session(root, labels=["wren"])
    assert all(state.digest is None for state in session.index.states())
    act(session, "label", "000.jpg", labels=["wren"])
    session.close()
    assert {p.path: p.labels for p in scan(root, workers=1).photos} == {
        "000.jpg": ("wren",),
        "001.jpg": (),
    }


def test_copies_of_a_photo_share_their_labels(photos: Path) -> None:
    shutil.copyfile(photos / "heron" / "000.jpg", photos / "wren" / "copy.jpg")
    scan(photos, workers=1)
    session = open_session(photos)
    act(session, "label", "heron/000.jpg", "wren/copy.jpg", labels=["finch"])
    assert shown(session)["wren/copy.jpg"] == shown(session)["heron/000.jpg"] == ("finch",)
    first = next(e for e in session.index.states() if e.path == "heron/000.jpg")
    other = next(e for e in session.index.states() if e.path == "wren/copy.jpg")
    mixed = {"kind": "flag", "photos": {first.id: first.annotations.version, other.id: ""}}
    with pytest.raises(StaleError):
        session.act(read_action(mixed))
    session.close()


def test_annotators_are_independent_and_conflicts_wait_for_a_resolution(
    photos: Path,
) -> None:
    anna = open_session(photos, annotator="anna")
    assert set(shown(anna).values()) == {()}
    act(anna, "label", "heron/000.jpg", labels=["wren"])
    act(anna, "label", "heron/001.jpg", labels=["heron"])
    anna.close()
    ben = open_session(photos, annotator="ben")
    assert set(shown(ben).values()) == {()}
    act(ben, "label", "heron/000.jpg", labels=["finch"])
    act(ben, "label", "heron/001.jpg", labels=["heron"])
    rows = {row["path"]: row for row in ben.index.rows()}
    assert rows["heron/000.jpg"]["votes"] == {"anna": ("wren",), "ben": ("finch",)}
    assert shown(ben)["heron/000.jpg"] == ("finch",)
    ben.close()
    # The photo keeps its first label until the conflict is resolved.
    assert {p.path: p.labels for p in scan(photos, workers=1).photos}["heron/000.jpg"] == ("wren",)
    both = open_session(photos)
    act(both, "resolve", "heron/000.jpg", labels=["finch"])
    row = next(row for row in both.index.rows() if row["path"] == "heron/000.jpg")
    assert row["resolved"]
    assert row["labels"] == ("finch",)
    both.close()


def test_an_annotator_changes_and_clears_their_own_label(photos: Path) -> None:
    session = open_session(photos, annotator="anna")
    act(session, "label", "heron/000.jpg", labels=["wren"])
    act(session, "label", "heron/000.jpg", labels=["finch"])
    assert scan(photos, workers=1).photos[0].labels == ("finch",)
    act(session, "clear", "heron/000.jpg")
    assert shown(session)["heron/000.jpg"] == ()
    assert scan(photos, workers=1).photos[0].labels == ("heron",)
    session.undo(session.catalog.latest("anna")[0])
    assert shown(session)["heron/000.jpg"] == ("finch",)
    session.close()


def test_an_unknown_photo_is_refused(photos: Path) -> None:
    session = open_session(photos)
    with pytest.raises(BadRequestError, match=r"^There is no such photo\.$"):
        session.act(read_action({"kind": "flag", "photos": {"0" * 16: ""}}))
    session.close()


def test_two_annotators_at_once_are_never_refused_and_lose_no_vote(photos: Path) -> None:
    def work(name: str, labels: tuple[str, str]) -> None:
        session = open_session(photos, annotator=name)
        for number in range(150):
            path = ("heron/000.jpg", "heron/001.jpg", "wren/000.jpg")[number % 3]
            act(session, "label", path, labels=[labels[number // 3 % 2]])
        session.close()

    with ThreadPoolExecutor(2) as pool:
        for done in [
            pool.submit(work, "anna", ("wren", "heron")),
            pool.submit(work, "ben", ("finch", "gull")),
        ]:
            done.result()
    session = open_session(photos)
    votes = [state.annotations.votes for state in session.index.states()]
    assert votes == [{"anna": ("heron",), "ben": ("gull",)}] * 3 + [{}]
    counts = [len(session.catalog.history(1000, annotator=name)) for name in ("anna", "ben")]
    session.close()
    assert counts == [150, 150]


def test_undo_is_of_ones_own_actions(photos: Path) -> None:
    anna, ben = (open_session(photos, annotator=name) for name in ("anna", "ben"))
    act(anna, "label", "heron/000.jpg", labels=["wren"])
    act(ben, "label", "heron/000.jpg", labels=["finch"])
    act(ben, "flag", "heron/001.jpg")
    anna.undo(anna.catalog.latest("anna")[0])
    assert anna.catalog.latest("anna")[0] == 0
    anna.refresh()
    (first, second, *_) = anna.index.states()
    assert first.annotations.votes == {"ben": ("finch",)}
    assert "flag" in second.annotations.decisions
    act(anna, "unflag", "heron/001.jpg")
    with pytest.raises(StaleError):
        # Undoing Ben's flag would overwrite what Anna did since.
        ben.undo(ben.catalog.latest("ben")[0])
    anna.close()
    ben.close()


def test_a_session_starts_with_the_first_and_the_unlabeled_photos(
    make_photos: Callable[..., Path],
) -> None:
    root = make_photos({".": 5})
    scan(root, workers=1)
    with contextlib.closing(open_session(root)) as before:
        paths = [state.path for state in before.index.states()]
        act(before, "label", *paths[:-1], labels=["wren"])
    with contextlib.closing(open_session(root, limit=1)) as session:
        assert set(shown(session)) == {paths[0], paths[-1]}
        assert shown(session)[paths[0]] == ("wren",)
        (first,) = session.index.first_rows(1)
        assert first["path"] == paths[-1]
        assert len(session.index.first_rows(1, named=[paths[0]])) == 2
        assert not session.is_complete
        session.find_all()
        assert session.is_complete
        assert list(shown(session)) == paths
        rows = session.index.rows()
        assert session.index.rows(limit=2) + session.index.rows(after=paths[1]) == rows

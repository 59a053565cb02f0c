"""Edits of labels, compared with the catalog and with what undo restores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.photos.catalog.annotations import LabelStyle
from finetune.photos.scan import scan
from finetune.web.annotate.actions import BadRequestError, read_action
from finetune.web.annotate.label_edits import read_label_edit
from finetune.web.annotate.session import Session


@pytest.fixture
def session(make_photos: Callable[..., Path]) -> Iterator[Session]:
    root = make_photos({"heron": 2, "wren": 2})
    scan(root, workers=1)
    session = Session(root)
    yield session
    session.close()


def label(session: Session, path: str, *labels: str) -> None:
    (state,) = [state for state in session.index.states() if state.path == path]
    version = state.annotations.version_for(session.index.annotator)
    body = {"kind": "label", "photos": {state.id: version}, "labels": list(labels)}
    session.act(read_action(body))


def edit(session: Session, kind: str, **fields: Any) -> str:
    return session.edit_label(read_label_edit({"kind": kind, **fields})).description


def shown(session: Session) -> dict[str, tuple[str, ...]]:
    return {state.path: state.labels(None)[0] for state in session.index.states()}


def undo(session: Session) -> None:
    session.undo(session.catalog.latest()[0])


def test_rename_reaches_folder_labels_and_keeps_the_place(session: Session) -> None:
    label(session, "wren/000.jpg", "heron", "young")
    before = shown(session)
    assert edit(session, "rename", label="heron", to="egret").startswith("rename the label 'heron'")
    assert shown(session) == {
        "heron/000.jpg": ("egret",),
        "heron/001.jpg": ("egret",),
        "wren/000.jpg": ("egret", "young"),
        "wren/001.jpg": ("wren",),
    }
    assert list(session.index.labels) == ["egret", "wren", "young"]
    undo(session)
    assert shown(session) == before
    assert next(iter(session.index.labels)) == "heron"


def test_rename_to_a_present_label_merges_both(session: Session) -> None:
    label(session, "wren/000.jpg", "finch", "wren")
    edit(session, "rename", label="finch", to="wren")
    assert shown(session)["wren/000.jpg"] == ("wren",)
    assert session.index.labels == ("heron", "wren")


def test_a_mistyped_label_vanishes_when_no_photo_has_it(session: Session) -> None:
    label(session, "wren/000.jpg", "wern")
    assert "wern" in session.index.labels
    label(session, "wren/000.jpg", "wren")
    assert session.index.labels == ("heron", "wren")
    undo(session)
    assert "wern" in session.index.labels


def test_delete_clears_the_label_and_undo_restores_it(session: Session) -> None:
    label(session, "wren/000.jpg", "finch")
    label(session, "heron/000.jpg", "finch", "heron")
    edit(session, "delete", label="finch")
    assert shown(session)["wren/000.jpg"] == ("wren",)
    assert shown(session)["heron/000.jpg"] == ("heron",)
    undo(session)
    assert shown(session)["wren/000.jpg"] == ("finch",)
    with pytest.raises(BadRequestError, match="'heron' is the name of a folder"):
        edit(session, "delete", label="heron")


def test_votes_of_all_annotators_are_renamed(session: Session) -> None:
    root = session.root
    for name in ("anna", "ben"):
        other = Session(root, annotator=name)
        label(other, "heron/000.jpg", "egret")
        other.close()
    session.refresh()
    edit(session, "rename", label="egret", to="great egret")
    (state, *_) = session.index.states()
    assert state.annotations.votes == {"anna": ("great egret",), "ben": ("great egret",)}
    assert shown(session)["heron/000.jpg"] == ("great egret",)


def test_pins_colors_and_order_are_kept_and_undone(session: Session) -> None:
    label(session, "wren/000.jpg", "finch")
    edit(session, "order", order=["wren", "finch", "heron"])
    assert session.index.labels == ("wren", "finch", "heron")
    edit(session, "pin", label="heron", pinned=True)
    assert session.index.labels == ("heron", "wren", "finch")
    edit(session, "color", label="heron", hue=200)
    again = Session(session.root)
    assert again.index.labels == ("heron", "wren", "finch")
    assert again.index.styles["heron"] == LabelStyle(position=2, pinned=True, hue=200)
    again.close()
    for _ in range(3):
        undo(session)
    assert session.catalog.label_styles() == {}
    assert session.index.labels == ("heron", "wren", "finch")


def test_a_pinned_label_stays_without_photos(session: Session) -> None:
    label(session, "wren/000.jpg", "finch")
    edit(session, "pin", label="finch", pinned=True)
    undo_to = shown(session)
    label(session, "wren/000.jpg", "wren")
    assert session.index.labels == ("finch", "heron", "wren")
    assert undo_to["wren/000.jpg"] == ("finch",)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"kind": "burn"},
        {"kind": "rename", "label": "heron"},
        {"kind": "rename", "label": "heron", "to": " "},
        {"kind": "pin", "label": "heron", "pinned": 1},
        {"kind": "color", "label": "heron", "hue": 360},
        {"kind": "color", "label": "heron", "hue": True},
        {"kind": "order", "order": []},
        {"kind": "order", "order": "heron"},
    ],
)
def test_malformed_edits_are_refused(body: Any) -> None:
    with pytest.raises(BadRequestError):
        read_label_edit(body)


def test_an_unknown_label_is_refused(session: Session) -> None:
    with pytest.raises(BadRequestError, match="There is no label 'gull'"):
        edit(session, "rename", label="gull", to="tern")

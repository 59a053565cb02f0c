from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune.photos.catalog.annotations import EXCLUDE, FLAG, RESOLVED, VOTE, Annotations
from finetune.photos.crops import Crop
from finetune.web.annotate.photo_state import PhotoState, Suggestions

ANN, BEN = VOTE + "ann", VOTE + "ben"


def state(**values: Any) -> PhotoState:
    return PhotoState(**{"id": "ab", "path": "heron/1.jpg", "folder_label": "heron", **values})


@pytest.mark.parametrize(
    ("annotations", "annotator", "shown"),
    [
        (Annotations(), None, (("heron",), "folder")),
        (Annotations(labels=("wren",)), None, (("wren",), "person")),
        (Annotations(labels=()), None, ((), "person")),
        (Annotations(labels=("wren",)), "ann", ((), "")),
        (Annotations(decisions={ANN: '["owl"]'}), "ann", (("owl",), "person")),
        (Annotations(decisions={BEN: '["owl"]'}), "ann", ((), "")),
    ],
)
def test_labels_come_from_a_person_then_from_the_folder(
    annotations: Annotations, annotator: str | None, shown: tuple[tuple[str, ...], str]
) -> None:
    assert state(annotations=annotations).labels(annotator) == shown


def test_a_photo_without_folder_label_has_no_labels() -> None:
    assert state(folder_label=None).labels(None) == ((), "")


def test_a_row_leaves_out_unknown_and_false_values() -> None:
    assert state(folder_label=None).row(None) == {"id": "ab", "path": "heron/1.jpg"}


def test_a_row_has_annotations_and_suggestions() -> None:
    annotations = Annotations(
        labels=("owl", "wren"),
        crop=Crop(center_x=0.25, center_y=0.5, side=0.75),
        crop_source="person",
        decisions={FLAG: "", EXCLUDE: ""},
    )
    suggestions = Suggestions(ranked=(("owl", 0.12345),), uncertainty=0.98765, disagreement=0.5)
    shown = state(
        annotations=annotations, suggestions=suggestions, group="g", rank=3, problem="damaged"
    )
    row = shown.row(None)
    assert row == {
        "id": "ab",
        "path": "heron/1.jpg",
        "labels": ("owl", "wren"),
        "source": "person",
        "version": annotations.version,
        "flag": True,
        "rejected": True,
        "crop": [0.25, 0.5, 0.75],
        "cropSource": "person",
        "rank": 3,
        "group": "g",
        "problem": "damaged",
        "ranked": [["owl", 0.123]],
        "uncertainty": 0.988,
        "disagreement": 0.5,
    }


def test_votes_are_shown_if_there_are_two_and_the_annotator_has_voted() -> None:
    alone = Annotations(decisions={ANN: '["owl"]'})
    assert "votes" not in state(annotations=alone).row(None)
    both = replace(alone, decisions={**alone.decisions, BEN: '["wren"]'})
    votes = {"ann": ("owl",), "ben": ("wren",)}
    for annotator in (None, "ann"):
        row = state(annotations=both).row(annotator)
        assert (row["votes"], row["resolved"]) == (votes, False)
    assert "votes" not in state(annotations=both).row("cleo")
    resolved = replace(both, decisions={**both.decisions, RESOLVED: ""})
    assert state(annotations=resolved).row(None)["resolved"] is True

from __future__ import annotations

from typing import Any

import pytest

from finetune.web.annotate.actions import Action, BadRequestError, read_action


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "The request must be a JSON object."),
        ({"kind": "delete"}, "'kind' is not an action."),
        ({"kind": "flag"}, "The action flag has the keys kind, photos."),
        (
            {"kind": "flag", "photos": {}},
            "'photos' must be an object with 1 to 20,000 photos.",
        ),
        (
            {"kind": "label", "photos": {"0" * 16: ""}, "labels": ["a\nb"]},
            "A label must be a single line of text.",
        ),
        (
            {"kind": "label", "photos": {"0" * 16: ""}, "labels": ["  "]},
            "A label must have 1 to 200 characters.",
        ),
        (
            {"kind": "crop", "photos": {"0" * 16: ""}, "crop": [0.5, 2, 1]},
            "A crop's center_y is 2; it must be a number from 0 to 1.",
        ),
    ],
)
def test_an_invalid_request_is_refused_with_its_reason(body: object, message: str) -> None:
    with pytest.raises(BadRequestError) as error:
        read_action(body)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("kind", "count", "values", "description"),
    [
        ("label", 1, {"labels": ("wren",)}, "label 1 photo as 'wren'"),
        ("label", 2, {}, "label 2 photos as none of the labels"),
        ("add", 1200, {"labels": ("a", "b")}, "add 'a' + 'b' to 1,200 photos"),
        ("remove", 1, {"labels": ("a {b}",)}, "remove 'a {b}' from 1 photo"),
        ("accept", 2, {"choices": {"0": "y", "1": "x"}}, "accept 'x', 'y' for 2 photos"),
        ("resolve", 3, {"labels": ("wren",)}, "resolve 3 photos as 'wren'"),
        ("clear", 1, {}, "clear the label of 1 photo"),
        ("keep", 2, {"keeper": "0"}, "keep one of 2 photos"),
        ("flag", 1, {}, "flag 1 photo"),
    ],
)
def test_actions_are_described_for_the_page_and_for_undo(
    kind: str, count: int, values: dict[str, Any], description: str
) -> None:
    photos = {str(number): "" for number in range(count)}
    assert Action(kind=kind, photos=photos, **values).description == description

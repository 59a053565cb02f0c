from __future__ import annotations

import pytest

from finetune.runs.card_text import ends, escaped, number, percent, weakest


@pytest.mark.parametrize(
    ("text", "written"),
    [("heron | gray", "heron \\| gray"), ("<b>", "&lt;b>"), ("a\\b", "a\\\\b"), ("a\nb", "a b")],
)
def test_names_are_shown_by_a_table_as_they_are(text: str, written: str) -> None:
    assert escaped(text) == written


def test_what_is_not_defined_is_an_empty_cell() -> None:
    assert (percent(0.875), number(0.12345), ends((0.5, 0.975))) == (
        "87.5%",
        "0.123",
        "50.0% to 97.5%",
    )
    assert (percent(0.0), number(0.0)) == ("0.0%", "0.000")
    assert (percent(None), number(None), ends(None)) == ("", "", "")


def test_the_weakest_labels_are_named_where_there_are_any() -> None:
    worst = [(0.25, "ant"), (0.5, "bee | wasp")]
    assert weakest("Found least often", "folds", worst) == (
        "\n\nFound least often on the folds: ant (25%), bee \\| wasp (50%)."
    )
    assert weakest("Found least often", "test", []) == ""

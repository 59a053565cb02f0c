from __future__ import annotations

import pytest

from finetune.runs.card_cells import ends, escaped, number, percent


@pytest.mark.parametrize(
    ("text", "written"),
    [("heron | grey", "heron \\| grey"), ("<b>", "&lt;b>"), ("a\\b", "a\\\\b"), ("a\nb", "a b")],
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

"""Tables on narrow terminals."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from finetune.cli.console import Output, make_table

WORDS = ("validation", "72", "97.2 %", "balanced-accuracy-of-the-network")


def table() -> Table:
    made = make_table("part", "photos", "accuracy", "remark", right=("photos", "accuracy"))
    made.add_row(*WORDS)
    return made


def printed(width: int) -> str:
    stream = io.StringIO()
    Output(stdout=Console(file=stream, width=width)).print(table())
    return stream.getvalue()


def test_a_wide_terminal_has_a_table() -> None:
    lines = printed(80).splitlines()
    assert len(lines) == 2
    assert lines[0].split() == ["part", "photos", "accuracy", "remark"]


@pytest.mark.parametrize("width", [60, 50, 44])
def test_a_narrow_terminal_breaks_no_word(width: int) -> None:
    text = printed(width)
    for word in (*WORDS, "photos", "accuracy"):
        assert word in text
    assert max(map(len, text.splitlines())) <= width


def test_a_table_that_cannot_fit_is_a_list_with_every_cell() -> None:
    lines = [line.rstrip().split(maxsplit=1) for line in printed(44).splitlines()]
    assert lines == [
        ["part", "validation"],
        ["photos", "72"],
        ["accuracy", "97.2 %"],
        ["remark", "balanced-accuracy-of-the-network"],
    ]

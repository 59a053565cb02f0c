from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finetune.spreadsheets import guard, read_csv, unguard, write_csv


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1"])
def test_a_formula_becomes_text(text: str) -> None:
    assert guard(text) == "'" + text


@pytest.mark.parametrize("text", ["heron", "1-2", "'quoted'", "カワセミ", "", "a=b"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert guard(text) == text


@given(st.text(alphabet="'=+-@\t\r\nab", max_size=6))
@example("'=1")
@example("''=1")
def test_guard_can_always_be_undone(text: str) -> None:
    assert unguard(guard(text)) == text


def test_file_holds_every_script_quote_and_line_break(tmp_path: Path) -> None:
    rows = [["カワセミ", 'a "b", c'], ["line\nbreak", "\udcff name that is no UTF-8"]]
    assert read_csv(write_csv(tmp_path / "t.csv", rows)) == rows

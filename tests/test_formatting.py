from __future__ import annotations

import json

import pytest

from finetune.formatting import (
    count,
    duration,
    interval,
    number,
    percent,
    signed,
    visible,
    visible_json,
)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.9352, "93.5 %"),
        (1.0, "100 %"),
        (0.0, "0 %"),
        (0.9996, "> 99.9 %"),
        (0.0004, "< 0.1 %"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_only_all_is_a_hundred_and_only_nothing_is_zero(share: float | None, text: str) -> None:
    assert percent(share).replace("\u202f", " ") == text


def test_figures_are_written_as_people_read_them() -> None:
    assert number(0.12345) == "0.123"
    assert number(None) == number(float("inf")) == "–"
    assert count(1, "photo") == "1 photo"
    assert count(6310, "photo") == "6,310 photos"
    assert count(2, "label has", "labels have") == "2 labels have"
    assert interval((0.884, 0.9651)).replace("\u202f", " ") == "88.4–96.5 %"
    assert interval(None) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.23, "4.2 s"), (59.2, "59 s"), (200, "3:20 min"), (7500, "2:05 h")],
)
def test_durations_are_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.04, "+0.0"), (0.0, "+0.0"), (-0.06, "-0.1"), (12.34, "+12.3")]
)
def test_signed_numbers_are_never_minus_zero(value: float, text: str) -> None:
    assert signed(value) == text


def test_numbers_are_never_minus_zero() -> None:
    assert [number(value) for value in (-1e-9, -0.0004, -0.0006)] == ["0.000", "0.000", "-0.001"]


def test_control_characters_are_shown_and_plain_text_is_kept() -> None:
    assert visible("\x1b]0;x\x07\x9b2J\x7f\udc80") == "␛]0;x␇\\x9b2J␡\\x80"
    assert visible("\u202egpj\u2066") == "\\u202egpj\\u2066"
    assert visible("カワセミ\tIMG 1\n") == "カワセミ\tIMG 1\n"


def test_json_with_control_characters_stays_the_same_json() -> None:
    value = {"photo": "\x9b\u202e\udcff\x1b é"}
    text = visible_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert text == '{"photo": "\\u009b\\u202e\\udcff\\u001b é"}'

from __future__ import annotations

import logging

import pytest
from PIL import Image, ImageDraw, ImageFont

from finetune import fonts


@pytest.fixture(autouse=True)
def forget_fonts() -> None:
    fonts._source_of.cache_clear()
    fonts._warn_once.cache_clear()


def test_each_character_is_drawn_in_a_font_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_has", lambda source, letter: letter.isascii() == (source is None))
    latin = ImageFont.load_default(20)
    asked = []

    def font(source: object, size: int) -> fonts.Font:
        asked.append(source)
        return latin

    monkeypatch.setattr(fonts, "_font", font)
    width = fonts.text_width("ab カワ c", 20)
    # Both kana in one piece; blanks are in Pillow's own font.
    assert asked == [None, (fonts.FILES[0], 0), None]
    assert width == pytest.approx(
        sum(latin.getlength(part) for part in ("ab ", "カワ", " c")), abs=1e-6
    )


def test_a_missing_character_is_a_box_and_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_has", lambda source, letter: source is None and letter != "カ")
    monkeypatch.setattr(fonts, "_ask_fontconfig", lambda letter: None)
    assert not fonts.has_glyphs("カモメ")
    pen = ImageDraw.Draw(Image.new("RGB", (80, 30)))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            fonts.draw_text(pen, (0, 0), "カa", size=12, fill="white")
    assert [record.getMessage() for record in caplog.records] == [
        "No installed font has some characters of the labels, so that pictures show □ instead. "
        "Install a font that has them, such as Noto Sans CJK."
    ]
    assert fonts.text_width("カ", 12) == fonts.text_width("□", 12)


def test_decomposed_names_are_drawn_as_composed_ones() -> None:
    assert fonts.text_width("e\u0301", 20) == fonts.text_width("é", 20)
    assert fonts.text_width("e\u0301", 20) < fonts.text_width("ee", 20)


def test_a_long_name_keeps_its_two_ends() -> None:
    whole = "Larus argentatus argenteus"
    assert fonts.fitted(whole, 14, 1000) == whole
    short = fonts.fitted(whole, 14, 100)
    assert fonts.text_width(short, 14) <= 100
    start, _, end = short.partition("…")
    assert whole.startswith(start)
    assert whole.endswith(end)
    assert 0 <= len(start) - len(end) <= 1


@pytest.mark.parametrize(("anchor", "left", "right"), [("l", 50, 90), ("m", 30, 70), ("r", 10, 50)])
def test_anchors_are_those_of_pillow(anchor: str, left: int, right: int) -> None:
    image = Image.new("L", (100, 40))
    fonts.draw_text(
        ImageDraw.Draw(image), (50, 20), "HHH", size=18, fill="white", anchor=f"{anchor}m"
    )
    box = image.getbbox()
    assert box is not None
    assert left - 3 <= box[0]
    assert box[2] <= right + 3
    assert abs((box[1] + box[3]) / 2 - 20) <= 2  # middle of a capital

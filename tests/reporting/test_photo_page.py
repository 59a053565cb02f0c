from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

from finetune.reporting.photo_page import Figure, Section, write_picture_page

HOSTILE = '<img src=x onerror="alert(1)">&\'.jpg'


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_names_are_text_and_pictures_are_inside(tmp_path: Path) -> None:
    figure = Figure(pictures=((b"jpeg", HOSTILE),), caption=(HOSTILE, "カワセミ"))
    path = write_picture_page(
        tmp_path / "page.html", HOSTILE, [Section(heading=HOSTILE, figures=(figure,))]
    )
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert len(reader.images) == 1
    assert reader.images[0]["alt"] == HOSTILE
    assert "onerror" not in reader.images[0]
    source = reader.images[0]["src"] or ""
    assert base64.b64decode(source.removeprefix("data:image/jpeg;base64,")) == b"jpeg"
    assert reader.text.count(HOSTILE) == 4  # title, heading, section, caption
    assert "カワセミ" in reader.text


def test_a_name_that_is_no_utf8_can_be_written(tmp_path: Path) -> None:
    figure = Figure(pictures=(), caption=("bad\udcff.jpg",))
    path = write_picture_page(tmp_path / "p.html", "t", [Section(heading="h", figures=(figure,))])
    assert "bad?.jpg" in path.read_text(encoding="utf-8")

from __future__ import annotations

import base64
import dataclasses
import io
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from finetune.photos.collection import Collection
from finetune.photos.crops import Crop
from finetune.photos.near_duplicates.groups import GroupedPhoto, NearDuplicateGroup
from finetune.photos.scan import scan
from finetune.reporting.photo_page import (
    HEIGHT_PIXELS,
    Figure,
    Section,
    before_and_after,
    crop_figures,
    write_crop_png,
    write_near_duplicates_page,
    write_picture_page,
)

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


def test_the_square_is_drawn_on_the_photo_and_shown_beside_it(tmp_path: Path) -> None:
    pixels = np.zeros((340, 680, 3), np.uint8)
    pixels[85:255, 340:510] = (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "blue.png")
    crop = Crop.from_box((340, 85, 510, 255), 680, 340)
    before, after = before_and_after(tmp_path / "blue.png", crop)
    assert before.size == (340, HEIGHT_PIXELS)
    assert after.size == (HEIGHT_PIXELS, HEIGHT_PIXELS)
    assert after.getpixel((85, 85)) == (0, 0, 255)
    yellow = np.argwhere((np.asarray(before) == (255, 255, 0)).all(axis=2))
    top, left = yellow.min(axis=0)
    bottom, right = yellow.max(axis=0)
    expected = np.array([42.5, 170, 127.5, 255])
    assert np.abs(np.array([top, left, bottom, right]) - expected).max() <= 3


def with_crops(birds: Path) -> Collection:
    collection = scan(birds)
    photos = tuple(
        dataclasses.replace(photo, crop=Crop(side=0.5) if number % 2 else None)
        for number, photo in enumerate(collection.photos[:6])
    )
    return dataclasses.replace(collection, photos=photos)


def test_figures_are_of_photos_with_a_square_that_can_be_opened(
    birds: Path, tmp_path: Path
) -> None:
    collection = with_crops(birds)
    gone = dataclasses.replace(collection.photos[1], path="gone.jpg")
    photos = (*collection.photos[:1], gone, *collection.photos[2:])
    figures = crop_figures(collection, photos)
    assert [figure.caption for figure in figures] == [
        (photos[3].path, "50\u202f% of the shorter side"),
        (photos[5].path, "50\u202f% of the shorter side"),
    ]
    page = write_picture_page(
        tmp_path / "p.html", "p", [Section(heading="", figures=tuple(figures))]
    )
    link = f"http://127.0.0.1:8765/#path={quote(photos[3].path, safe='')}"
    assert f'<a href="{link}"' in page.read_text("utf-8")
    for jpeg, words in figures[0].pictures:
        assert photos[3].path in words
        with Image.open(io.BytesIO(jpeg)) as image:
            assert image.height == HEIGHT_PIXELS
            assert not image.getexif()


def test_the_picture_holds_all_pairs(birds: Path, tmp_path: Path) -> None:
    collection = with_crops(birds)
    path = write_crop_png(tmp_path / "sheet.png", collection, collection.photos)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert sheet.height == 2 * (HEIGHT_PIXELS + 10) + 10
    empty = write_crop_png(tmp_path / "empty.png", collection, [])
    assert empty.is_file()


def test_near_duplicates_page_marks_the_best_and_names_what_cannot_be_opened(
    birds: Path, tmp_path: Path
) -> None:
    photos = scan(birds).photos[:2]
    gone = dataclasses.replace(photos[1], path="gone.jpg", labels=("wren",))
    group = NearDuplicateGroup(
        photos=(
            GroupedPhoto(photo=photos[0], kind=None, distance_bits=None, duplicate_of=None),
            GroupedPhoto(photo=gone, kind="similar", distance_bits=4, duplicate_of=photos[0]),
        )
    )
    page = write_near_duplicates_page(tmp_path / "p.html", birds, [group]).read_text("utf-8")
    assert page.count('<li class="best">') == page.count("<img") == 1
    assert "1 group of near-duplicates in" in page
    assert "under different labels" in page
    assert "similar, 4 bits<br>gone.jpg" in page
    empty = write_near_duplicates_page(tmp_path / "p.html", birds, []).read_text("utf-8")
    assert "No near-duplicates in" in empty

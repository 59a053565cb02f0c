from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.errors import DecodeError
from finetune.evaluation.predictions import Prediction
from finetune.reporting.gallery import (
    LONG_SIDE,
    SHORT_SIDE,
    choose_photos,
    least_confident,
    make_thumbnail,
    make_thumbnails,
    mistakes,
    most_confident,
)


def predict(label: str, predicted: str, probability: float, path: str = "") -> Prediction:
    rest = "other" if predicted != "other" else "more"
    return Prediction(
        path=path or f"{label}-{predicted}-{probability}",
        digest="",
        part="test",
        label=label,
        ranked=((predicted, probability), (rest, 1 - probability)),
    )


ROWS = [
    predict("a", "a", 0.9),
    predict("a", "b", 0.6),
    predict("b", "b", 0.7),
    predict("a", "a", 0.95),
    predict("b", "a", 0.8),
    predict("c", "a", 0.5),
    predict("b", "b", 0.65),
    predict("a", "a", 0.55),
]


def test_mistakes_are_sorted_by_confidence() -> None:
    assert mistakes(ROWS) == [4, 1, 5]


def test_equally_confident_mistakes_are_sorted_by_path() -> None:
    rows = [predict("a", "b", 0.5, path="z.jpg"), predict("a", "b", 0.5, path="a.jpg")]
    assert mistakes(rows) == [1, 0]


def test_each_found_label_shows_its_most_confident_photo() -> None:
    assert most_confident(ROWS, ["a", "b", "c"]) == [3, 2]
    assert most_confident(ROWS, ["b", "a"]) == [2, 3]


def test_least_confident_is_a_quarter_of_the_photos_at_most() -> None:
    assert least_confident(ROWS) == [5, 7]
    assert least_confident(ROWS, limit=1) == [5]
    assert least_confident([]) == []


def test_few_photos_are_all_chosen_each_once() -> None:
    assert sorted(choose_photos(ROWS, ["a", "b", "c"], limit=100)) == list(range(8))


def test_a_tight_limit_keeps_what_the_caller_named_and_then_mistakes() -> None:
    chosen = choose_photos(ROWS, ["a", "b", "c"], limit=5, first=[6])
    assert chosen == [6, 5, 4, 1, 3]
    assert choose_photos(ROWS, ["a"], limit=0) == []


def test_right_answers_fill_the_rest_label_by_label() -> None:
    rows = [predict("a", "a", 0.9 - k / 100) for k in range(8)]
    rows += [predict("b", "b", 0.8 - k / 100) for k in range(2)]
    # 9 is the least sure; then a, b, a and, as b has no more, a.
    assert choose_photos(rows, ["a", "b"], limit=6) == [9, 0, 8, 1, 2, 3]


def save(path: Path, width: int, height: int, **options: Any) -> Path:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = (200, 40, 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(
    ("width", "height"), [(1200, 900), (900, 1200), (3000, 300), (100, 80), (181, 5)]
)
def test_a_thumbnail_keeps_the_shape_within_its_bounds(
    tmp_path: Path, width: int, height: int
) -> None:
    made = opened(make_thumbnail(save(tmp_path / "p.png", width, height)))
    assert made.format == "JPEG"
    assert min(made.size) <= SHORT_SIDE
    assert max(made.size) <= LONG_SIDE
    assert made.width <= width
    scale = made.width / width
    assert abs(made.height - height * scale) <= 1


def test_a_thumbnail_holds_nothing_that_the_camera_wrote(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif[0x8825] = {2: (52.0, 31.0, 12.0)}
    path = save(tmp_path / "p.jpg", 400, 300, exif=exif, comment=b"SecretComment", dpi=(300, 300))
    assert b"SecretCamera" in path.read_bytes()
    content = make_thumbnail(path)
    assert not opened(content).getexif()
    assert b"Secret" not in content
    assert b"Exif" not in content


def test_a_sideways_photo_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    made = opened(make_thumbnail(save(tmp_path / "p.jpg", 400, 300, exif=exif)))
    assert made.height > made.width
    red = np.asarray(made)[60, :, 0]
    assert red[-6] > 150 > red[5]


def test_bad_photos_are_named_with_their_reason_and_good_ones_made(tmp_path: Path) -> None:
    save(tmp_path / "in" / "good.jpg", 300, 300)
    (tmp_path / "in" / "bad.jpg").write_bytes(b"no photo at all")
    save(tmp_path / "secret.jpg", 30, 30)
    seen: list[tuple[int, int]] = []
    made, failed = make_thumbnails(
        tmp_path / "in",
        ["good.jpg", "bad.jpg", "gone.jpg", "../secret.jpg"],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert list(made) == ["good.jpg"]
    assert set(failed) == {"bad.jpg", "gone.jpg", "../secret.jpg"}
    assert failed["../secret.jpg"] == "lies outside the collection"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_one_bad_photo_alone_raises(tmp_path: Path) -> None:
    with pytest.raises(DecodeError):
        make_thumbnail(b"nothing")

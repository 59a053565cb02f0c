from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from finetune.evaluation import confusion_image
from finetune.evaluation.confusion_image import draw_confusion, font_for

SHADE = (8, 81, 156)


def test_a_cell_is_as_dark_as_its_share_of_its_row() -> None:
    matrix = np.array([[40, 0], [10, 10]])
    picture = draw_confusion(matrix, ["a", "b"], title="t")
    assert picture.dtype == np.uint8
    # The four cells are the last 80 pixels in both directions, less the margin of 10.
    corners = {}
    for row in range(2):
        for column in range(2):
            y, x = picture.shape[0] - 10 - 80 + 40 * row, picture.shape[1] - 10 - 80 + 40 * column
            corners[row, column] = tuple(int(v) for v in picture[y + 3, x + 3])
    assert corners[0, 0] == SHADE
    assert corners[0, 1] == (255, 255, 255)
    half = tuple(round(255 + (c - 255) / 2) for c in SHADE)
    assert corners[1, 0] == corners[1, 1] == half


@pytest.mark.parametrize("count", [2, 26, 101, 600])
def test_any_number_of_labels_makes_a_picture_of_a_fair_size(count: int) -> None:
    labels = [f"label number {k} with a long name that goes on and on" for k in range(count)]
    picture = draw_confusion(np.eye(count, dtype=np.int64), labels, title="validation")
    assert picture.shape[2] == 3
    assert 80 < max(picture.shape) < 2700


def test_a_label_without_photos_is_an_empty_row() -> None:
    picture = draw_confusion(np.zeros((2, 2), np.int64), ["a", "b"], title="t")
    assert np.isfinite(picture).all()


def test_letters_that_no_font_has_make_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert font_for("Gänsesäger", 12) is not None
    monkeypatch.setattr(confusion_image, "FONTS", ("no-such-font.ttf",))
    assert font_for("カワセミ", 12) is None
    drawn = draw_confusion(np.eye(2, dtype=np.int64), ["カワセミ", "モズ"], title="t")
    numbered = draw_confusion(np.eye(2, dtype=np.int64), ["1", "2"], title="t")
    np.testing.assert_array_equal(drawn, numbered)


def test_a_font_that_draws_boxes_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    font = ImageFont.load_default(12)
    assert isinstance(font, ImageFont.FreeTypeFont)
    monkeypatch.setattr(ImageFont, "truetype", lambda name, size: font)
    assert font_for("カワセミ", 12) is None

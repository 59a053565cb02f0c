from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.contact_sheet import (
    GRID,
    Sheet,
    draw_sheet,
    preset_sheet,
    write_html,
    write_png,
)
from finetune.augmentation.mobius import PRESETS
from finetune.augmentation.recipes import RECIPES


@pytest.fixture
def pictures(photos: Tensor) -> NDArray[np.uint8]:
    return photos[:3].permute(0, 2, 3, 1).numpy()


@pytest.fixture
def sheet(pictures: NDArray[np.uint8]) -> Sheet:
    augment = BatchAugment(RECIPES["mobius"], size=64, mean=(0.5,) * 3, std=(1,) * 3, seed=0)
    names = ("gulls/<b>.jpg", "terns/b.jpg", "c.jpg")
    return draw_sheet(augment, pictures, names=names, epochs=4, title="mobius & more")


def test_a_sheet_has_the_photo_and_then_a_column_an_epoch(
    sheet: Sheet, pictures: NDArray[np.uint8]
) -> None:
    assert sheet.columns == ("as it is", "epoch 1", "epoch 2", "epoch 3", "epoch 4")
    assert sheet.tiles.shape == (3, 5, 64, 64, 3)
    np.testing.assert_array_equal(sheet.tiles[:, 0], pictures[:, 8:72, 8:72])
    assert len({tile.tobytes() for tile in sheet.tiles[0]}) == 5


def test_presets_have_a_column_a_named_map(pictures: NDArray[np.uint8]) -> None:
    sheet = preset_sheet(pictures, names=("a", "b", "c"), size=80)
    assert sheet.columns == ("as it is", *PRESETS)
    # "inverse" is a half turn.
    half_turn = sheet.tiles[:, sheet.columns.index("inverse")].astype(int)
    assert np.abs(half_turn - pictures[:, ::-1, ::-1]).max() <= 2


def test_a_grid_is_warped_like_the_first_photo(pictures: NDArray[np.uint8]) -> None:
    augment = BatchAugment(RECIPES["mobius"], size=64, mean=(0.5,) * 3, std=(1,) * 3, seed=0)
    names = ("a", "b", "c")
    plain = draw_sheet(augment, pictures, names=names, epochs=2, title="t")
    sheet = draw_sheet(augment, pictures, names=names, epochs=2, title="t", grid=True)
    assert sheet.rows == (GRID, *names)
    np.testing.assert_array_equal(sheet.tiles[1:], plain.tiles)
    drawn = preset_sheet(pictures, names=names, size=80, grid=True).tiles[0, 0]
    in_its_place = np.concatenate([drawn[None], pictures[1:]])
    warped = draw_sheet(augment, in_its_place, names=names, epochs=2, title="t")
    np.testing.assert_array_equal(sheet.tiles[0], warped.tiles[0])


def test_the_png_holds_every_tile_unchanged(sheet: Sheet, tmp_path: Path) -> None:
    with Image.open(write_png(sheet, tmp_path / "deep" / "sheet.png")) as image:
        page = np.asarray(image)
    assert page.shape[1] == 2 * 12 + 5 * 64 + 4 * 6
    for row in range(3):
        for column in range(5):
            top, left = 12 + 52 + row * (64 + 28), 12 + column * 70
            tile = page[top : top + 64, left : left + 64]
            np.testing.assert_array_equal(tile, sheet.tiles[row, column])


def test_the_page_stands_alone_and_escapes_names(sheet: Sheet, tmp_path: Path) -> None:
    text = write_html(sheet, tmp_path / "sheet.html", fields={"zoom": "1"}).read_text()
    assert "<title>mobius &amp; more</title>" in text
    assert "gulls/&lt;b&gt;.jpg" in text
    assert "<b>" not in text
    assert "<script" not in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) == 15
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    first = Image.open(io.BytesIO(base64.b64decode(sources[0].split(",")[1])))
    assert first.size == (64, 64)
    assert 'alt="terns/b.jpg, epoch 2"' in text
    assert "<tr><th scope=row>zoom</th><td>1</td></tr>" in text


def test_long_names_are_cut_at_the_front(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    augment = BatchAugment(RECIPES["none"], size=64, mean=(0.5,) * 3, std=(1,) * 3, seed=0)
    names = ("x" * 500, "y", "z")
    long = draw_sheet(augment, pictures, names=names, epochs=1, title="t")
    with Image.open(write_png(long, tmp_path / "sheet.png")) as page:
        assert page.width == 2 * 12 + 2 * 64 + 6

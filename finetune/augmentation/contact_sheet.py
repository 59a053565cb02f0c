"""Contact sheets of augmented photos, as PNG and HTML."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from finetune.augmentation import mobius, sampling
from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.pipelines import PipelineAugment
from finetune.augmentation.recipes import Recipe
from finetune.files import write_atomically, write_text
from finetune.fonts import draw_text, fitted

_GAP, _MARGIN, _TEXT = 6, 12, 14
_INK, _PAPER = (40, 40, 40), (250, 250, 250)


GRID = "a grid, warped like the first photo"
"""Name of the row of `with_grid`."""

MOBIUS_NOTE = (
    "A Möbius map turns, shifts, zooms and bends a photo so that it is larger on one side than on "
    "the other, as if it were seen from another place. Straight lines become arcs of circles, but "
    "all angles stay: small shapes keep their form."
)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Tiles in rows and columns.

    Attributes:
        rows: Names of the photos.
        columns: Headings; the first column shows the center crop.
        tiles: `(rows, columns, size, size, 3)` uint8.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    tiles: NDArray[np.uint8]


def draw_sheet(
    augment: BatchAugment | PipelineAugment,
    photos: NDArray[np.uint8],
    *,
    names: tuple[str, ...],
    epochs: int,
    title: str,
    grid: bool = False,
) -> Sheet:
    """Returns a sheet of each photo's center crop and its augmentation in each epoch.

    Args:
        augment: A recipe or a pipeline.
        photos: `(P, H, W, 3)` uint8, working photos.
        names: Names of the photos.
        epochs: Number of epochs.
        title: Title of the sheet.
        grid: Whether the first row is a grid under the warps of the first photo.
    """
    images, indices = _batch(photos), torch.arange(len(photos))
    if grid:
        images, names = _with_grid(images, names)
        indices = torch.cat([indices[:1], indices])
    views = [_center(images, augment.size)]
    views += [augment.pixels(images, indices, epoch) for epoch in range(epochs)]
    headings = ("as it is", *(f"epoch {epoch + 1}" for epoch in range(epochs)))
    return Sheet(title=title, rows=names, columns=headings, tiles=_tiles(views))


def preset_sheet(
    photos: NDArray[np.uint8], *, names: tuple[str, ...], size: int, grid: bool = False
) -> Sheet:
    """Returns a sheet of center crops under the eight named maps of arXiv:2002.02917.

    With `grid`, the first row is a grid.
    """
    images = _batch(photos)
    if grid:
        images, names = _with_grid(images, names)
    frame = sampling.Frame(height=photos.shape[1], width=photos.shape[2], size=size)
    centered = sampling.center_params(frame, len(images))
    augment = BatchAugment(Recipe(), size=size, mean=(0.5,) * 3, std=(1,) * 3, seed=0)
    views = [_center(images, size)]
    for matrix in mobius.PRESETS.values():
        maps = np.tile(matrix, (len(images), 1, 1))
        views.append(augment.replay(images, sampling.with_maps(centered, maps)))
    columns = ("as it is", *mobius.PRESETS)
    return Sheet(title="Eight named maps", rows=names, columns=columns, tiles=_tiles(views))


def write_png(sheet: Sheet, path: Path) -> Path:
    """Writes the sheet as a PNG and returns its path; raises StorageError."""
    rows, columns, size = sheet.tiles.shape[:3]
    top = _MARGIN + 2 * (_TEXT + 12)
    height = top + rows * (size + _GAP + _TEXT + 8) + _MARGIN
    page = Image.new("RGB", (2 * _MARGIN + columns * (size + _GAP) - _GAP, height), _PAPER)
    pen = ImageDraw.Draw(page)
    draw_text(pen, (_MARGIN, _MARGIN - 2), sheet.title, size=_TEXT + 4, fill=_INK)
    for column, heading in enumerate(sheet.columns):
        x = _MARGIN + column * (size + _GAP)
        draw_text(pen, (x, top - _TEXT - 6), fitted(heading, _TEXT, size), size=_TEXT, fill=_INK)
    for row, name in enumerate(sheet.rows):
        y = top + row * (size + _GAP + _TEXT + 8)
        for column in range(columns):
            tile = Image.fromarray(sheet.tiles[row, column])
            page.paste(tile, (_MARGIN + column * (size + _GAP), y))
        shown = fitted(name, _TEXT, page.width - 2 * _MARGIN)
        draw_text(pen, (_MARGIN, y + size + 3), shown, size=_TEXT, fill=_INK)
    return write_atomically(path, lambda file: page.save(file, "PNG"))


def write_html(sheet: Sheet, path: Path, *, fields: dict[str, str], note: str = "") -> Path:
    """Writes the sheet as a self-contained HTML page; raises StorageError.

    Args:
        sheet: The tiles.
        path: The HTML file.
        fields: Recipe fields for the table below the tiles.
        note: A paragraph above the tiles.
    """
    body = []
    for name, tiles in zip(sheet.rows, sheet.tiles, strict=True):
        figures = []
        for heading, tile in zip(sheet.columns, tiles, strict=True):
            label = html.escape(f"{name}, {heading}")
            figures.append(
                f'<figure><img alt="{label}" src="{_data_url(tile)}">'
                f"<figcaption>{html.escape(heading)}</figcaption></figure>"
            )
        body.append(f"<h2>{html.escape(name)}</h2><div class=tiles>{''.join(figures)}</div>")
    rows = "".join(
        f"<tr><th scope=row>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in fields.items()
    )
    table = f"<h2>Numbers</h2><table>{rows}</table>" if fields else ""
    side = sheet.tiles.shape[2]
    if note:
        body.insert(0, f"<p>{html.escape(note)}</p>")
    page = _PAGE.format(
        title=html.escape(sheet.title), body="\n".join(body), fields=table, side=side
    )
    return write_text(path, page)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }}
body {{ margin: 1.5rem; }}
p {{ max-width: 44rem; }}
h1, h2 {{ font-weight: 600; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.5rem; }}
h2 {{ font-size: 1rem; margin: 1.5rem 0 .4rem; }}
.tiles {{
  display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(min({side}px, 40vw), 1fr));
}}
figure {{ margin: 0; max-width: {side}px; break-inside: avoid; }}
figcaption {{ font-size: .85rem; opacity: .8; }}
img {{ display: block; width: 100%; border-radius: 3px; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: 3px 12px 3px 0; text-align: left; font-weight: normal; }}
</style>
<main>
<h1>{title}</h1>
{body}
{fields}
</main>
</html>
"""


def _with_grid(images: Tensor, names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """Returns the images and their names, with a checkered disk on a grid before them."""
    height, width = images.shape[2:]
    y, x = np.mgrid[0:height, 0:width]
    step = max(2, min(height, width) // 16)
    page = np.full((height, width, 3), 250, np.uint8)
    page[(y // step + x // step) % 2 == 0] = (214, 226, 238)
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 4) ** 2
    page[inside & ((y // step + x // step) % 2 == 0)] = (10, 110, 189)
    page[inside & ((y // step + x // step) % 2 == 1)] = (217, 130, 0)
    return torch.cat([_batch(page[None]), images]), (GRID, *names)


def _batch(photos: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(photos)).permute(0, 3, 1, 2)


def _center(images: Tensor, size: int) -> Tensor:
    centered = BatchAugment(Recipe(), size=size, mean=(0.5,) * 3, std=(1,) * 3, seed=0)
    return centered.pixels(images, torch.arange(len(images)), 0)


def _tiles(views: list[Tensor]) -> NDArray[np.uint8]:
    return np.stack([view.permute(0, 2, 3, 1).numpy() for view in views], axis=1)


def _data_url(tile: NDArray[np.uint8]) -> str:
    content = io.BytesIO()
    Image.fromarray(tile).save(content, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()

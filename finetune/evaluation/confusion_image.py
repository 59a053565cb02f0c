"""The confusion matrix as a picture, for programs that show pictures and no tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from finetune.evaluation.probabilities import Integers

MOST_NUMBERED = 25
"""Most labels for which cells show their counts."""

MOST_NAMED = 100
"""Most labels that are named."""

FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "msgothic.ttc",
)
"""Fonts tried for characters that the built-in font lacks."""

_INK, _PAPER, _SHADE = (30, 30, 30), (255, 255, 255), (8, 81, 156)
_MARGIN = 10

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_confusion(matrix: Integers, labels: Sequence[str], *, title: str) -> NDArray[np.uint8]:
    """Returns an image of a confusion matrix: true labels in rows, predicted ones in columns.

    A cell is as dark as its share of its row: the diagonal shows each label's recall.

    Args:
        matrix: ``(C, C)`` counts.
        labels: C names.
        title: Above it.

    Returns:
        ``(H, W, 3) uint8``.
    """
    count = len(labels)
    side = 40 if count <= MOST_NUMBERED else max(4, 1000 // count)
    text = min(14, max(8, side - 2))
    named = labels if count <= MOST_NAMED else ()
    fonts = [font_for(label, text) for label in named]
    usual = ImageFont.load_default(text)
    names = [
        _fitting(label, font, 160) if font else str(place)
        for place, (label, font) in enumerate(zip(named, fonts, strict=True), start=1)
    ]
    written = [font or usual for font in fonts]
    widths = [font.getlength(name) for name, font in zip(names, written, strict=True)]
    room = round(max(widths)) + 8 if widths else 0
    top, left = _MARGIN + 24 + room, _MARGIN + room
    heading = ImageFont.load_default(15)
    width = max(left + count * side, round(heading.getlength(title))) + _MARGIN
    page = Image.new("RGB", (width, top + count * side + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((_MARGIN, _MARGIN - 4), title, _INK, heading)
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    page.paste(Image.fromarray(_cells(shares, side)), (left, top))
    if count <= MOST_NUMBERED:
        number = ImageFont.load_default(13)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            ink = _PAPER if shares[row, column] > 0.5 else _INK
            middle = (left + (column + 0.5) * side, top + (row + 0.5) * side)
            pen.text(middle, f"{matrix[row, column]}", ink, number, anchor="mm")
    for place, (name, font) in enumerate(zip(names, written, strict=True)):
        pen.text((left - 6, top + (place + 0.5) * side), name, _INK, font, anchor="rm")
        strip = Image.new("RGB", (room, side), _PAPER)
        ImageDraw.Draw(strip).text((4, side / 2), name, _INK, font, anchor="lm")
        page.paste(strip.rotate(90, expand=True), (left + place * side, top - room))
    return np.asarray(page)


def font_for(text: str, size: int) -> Font | None:
    """Returns a font with the characters of `text`, or None."""
    try:
        text.encode("latin-1")
        return ImageFont.load_default(size)
    except UnicodeEncodeError:
        pass
    for name in FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _has_all(font, text):
            return font
    return None


def _has_all(font: ImageFont.FreeTypeFont, text: str) -> bool:
    # What a font lacks, it draws as the same box as a code point that no font has.
    missing = bytes(font.getmask("\uffff"))
    return all(bytes(font.getmask(letter)) != missing for letter in set(text) if letter.strip())


def _fitting(name: str, font: Font, width: int) -> str:
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(f"{name}...") > width:
        name = name[:-1]
    return f"{name}..."


def _cells(shares: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    paper, shade = np.array(_PAPER), np.array(_SHADE)
    colors = np.rint(paper + (shade - paper) * shares[..., None]).astype(np.uint8)
    cells: NDArray[np.uint8] = colors.repeat(side, axis=0).repeat(side, axis=1)
    if side > 8:
        for edge in (0, side - 1):
            cells[edge::side] = cells[:, edge::side] = 225
    return cells

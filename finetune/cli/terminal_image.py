"""A photo drawn in a terminal: two pixels a character, one above the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from finetune.photos.crops import square

_UPPER_HALF = "▀"


def sketch(pixels: NDArray[np.uint8], *, columns: int = 24) -> Text:
    """Returns a square image as `columns` x `columns` / 2 characters of two colored halves each.

    A terminal's cell is about twice as high as wide, so that the halves are nearly square.

    Args:
        pixels: ``(H, W, 3) uint8``.
        columns: Width in characters; an odd one is made even.
    """
    side = max(2, columns - columns % 2)
    small = square(pixels, size=side)
    text = Text(no_wrap=True)
    for row in range(0, side, 2):
        if row:
            text.append("\n")
        for upper, lower in zip(small[row].tolist(), small[row + 1].tolist(), strict=True):
            style = Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))
            text.append(_UPPER_HALF, style)
    return text

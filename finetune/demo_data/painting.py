"""From outlines to pixels: one bird on a transparent tile, smooth-edged and lit from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from finetune.demo_data.birds import Sketch
from finetune.demo_data.shapes import Points

OVERSAMPLING = 2
"""Birds are drawn this much larger and reduced, which smooths their edges."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A painted bird: `image` is RGBA, `foot` the pixel in it where the bird touches ground."""

    image: Image.Image
    foot: tuple[float, float]


def extent(sketch: Sketch) -> tuple[float, float, float, float]:
    """Returns left, top, right, bottom of all that is not clipped, in body lengths."""
    solid = np.vstack(
        [points for layer, points, _ in sketch.shapes if layer not in ("marks", "streaks")]
    )
    left, top = solid.min(axis=0)
    right, bottom = solid.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def paint(sketch: Sketch, *, pixels_per_body: float, mirrored: bool, light: float = 1.0) -> Tile:
    """Returns the bird of `sketch` on a tile just large enough; `mirrored` birds face left.

    Args:
        sketch: The outlines.
        pixels_per_body: Length of the body in pixels of the tile.
        mirrored: Whether the bird faces left.
        light: Brightness of the light that falls on it; 1 is full day.
    """
    left, top, right, bottom = extent(sketch)
    scale = pixels_per_body * OVERSAMPLING
    margin = 2 * OVERSAMPLING
    width = _even((right - left) * scale + 2 * margin)
    height = _even((bottom - top) * scale + 2 * margin)

    def place(points: Points) -> list[float]:
        pixels: list[float] = ((points - (left, top)) * scale + margin).ravel().tolist()
        return pixels

    canvas = Image.new("RGBA", (width, height))
    pen = ImageDraw.Draw(canvas)
    mask = Image.new("L", (width, height))
    mask_pen = ImageDraw.Draw(mask)
    coat = Image.new("RGB", (width, height), _first(sketch, "body"))
    coat_pen = ImageDraw.Draw(coat)
    for layer, points, color in sketch.shapes:
        if layer == "behind":
            pen.polygon(place(points), fill=color)
        elif layer == "body":
            mask_pen.polygon(place(points), fill=255)
            coat_pen.polygon(place(points), fill=color)
        elif layer == "marks":
            coat_pen.polygon(place(points), fill=color)
    # Blurred and cut again at half, the outline loses the corners between head, neck and body.
    soft = mask.filter(ImageFilter.BoxBlur(0.02 * scale))
    mask = soft.point([min(255, max(0, (value - 128) * 6 + 128)) for value in range(256)])
    coat = coat.filter(ImageFilter.BoxBlur(0.012 * scale))
    coat_pen = ImageDraw.Draw(coat)
    for layer, points, color in sketch.shapes:
        if layer == "streaks":
            coat_pen.polygon(place(points), fill=color)
    canvas.paste(coat, mask=mask)
    pen = ImageDraw.Draw(canvas)
    for layer, points, color in sketch.shapes:
        if layer == "over":
            pen.polygon(place(points), fill=color)
    image = _lit(canvas.reduce(OVERSAMPLING), pixels_per_body, light)
    foot = (
        ((sketch.foot[0] - left) * scale + margin) / OVERSAMPLING,
        ((sketch.foot[1] - top) * scale + margin) / OVERSAMPLING,
    )
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        foot = (image.width - foot[0], foot[1])
    return Tile(image=image, foot=foot)


def _lit(image: Image.Image, pixels_per_body: float, daylight: float) -> Image.Image:
    """Darkens what lies under the bird's own bulk, as daylight from above does."""
    alpha = image.getchannel("A")
    step = max(1, round(0.03 * pixels_per_body))
    small = alpha.reduce(step) if step > 1 else alpha
    drop = max(1, round(0.14 * pixels_per_body / step))
    bulk = small.filter(ImageFilter.BoxBlur(0.11 * pixels_per_body / step))
    below = ImageChops.offset(bulk, 0, -drop)
    below.paste(0, (0, below.height - drop, below.width, below.height))
    # Where much of the bird lies below a point, light reaches it; where little does, it is shaded.
    fall = [0.66 + 0.34 * min(1.0, value / 190) for value in range(256)]
    light = below.point([round(255 * daylight * share) for share in fall])
    light = light.resize(image.size, Image.Resampling.BILINEAR)
    colored = ImageChops.multiply(image.convert("RGB"), Image.merge("RGB", (light,) * 3))
    colored.putalpha(alpha)
    return colored


def _first(sketch: Sketch, wanted: str) -> tuple[int, int, int]:
    return next(color for layer, _, color in sketch.shapes if layer == wanted)


def _even(length: float) -> int:
    return -(-int(np.ceil(length)) // OVERSAMPLING) * OVERSAMPLING

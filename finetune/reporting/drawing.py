"""Pictures of lines, boxes, dots and text, written as SVG or drawn as PNG."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

from PIL import Image, ImageDraw

from finetune.fonts import draw_text
from finetune.formatting import visible

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

PAPER = {
    "surface": "#ffffff",
    "text": "#1d2329",
    "muted": "#5b6671",
    "line": "#e2e0db",
    "right": "#0a6ebd",
    "right-soft": "#dcebf8",
    "wrong": "#c2500a",
    "wrong-soft": "#fbe7d8",
    "series-0": "#0a6ebd",
    "series-1": "#d98200",
    "series-2": "#00845f",
    "series-3": "#b04a8b",
    "series-4": "#5f6b76",
    "series-5": "#7a5c00",
}
"""Colors of pictures outside of a page: those of the page's light theme."""

SERIES = 6
"""Number of ``series-`` colors."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Line through points; `dash` is drawn and left out in turn, in pixels."""

    points: Sequence[Point]
    color: str
    width: float = 1.0
    dash: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Box:
    """Filled rectangle; `note` is shown when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    color: str
    opacity: float = 1.0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """Filled circle; without a color it is invisible, and only shows its note."""

    x: float
    y: float
    radius: float
    color: str | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Line of text at its baseline; an upright one is turned by 90 degrees to the left."""

    x: float
    y: float
    text: str
    size: float = 12.0
    color: str = "muted"
    anchor: Anchor = "start"
    upright: bool = False


Shape = Line | Box | Dot | Text


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Shapes on a sheet of `width` x `height` pixels, the first at the bottom."""

    width: float
    height: float
    title: str
    shapes: Sequence[Shape]


def to_svg(drawing: Drawing, *, themed: bool = False) -> str:
    """Returns a drawing as SVG.

    Args:
        drawing: The drawing.
        themed: Whether colors are the CSS variables of a page, which then follow its theme.
    """
    size = f"{drawing.width:g} {drawing.height:g}"
    if themed:
        # The figure around it has the words for screen readers.
        opening = f'<svg viewBox="0 0 {size}" aria-hidden="true" focusable="false">'
        ground = ""
    else:
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" '
            f'width="{drawing.width:g}" height="{drawing.height:g}" role="img" '
            f'font-family="system-ui, sans-serif"><title>{_safe(drawing.title)}</title>'
        )
        ground = f'<rect width="100%" height="100%" fill="{PAPER["surface"]}"/>'
    return (
        opening + ground + "".join(_shape_svg(shape, themed) for shape in drawing.shapes) + "</svg>"
    )


def _safe(text: str) -> str:
    return escape(visible(re.sub(r"[\t\n\r ]+", " ", text)))


def _paint(color: str, themed: bool) -> str:
    return f"var(--{color})" if themed else PAPER[color]


def _shape_svg(shape: Shape, themed: bool) -> str:
    note = getattr(shape, "note", "")
    inner = f"<title>{_safe(note)}</title>" if note else ""
    match shape:
        case Line():
            dash = f' stroke-dasharray="{" ".join(f"{d:g}" for d in shape.dash)}"'
            return (
                f'<polyline points="{" ".join(f"{x:.5g},{y:.5g}" for x, y in shape.points)}" '
                f'fill="none" stroke="{_paint(shape.color, themed)}" stroke-width="{shape.width:g}"'
                f' stroke-linejoin="round"{dash if shape.dash else ""}/>'
            )
        case Box():
            see = f' fill-opacity="{shape.opacity:g}"' if shape.opacity < 1 else ""
            return (
                f'<rect x="{shape.x:.5g}" y="{shape.y:.5g}" width="{shape.width:.5g}" '
                f'height="{shape.height:.5g}" fill="{_paint(shape.color, themed)}"{see}>'
                f"{inner}</rect>"
            )
        case Dot():
            fill = _paint(shape.color, themed) if shape.color else "transparent"
            return (
                f'<circle cx="{shape.x:.5g}" cy="{shape.y:.5g}" r="{shape.radius:g}" '
                f'fill="{fill}">{inner}</circle>'
            )
        case Text():
            turn = f' transform="rotate(-90 {shape.x:.5g} {shape.y:.5g})"' if shape.upright else ""
            return (
                f'<text x="{shape.x:.5g}" y="{shape.y:.5g}" font-size="{shape.size:g}" '
                f'fill="{_paint(shape.color, themed)}" text-anchor="{shape.anchor}"{turn}>'
                f"{_safe(shape.text)}</text>"
            )


def to_image(drawing: Drawing, *, scale: int = 2) -> Image.Image:
    """Returns a drawing as an RGB image of `scale` times its size."""
    fine = 2 * scale  # drawn at twice the size, since Pillow's lines have jagged edges
    size = (round(drawing.width * fine), round(drawing.height * fine))
    image = Image.new("RGB", size, PAPER["surface"])
    pen = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        _draw(shape, image, pen, fine)
    return image.resize((size[0] // 2, size[1] // 2), Image.Resampling.LANCZOS)


def _draw(shape: Shape, image: Image.Image, pen: ImageDraw.ImageDraw, fine: int) -> None:
    match shape:
        case Line():
            width = max(1, round(shape.width * fine))
            for part in _dashes(shape.points, shape.dash):
                scaled = [(x * fine, y * fine) for x, y in part]
                pen.line(scaled, fill=PAPER[shape.color], width=width, joint="curve")
        case Box():
            corners = [
                (round(shape.x * fine), round(shape.y * fine)),
                (
                    round((shape.x + shape.width) * fine) - 1,
                    round((shape.y + shape.height) * fine) - 1,
                ),
            ]
            if corners[1][0] < corners[0][0] or corners[1][1] < corners[0][1]:
                return
            color = tuple(
                round(255 + (value - 255) * shape.opacity)
                for value in bytes.fromhex(PAPER[shape.color][1:])
            )
            pen.rectangle(corners, fill=color)
        case Dot():
            if shape.color:
                place = (shape.x * fine, shape.y * fine)
                pen.circle(place, shape.radius * fine, fill=PAPER[shape.color])
        case Text():
            _write(shape, image, pen, fine)


def _write(shape: Text, image: Image.Image, pen: ImageDraw.ImageDraw, fine: int) -> None:
    side = {"start": "l", "middle": "m", "end": "r"}[shape.anchor]
    color, size = PAPER[shape.color], shape.size * fine
    if not shape.upright:
        place = (shape.x * fine, shape.y * fine)
        draw_text(pen, place, visible(shape.text), size=size, fill=color, anchor=f"{side}s")
        return
    long = image.height
    strip = Image.new("L", (2 * long, round(2 * size)))
    draw_text(
        ImageDraw.Draw(strip),
        (long, 1.5 * size),
        visible(shape.text),
        size=size,
        fill="white",
        anchor=f"{side}s",
    )
    turned = strip.rotate(90, expand=True)
    place = (round(shape.x * fine - 1.5 * size), round(shape.y * fine - long))
    image.paste(color, place, turned)


def _dashes(points: Sequence[Point], dash: Sequence[float]) -> Iterator[list[Point]]:
    """Yields the drawn parts of a line."""
    if not dash:
        yield list(points)
        return
    part, drawn, left = [points[0]], True, dash[0]
    turn = 0
    for (x0, y0), (x1, y1) in pairwise(points):
        length, done = math.hypot(x1 - x0, y1 - y0), 0.0
        while length - done > left:
            done += left
            cut = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if drawn:
                yield [*part, cut]
            part, drawn, turn = [cut], not drawn, turn + 1
            left = dash[turn % len(dash)]
        left -= length - done
        part.append((x1, y1))
    if drawn and len(part) > 1:
        yield part

"""Backgrounds: six places in the light of different hours, mostly out of focus.

They are painted small and enlarged, which is both fast and what a long lens does to a background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from finetune.demo_data.shapes import Points, ellipse, tube
from finetune.demo_data.species import Color, Setting, blend, shade


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A finished background.

    Attributes:
        image: The RGB picture.
        surface: Height at which water or ground begins, 0 (top) to 1.
        water: Whether that is water.
        light: Brightness of the hour; 1 is full day.
    """

    image: Image.Image
    surface: float
    water: bool
    light: float


@dataclass(frozen=True, kw_only=True)
class Hour:
    """The light of a time of day: sky from high to low, water, brightness of what it falls on."""

    high: Color
    low: Color
    water: Color
    light: float


@dataclass(frozen=True, kw_only=True)
class Brush:
    """Draws in fractions of the picture, so that a scene looks alike at every size."""

    pen: ImageDraw.ImageDraw
    width: int
    height: int

    def fill(self, points: Points, color: Color) -> None:
        """Fills an outline given in fractions of width and height."""
        pixels: list[float] = (points * (self.width, self.height)).ravel().tolist()
        self.pen.polygon(pixels, fill=color)

    def spot(self, x: float, y: float, radius: float, color: Color) -> None:
        """Fills a round spot; `radius` is a fraction of the height."""
        across = radius * self.height / self.width
        self.fill(ellipse(x, y, across, radius), color)


Stops = Sequence[tuple[float, Color]]


def paint_scene(setting: Setting, size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Returns a background of `size` (width, height) in pixels, drawn from `rng`."""
    painter, share, blur = _PAINTERS[setting]
    width = max(24, round(size[0] * share))
    height = max(24, round(size[1] * share))
    surface = float(rng.uniform(0.3, 0.55)) if setting != "sky" else 1.0
    canvas = Image.new("RGB", (width, height))
    brush = Brush(pen=ImageDraw.Draw(canvas), width=width, height=height)
    hour = _HOURS[rng.integers(len(_HOURS))]
    painter(canvas, brush, hour, surface, rng)
    canvas = canvas.filter(ImageFilter.GaussianBlur(blur * float(rng.uniform(0.6, 1.4)) * height))
    return Scene(
        image=canvas.resize(size, Image.Resampling.BICUBIC),
        surface=surface,
        water=setting in ("lake", "reeds"),
        light=hour.light,
    )


def gradient(canvas: Image.Image, stops: Stops, *, top: float = 0.0, bottom: float = 1.0) -> None:
    """Fills the rows between two heights with colors that change smoothly downwards."""
    first, last = round(top * canvas.height), round(bottom * canvas.height)
    if last <= first:
        return
    at = np.linspace(0, 1, last - first)
    places = [place for place, _ in stops]
    channels = [np.interp(at, places, [color[k] for _, color in stops]) for k in range(3)]
    column = np.stack(channels, axis=1).astype(np.uint8)[:, None]  # (rows, 1, 3)
    strip = Image.fromarray(column).resize((canvas.width, last - first), Image.Resampling.NEAREST)
    canvas.paste(strip, (0, first))


def _varied(color: Color, rng: np.random.Generator, amount: float = 0.18) -> Color:
    return shade(color, float(rng.uniform(1 - amount, 1 + amount)))


def _sky(
    canvas: Image.Image, brush: Brush, hour: Hour, surface: float, rng: np.random.Generator
) -> None:
    gradient(canvas, [(0, hour.high), (1, hour.low)])
    for _ in range(rng.integers(0, 5)):
        x, y = rng.uniform(0, 1), rng.uniform(0.05, 0.75)
        white = blend(_varied((238, 240, 244), rng, 0.04), hour.low, 1.3 - 1.2 * hour.light)
        for _ in range(9):
            dx, dy = rng.normal(0, 0.09), rng.normal(0, 0.02)
            brush.fill(
                ellipse(x + dx, y + dy, rng.uniform(0.03, 0.1), rng.uniform(0.02, 0.05)), white
            )
    if rng.random() < 0.5:
        _treeline(brush, hour, float(rng.uniform(0.86, 1.0)), rng)


def _treeline(brush: Brush, hour: Hour, base: float, rng: np.random.Generator) -> None:
    green = shade(_varied((66, 92, 68), rng, 0.25), hour.light**1.5)
    for x in np.linspace(-0.05, 1.05, 40):
        radius = float(rng.uniform(0.03, 0.085))
        brush.spot(float(x), base, radius, _varied(green, rng, 0.14))
    brush.fill(np.array([(0, base), (1, base), (1, 1.2), (0, 1.2)]), shade(green, 0.9))


def _lake(
    canvas: Image.Image, brush: Brush, hour: Hour, surface: float, rng: np.random.Generator
) -> None:
    gradient(canvas, [(0, hour.high), (1, hour.low)], bottom=surface)
    _treeline(brush, hour, surface - 0.02, rng)
    near, far = hour.water, blend(hour.water, hour.low, 0.55)
    gradient(canvas, [(0, far), (0.25, near), (1, shade(near, 0.85))], top=surface)
    _ripples(brush, surface, near, rng)


def _ripples(brush: Brush, surface: float, water: Color, rng: np.random.Generator) -> None:
    for depth in np.sort(rng.uniform(0, 1, 130)):
        y = surface + (1 - surface) * depth**1.4
        length = (0.02 + 0.16 * depth) * float(rng.uniform(0.5, 1.6))
        tone = _varied(water, rng, 0.17)
        brush.fill(ellipse(rng.uniform(0, 1), float(y), length, 0.002 + 0.006 * depth), tone)


def _reeds(
    canvas: Image.Image, brush: Brush, hour: Hour, surface: float, rng: np.random.Generator
) -> None:
    near, far = hour.water, blend(hour.water, hour.low, 0.55)
    straw: Color = ((150, 146, 84), (118, 132, 70), (172, 150, 98))[rng.integers(3)]
    straw = shade(straw, hour.light)
    gradient(canvas, [(0, shade(straw, 1.25)), (1, shade(straw, 0.6))], bottom=surface + 0.12)
    gradient(canvas, [(0, shade(straw, 0.55)), (0.3, far), (1, near)], top=surface + 0.1)
    _ripples(brush, surface + 0.14, near, rng)
    for _ in range(130):
        x, base = rng.uniform(-0.05, 1.05), surface + rng.uniform(0, 0.14)
        tip = base - rng.uniform(0.3, 0.9)
        lean = rng.normal(0, 0.05)
        blade = tube(
            [(x, base), (x + 0.3 * lean, (base + tip) / 2), (x + lean, tip)], [0.012, 0.009, 0.001]
        )
        brush.fill(blade, _varied(straw, rng, 0.35))


def _woods(
    canvas: Image.Image, brush: Brush, hour: Hour, surface: float, rng: np.random.Generator
) -> None:
    leaf: Color = ((72, 112, 52), (96, 124, 60), (52, 88, 58), (140, 122, 62))[rng.integers(4)]
    leaf = shade(leaf, hour.light)
    gradient(canvas, [(0, shade(leaf, 1.2)), (1, shade(leaf, 0.55))])
    for _ in range(70):
        tone = _varied(leaf, rng, 0.45)
        brush.spot(rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.03, 0.13), tone)
    for _ in range(rng.integers(0, 4)):
        x, lean = rng.uniform(0, 1), rng.normal(0, 0.05)
        trunk = tube([(x, 1.05), (x + lean / 2, 0.5), (x + lean, -0.05)], [0.07, 0.05, 0.045])
        brush.fill(trunk, _varied((74, 62, 50), rng, 0.3))
    for _ in range(rng.integers(4, 18)):
        light = _varied((206, 218, 164), rng, 0.1)
        brush.spot(rng.uniform(0, 1), rng.uniform(0, 0.7), rng.uniform(0.01, 0.035), light)


def _meadow(
    canvas: Image.Image, brush: Brush, hour: Hour, surface: float, rng: np.random.Generator
) -> None:
    gradient(canvas, [(0, hour.high), (1, hour.low)], bottom=surface)
    _treeline(brush, hour, surface - 0.03, rng)
    grass: Color = ((122, 150, 62), (146, 156, 78), (98, 136, 66))[rng.integers(3)]
    grass = shade(grass, hour.light)
    gradient(canvas, [(0, shade(grass, 1.15)), (1, shade(grass, 0.7))], top=surface)
    for depth in np.sort(rng.uniform(0, 1, 170)):
        x, base = rng.uniform(0, 1), surface + 0.05 + (1 - surface) * depth
        rise, lean = 0.03 + 0.13 * depth, rng.normal(0, 0.02)
        blade = np.array([(x - 0.004, base), (x + lean, base - rise), (x + 0.004, base)])
        brush.fill(blade, _varied(grass, rng, 0.3))
    petals: Color = ((236, 210, 70), (238, 234, 236), (196, 96, 150), (214, 70, 58))[
        rng.integers(4)
    ]
    for depth in rng.uniform(0, 1, rng.integers(5, 40)):
        y = surface + 0.03 + (1 - surface) * float(depth)
        brush.spot(
            rng.uniform(0, 1),
            y,
            0.004 + 0.014 * float(depth),
            shade(_varied(petals, rng, 0.1), hour.light),
        )


def _winter(
    canvas: Image.Image, brush: Brush, hour: Hour, surface: float, rng: np.random.Generator
) -> None:
    haze = shade(_varied((178, 188, 200), rng, 0.1), 0.4 + 0.6 * hour.light)
    gradient(canvas, [(0, shade(haze, 0.86)), (surface, haze), (1, shade(haze, 1.22))])
    for _ in range(26):
        x, base, lean = rng.uniform(0, 1), surface + rng.uniform(-0.05, 0.3), rng.normal(0, 0.06)
        trunk = tube(
            [(x, base), (x + lean / 2, base - 0.4), (x + lean, -0.1)], [0.02, 0.014, 0.004]
        )
        brush.fill(trunk, _varied((124, 122, 124), rng, 0.25))
    for _ in range(60):
        brush.spot(rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.003, 0.01), (250, 250, 252))


_HOURS = (
    Hour(high=(84, 142, 206), low=(182, 212, 234), water=(70, 110, 140), light=1.0),
    Hour(high=(120, 160, 204), low=(226, 228, 222), water=(92, 116, 112), light=1.0),
    Hour(high=(172, 180, 190), low=(214, 216, 216), water=(104, 120, 130), light=0.9),
    Hour(high=(72, 74, 122), low=(238, 154, 92), water=(110, 88, 96), light=0.62),
    Hour(high=(104, 96, 140), low=(244, 190, 140), water=(122, 104, 104), light=0.74),
)
_Painter = Callable[[Image.Image, Brush, Hour, float, np.random.Generator], None]
_PAINTERS: dict[Setting, tuple[_Painter, float, float]] = {
    # Painter, share of the full size it is painted at, blur as a fraction of the height.
    "sky": (_sky, 0.25, 0.03),
    "lake": (_lake, 0.5, 0.004),
    "reeds": (_reeds, 0.4, 0.009),
    "woods": (_woods, 0.25, 0.022),
    "meadow": (_meadow, 0.5, 0.006),
    "winter": (_winter, 0.4, 0.012),
}

"""Backgrounds of six habitats at different hours, and perches, water and shadows below the bird.

Backgrounds are painted small and enlarged: fast, and as blurred as behind a long lens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from finetune.demo_data.birds import Points, closed, ellipse, tube
from finetune.demo_data.species import Color, Setting, blend, shade


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Background.

    Attributes:
        surface: Height at which water or ground begins, 0 (top) to 1 (bottom).
        water: Whether the surface is water.
        light: Brightness; 1 is full daylight.
    """

    image: Image.Image
    surface: float
    water: bool
    light: float


@dataclass(frozen=True, kw_only=True)
class Hour:
    """Light of a time of day: colors of high and low sky and of water, and brightness."""

    high: Color
    low: Color
    water: Color
    light: float


@dataclass(frozen=True, kw_only=True)
class Brush:
    """Drawing in fractions of the image, so that a scene looks the same at every size."""

    draw: ImageDraw.ImageDraw
    width: int
    height: int

    def fill(self, points: Points, color: Color) -> None:
        """Fills an outline given in fractions of width and height."""
        pixels: list[float] = (points * (self.width, self.height)).ravel().tolist()
        self.draw.polygon(pixels, fill=color)

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
    brush = Brush(draw=ImageDraw.Draw(canvas), width=width, height=height)
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
    """Fills the rows between two heights with a vertical gradient."""
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


Spot = tuple[float, float]
Outlines = list[tuple[Points, Color]]


def draw_perch(
    photo: Image.Image, foot: Spot, setting: Setting, bird_height: int, rng: np.random.Generator
) -> None:
    """Draws a branch, a reed or a post under `foot` (pixels), sharp as the bird itself."""
    thick = float(rng.uniform(0.09, 0.17)) * bird_height
    bark = shade(_BARKS[rng.integers(len(_BARKS))], float(rng.uniform(0.8, 1.2)))
    kind = float(rng.random())
    top = (foot[0], foot[1] + 0.42 * thick)
    if setting in ("lake", "reeds") and kind < 0.45:
        shapes = _post(photo, top, thick, bark)
    elif setting == "reeds" or (setting == "meadow" and kind < 0.4):
        shapes = _stem(photo, top, thick, bird_height, rng)
    else:
        shapes = _branch(photo, top, thick, bark, rng, leaves=setting != "winter")
    fill_smoothly(photo, shapes)


def draw_water_line(photo: Image.Image, bird: Image.Image, corner: tuple[int, int]) -> None:
    """Draws the reflection of a swimming bird (RGBA, pasted later at `corner`) in the water."""
    mirror = bird.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    squeezed = mirror.resize((mirror.width, max(1, round(0.7 * mirror.height))))
    soft = squeezed.filter(ImageFilter.GaussianBlur(0.02 * bird.height))
    fade = soft.getchannel("A").point([round(0.42 * value) for value in range(256)])
    line = corner[1] + bird.height
    photo.paste(soft, (corner[0], line), fade)
    light = shade(_color_at(photo, (corner[0], line)), 1.25)
    draw = ImageDraw.Draw(photo)
    for index, reach in enumerate((0.56, 0.46, 0.3)):
        y = line + round(0.1 * index * bird.height)
        middle = corner[0] + bird.width * (0.48 + 0.03 * index)
        ends = [(middle - reach * bird.width, y), (middle + reach * bird.width, y)]
        draw.line(ends, fill=light, width=max(1, round(0.016 * bird.height)))


def draw_wading(photo: Image.Image, foot: Spot, bird_width: int) -> None:
    """Draws the rings in the water around a wading bird's legs."""
    x, y = foot
    water = _color_at(photo, foot)
    for reach, tone in ((0.3, 1.18), (0.22, 0.86)):
        half = reach * bird_width
        curve = [(x - half, y), (x, y + 0.02 * bird_width), (x + half, y)]
        ring = tube(curve, [1, 0.02 * bird_width, 1])
        fill_smoothly(photo, [(ring, shade(water, tone))])


def draw_stone(photo: Image.Image, foot: Spot, bird_width: int, rng: np.random.Generator) -> None:
    """Draws a stone under a bird that stands in deep water."""
    gray = shade((128, 126, 120), float(rng.uniform(0.7, 1.15)))
    knots = [(-1.0, 0.5), (-0.6, 0.0), (0.5, 0.0), (1.0, 0.55), (0.9, 1.0), (-0.9, 1.0)]
    stone = closed(knots) * (0.42 * bird_width, 0.2 * bird_width)
    fill_smoothly(photo, [(stone + foot, gray), (stone * (0.8, 0.4) + foot, shade(gray, 1.2))])


def draw_shadow(photo: Image.Image, foot: Spot, bird_width: int) -> None:
    """Darkens the grass under a standing bird."""
    x, y = foot
    half = 0.3 * bird_width
    line = tube([(x - half, y), (x, y), (x + half, y)], [1, 0.05 * bird_width, 1])
    fill_smoothly(photo, [(line, shade(_color_at(photo, foot), 0.72))])


def fill_smoothly(photo: Image.Image, shapes: Outlines) -> None:
    """Fills outlines in pixel coordinates with smooth edges.

    Only the band that they touch is drawn at twice the size: the whole frame would double the
    time of a photo.
    """
    points = np.vstack([outline for outline, _ in shapes])
    low = np.floor(points.min(axis=0)) - 2
    high = np.ceil(points.max(axis=0)) + 2
    left, top = max(0, int(low[0])), max(0, int(low[1]))
    right, bottom = min(photo.width, int(high[0])), min(photo.height, int(high[1]))
    if right <= left or bottom <= top:
        return
    band = photo.crop((left, top, right, bottom)).resize(
        (2 * (right - left), 2 * (bottom - top)), Image.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(band)
    for outline, color in shapes:
        draw.polygon(((outline - (left, top)) * 2).ravel().tolist(), fill=color)
    photo.paste(band.reduce(2), (left, top))


def _post(photo: Image.Image, top: Spot, thick: float, wood: Color) -> Outlines:
    x, y = top
    post = tube([(x, y), (x + 4, photo.height + 20)], [2.6 * thick, 2.8 * thick])
    end = tube([(x, y), (x + 1, y + 0.4 * thick)], [3 * thick, 3 * thick])
    return [(post, wood), (end, shade(wood, 1.3))]


def _stem(
    photo: Image.Image, top: Spot, thick: float, bird_height: int, rng: np.random.Generator
) -> Outlines:
    x, y = top
    green = shade((132, 138, 72), float(rng.uniform(0.8, 1.15)))
    lean = float(rng.normal(0, 0.12)) * photo.height
    tip = y - bird_height * float(rng.uniform(0.9, 1.6))
    line = [(x + lean, photo.height + 20), (x + 0.1 * lean, y), (x - 0.5 * lean, tip)]
    return [(tube(line, [0.5 * thick, 0.45 * thick, 0.15 * thick]), green)]


def _branch(
    photo: Image.Image,
    top: Spot,
    thick: float,
    bark: Color,
    rng: np.random.Generator,
    *,
    leaves: bool,
) -> Outlines:
    x, y = top
    slope = float(rng.normal(0, 0.16))
    bend = float(rng.normal(0, 0.05)) * photo.height
    far = photo.width + 20
    line = np.array([(-20, y + slope * (x + 20) + bend), (x, y), (far, y - slope * (far - x))])
    if rng.random() < 0.5:
        line = line[::-1]
    widths = np.array([1.3, 1.0, 0.35]) * thick
    lit = line - np.stack([np.zeros(3), 0.16 * widths], axis=1)
    shapes = [(tube(line, widths), shade(bark, 0.8)), (tube(lit, 0.55 * widths), bark)]
    for _ in range(rng.integers(1, 5)):
        shapes += _twig(photo, line, thick, bark, rng, leaves=leaves, keep_clear_of=x)
    return shapes


def _twig(
    photo: Image.Image,
    line: Points,
    thick: float,
    bark: Color,
    rng: np.random.Generator,
    *,
    leaves: bool,
    keep_clear_of: float,
) -> Outlines:
    share = float(rng.uniform(0, 2))
    part, side = share % 1, int(share)
    root = line[side] * (1 - part) + line[side + 1] * part
    rise = np.array([rng.normal(0, 0.06) * photo.width, -rng.uniform(0.08, 0.25) * photo.height])
    green = shade((104, 138, 62), float(rng.uniform(0.7, 1.25)))
    if abs(root[0] - keep_clear_of) < 7 * thick:
        return []
    twig = tube([root, root + rise / 2 + 3, root + rise], np.array([0.4, 0.3, 0.1]) * thick)
    shapes: Outlines = [(twig, bark)]
    if leaves:
        for height in (0.5, 0.75, 1.0):
            start = root + rise * height
            end = start + np.array([rng.normal(0, 1.1), -0.9]) * thick
            leaf = tube([start, (start + end) / 2, end], np.array([0.06, 0.7, 0.05]) * thick)
            shapes.append((leaf, green))
    return shapes


def _color_at(photo: Image.Image, spot: Spot) -> Color:
    x = min(photo.width - 1, max(0, round(spot[0])))
    y = min(photo.height - 1, max(0, round(spot[1])))
    red, green, blue = photo.crop((x, y, x + 1, y + 1)).tobytes()
    return red, green, blue


_BARKS: tuple[Color, ...] = ((96, 76, 58), (122, 108, 92), (84, 84, 74))

"""What bears the bird: a branch, a reed, a post, a stone, or the water with its reflection."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from finetune.demo_data.shapes import Points, closed, tube
from finetune.demo_data.species import Color, Setting, shade

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
    """Mirrors a swimming bird (RGBA, to be pasted at `corner`) in the water below it."""
    mirror = bird.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    squeezed = mirror.resize((mirror.width, max(1, round(0.7 * mirror.height))))
    soft = squeezed.filter(ImageFilter.GaussianBlur(0.02 * bird.height))
    fade = soft.getchannel("A").point([round(0.42 * value) for value in range(256)])
    line = corner[1] + bird.height
    photo.paste(soft, (corner[0], line), fade)
    light = shade(_color_at(photo, (corner[0], line)), 1.25)
    pen = ImageDraw.Draw(photo)
    for index, reach in enumerate((0.56, 0.46, 0.3)):
        y = line + round(0.1 * index * bird.height)
        middle = corner[0] + bird.width * (0.48 + 0.03 * index)
        ends = [(middle - reach * bird.width, y), (middle + reach * bird.width, y)]
        pen.line(ends, fill=light, width=max(1, round(0.016 * bird.height)))


def draw_wading(photo: Image.Image, foot: Spot, bird_width: int) -> None:
    """Draws the rings in the water about a wading bird's legs."""
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

    Only the band that they touch is drawn at twice the size, since the whole frame would cost as
    much as everything else together.
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
    pen = ImageDraw.Draw(band)
    for outline, color in shapes:
        pen.polygon(((outline - (left, top)) * 2).ravel().tolist(), fill=color)
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

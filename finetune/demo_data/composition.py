"""Composition of one photo: a bird painted smooth-edged and lit, placed in a scene, developed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from finetune.demo_data.birds import Points, Sketch, draw_posture, sketch_bird
from finetune.demo_data.camera import develop
from finetune.demo_data.scenery import (
    Scene,
    draw_perch,
    draw_shadow,
    draw_stone,
    draw_wading,
    draw_water_line,
    paint_scene,
)
from finetune.demo_data.species import Pose, Species

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the upright photo."""


OVERSAMPLING = 2
"""Birds are drawn this many times larger, then reduced, which smooths their edges."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Painted bird: RGBA image and the pixel in it at which the bird touches its support."""

    image: Image.Image
    foot: tuple[float, float]


def extent(sketch: Sketch) -> tuple[float, float, float, float]:
    """Returns left, top, right, bottom of the unclipped outlines, in body lengths."""
    solid = np.vstack(
        [points for layer, points, _ in sketch.shapes if layer not in ("marks", "streaks")]
    )
    left, top = solid.min(axis=0)
    right, bottom = solid.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def paint(sketch: Sketch, *, pixels_per_body: float, mirrored: bool, light: float = 1.0) -> Tile:
    """Paints a sketch on the smallest tile that holds it.

    Args:
        sketch: Outlines of a bird.
        pixels_per_body: Length of the body in pixels of the tile.
        mirrored: Whether the bird faces left.
        light: Brightness; 1 is full daylight.
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
    draw = ImageDraw.Draw(canvas)
    mask = Image.new("L", (width, height))
    mask_draw = ImageDraw.Draw(mask)
    coat = Image.new("RGB", (width, height), _first(sketch, "body"))
    coat_draw = ImageDraw.Draw(coat)
    for layer, points, color in sketch.shapes:
        if layer == "behind":
            draw.polygon(place(points), fill=color)
        elif layer == "body":
            mask_draw.polygon(place(points), fill=255)
            coat_draw.polygon(place(points), fill=color)
        elif layer == "marks":
            coat_draw.polygon(place(points), fill=color)
    # Blurred and cut again at half, the outline loses the corners between head, neck and body.
    soft = mask.filter(ImageFilter.BoxBlur(0.02 * scale))
    mask = soft.point([min(255, max(0, (value - 128) * 6 + 128)) for value in range(256)])
    coat = coat.filter(ImageFilter.BoxBlur(0.012 * scale))
    coat_draw = ImageDraw.Draw(coat)
    for layer, points, color in sketch.shapes:
        if layer == "streaks":
            coat_draw.polygon(place(points), fill=color)
    canvas.paste(coat, mask=mask)
    draw = ImageDraw.Draw(canvas)
    for layer, points, color in sketch.shapes:
        if layer == "over":
            draw.polygon(place(points), fill=color)
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
    """Returns the tile shaded on the underside, as by daylight from above."""
    alpha = image.getchannel("A")
    step = max(1, round(0.03 * pixels_per_body))
    small = alpha.reduce(step) if step > 1 else alpha
    drop = max(1, round(0.14 * pixels_per_body / step))
    bulk = small.filter(ImageFilter.BoxBlur(0.11 * pixels_per_body / step))
    below = ImageChops.offset(bulk, 0, -drop)
    below.paste(0, (0, below.height - drop, below.width, below.height))
    # A pixel with much of the bird below it is lit; one with little below it is shaded.
    fall = [0.66 + 0.34 * min(1.0, value / 190) for value in range(256)]
    light = below.point([round(255 * daylight * share) for share in fall])
    light = light.resize(image.size, Image.Resampling.BILINEAR)
    colored = ImageChops.multiply(image.convert("RGB"), Image.merge("RGB", (light,) * 3))
    colored.putalpha(alpha)
    return colored


def _first(sketch: Sketch, name: str) -> tuple[int, int, int]:
    return next(color for layer, _, color in sketch.shapes if layer == name)


def _even(length: float) -> int:
    return -(-int(np.ceil(length)) // OVERSAMPLING) * OVERSAMPLING


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Position and height of the bird as fractions of the frame."""

    x: float
    y: float
    height: float
    mirrored: bool


def compose(
    species: Species,
    size: tuple[int, int],
    *,
    encounter: np.random.Generator,
    shot: np.random.Generator,
) -> tuple[Image.Image, Box]:
    """Draws one photo.

    Args:
        species: The bird's species.
        size: Width and height in pixels.
        encounter: Determines scene, posture, framing and light; shots of a burst share its state.
        shot: Determines what differs between two shots of a burst: a small shift and noise.

    Returns:
        The RGB photo and the box around the visible bird.
    """
    pose = _choose(species, encounter)
    setting = species.settings[encounter.integers(len(species.settings))]
    posture = draw_posture(species, pose, encounter)
    framing = _frame(encounter)
    scene = paint_scene(setting, size, encounter)
    sketch = sketch_bird(species, posture, encounter)
    tile = _scaled(sketch, framing, size, light=0.45 + 0.55 * scene.light)
    if pose == "swimming":
        tile = _afloat(tile)
    left, top = _position(tile, framing, scene, size, pose, encounter)
    left += round(float(shot.normal(0, 0.006)) * size[0])
    top += round(float(shot.normal(0, 0.004)) * size[1])
    left = min(max(left, 0), size[0] - tile.image.width)
    top = min(max(top, 0), size[1] - tile.image.height)

    photo = scene.image
    foot = (left + tile.foot[0], top + tile.foot[1])
    if pose == "swimming":
        draw_water_line(photo, tile.image, (left, top))
    elif pose == "perched":
        draw_perch(photo, foot, setting, tile.image.height, encounter)
    elif pose == "standing" and not scene.water:
        draw_shadow(photo, foot, tile.image.width)
    elif pose == "standing" and species.build.legs > 0.5:
        draw_wading(photo, foot, tile.image.width)
    elif pose == "standing":
        draw_stone(photo, foot, tile.image.width, encounter)
    image = tile.image
    if encounter.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(0.012 * image.height))
    photo.paste(image, (left, top), image)
    seen = image.getchannel("A").point([0] * 100 + [255] * 156).getbbox() or (0, 0, *image.size)
    box = (
        float(left + seen[0]),
        float(top + seen[1]),
        float(left + seen[2]),
        float(top + seen[3]),
    )
    return develop(photo, encounter=encounter, shot=shot), box


def _choose(species: Species, rng: np.random.Generator) -> Pose:
    poses = list(species.poses)
    shares = np.array([species.poses[pose] for pose in poses])
    return poses[rng.choice(len(poses), p=shares / shares.sum())]


def _frame(rng: np.random.Generator) -> Framing:
    # The square root favors near birds, as in a real collection.
    height = 0.1 + 0.4 * float(np.sqrt(rng.uniform(0.02, 1)))
    x = float(
        rng.choice([rng.uniform(0.08, 0.35), rng.uniform(0.35, 0.65), rng.uniform(0.65, 0.92)])
    )
    return Framing(
        x=x,
        y=float(rng.uniform(0.12, 0.8)),
        height=height,
        mirrored=bool(rng.random() < 0.5),
    )


def _scaled(sketch: Sketch, framing: Framing, size: tuple[int, int], *, light: float) -> Tile:
    left, top, right, bottom = extent(sketch)
    scale = min(framing.height * size[1] / (bottom - top), 0.62 * size[0] / (right - left))
    return paint(sketch, pixels_per_body=scale, mirrored=framing.mirrored, light=light)


def _afloat(tile: Tile) -> Tile:
    """Returns the part of a bird above the water line."""
    line = min(tile.image.height, max(1, round(tile.foot[1])))
    return Tile(image=tile.image.crop((0, 0, tile.image.width, line)), foot=(tile.foot[0], line))


def _position(
    tile: Tile,
    framing: Framing,
    scene: Scene,
    size: tuple[int, int],
    pose: Pose,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Returns the tile's left and top: on water or ground where the pose requires it."""
    width, height = size
    left = round(framing.x * width - tile.image.width / 2)
    if pose in ("swimming", "standing"):
        lowest = 0.95 if pose == "swimming" else 0.97
        base = float(rng.uniform(min(scene.surface + 0.16, 0.9), lowest)) * height
        top = round(base - tile.foot[1])
    else:
        top = round(framing.y * height - tile.image.height / 2)
    margin = round(0.01 * width)
    left = min(max(left, margin), max(margin, width - tile.image.width - margin))
    top = min(max(top, margin), max(margin, height - tile.image.height - margin))
    return left, top

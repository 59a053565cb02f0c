"""One photo as the camera saw it: a bird of a species, somewhere in a scene, through a lens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from finetune.demo_data.birds import Sketch, draw_posture, sketch_bird
from finetune.demo_data.camera import develop
from finetune.demo_data.painting import Tile, extent, paint
from finetune.demo_data.perches import (
    draw_perch,
    draw_shadow,
    draw_stone,
    draw_wading,
    draw_water_line,
)
from finetune.demo_data.scenery import Scene, paint_scene
from finetune.demo_data.species import Pose, Species

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the upright photo."""


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Where the bird is in the frame, as fractions of it."""

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
        species: Which bird.
        size: Width and height in pixels.
        encounter: Decides scene, posture, framing and light. The same state gives the same
            encounter, as in a burst.
        shot: Decides what differs between two shots of a burst: a small move, noise.

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
    left, top = _settle(tile, framing, scene, size, pose, encounter)
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
    # The square root makes near birds the commoner ones, as in a real collection.
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


def _settle(
    tile: Tile,
    framing: Framing,
    scene: Scene,
    size: tuple[int, int],
    pose: Pose,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Returns the tile's left and top: on the water or ground where the pose asks for it."""
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

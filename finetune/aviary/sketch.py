"""A bird on paper: how it holds itself, and the outlines of its parts, sorted by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from finetune.aviary.colours import Colour
from finetune.aviary.curves import Points
from finetune.aviary.species import Pose

Layer = Literal["behind", "body", "marks", "streaks", "over"]
"""What lies behind the body, the body, soft and sharp marks cut off at its edge, what lies over."""


@dataclass(frozen=True, kw_only=True)
class Posture:
    """How one bird holds itself: angles in radians, anticlockwise for a bird that faces right."""

    pose: Pose
    tilt: float
    """How far the body's front is raised."""
    nod: float
    """How far the bill is raised."""
    stretch: float
    """How far the neck is stretched, 0 to 1."""
    stroke: float
    """Angle of the wings when flying: up (> 0) or down (< 0)."""


@dataclass
class Sketch:
    """The outlines of one bird, by layer, and where it touches what bears it."""

    shapes: list[tuple[Layer, Points, Colour]] = field(default_factory=list)
    foot: tuple[float, float] = (0.0, 0.0)

    def add(self, layer: Layer, points: Points, colour: Colour) -> None:
        """Adds one filled outline; later ones lie over earlier ones of the same layer."""
        self.shapes.append((layer, points, colour))


def sliver(ends: list[tuple[float, float]], width: float) -> Points:
    """Returns the outline of one small feather between two ends."""
    (x0, y0), (x1, y1) = ends
    return np.array(
        [(x0, y0), ((x0 + x1) / 2, y0 - width / 2), (x1, y1), ((x0 + x1) / 2, y0 + width)]
    )

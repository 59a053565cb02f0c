"""Smooth curves as point lists: what every drawn shape is made of.

Points are `(N, 2)` float arrays of x (to the right) and y (downwards).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a part sits: turned by `angle` (radians, anticlockwise on screen), then moved."""

    x: float = 0.0
    y: float = 0.0
    angle: float = 0.0

    def at(self, points: ArrayLike) -> Points:
        """Returns `(N, 2)` points of this part in the coordinates of the whole."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        turned: Points = np.atleast_2d(np.asarray(points, np.float64)) @ turn
        placed: Points = turned + np.array([self.x, self.y])
        return placed


@cache
def _spline(samples: int) -> Points:
    """Weights of four neighboring points at `samples` places between the inner two.

    The uniform Catmull-Rom basis (Catmull and Rom, "A class of local interpolating splines", 1974).
    """
    t = np.linspace(0, 1, samples, endpoint=False)[:, None]
    return np.hstack(
        [
            -0.5 * t + t**2 - 0.5 * t**3,
            1 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        ]
    )


def closed(points: ArrayLike, *, samples: int = 6) -> Points:
    """Returns a closed outline of `samples * N` points that runs smoothly through `(N, 2)`."""
    knots = np.asarray(points, np.float64)
    four = np.stack([np.roll(knots, shift, axis=0) for shift in (1, 0, -1, -2)])  # (4, N, 2)
    outline: Points = np.einsum("sk,knd->nsd", _spline(samples), four).reshape(-1, 2)
    return outline


def opened(points: ArrayLike, *, samples: int = 6) -> Points:
    """Returns an open curve through `(N, 2)` points: `samples * (N - 1) + 1` of them."""
    knots = np.asarray(points, np.float64)
    padded = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    count = len(knots) - 1
    four = np.stack([padded[k : k + count] for k in range(4)])
    curve = np.einsum("sk,knd->nsd", _spline(samples), four).reshape(-1, 2)
    return np.vstack([curve, knots[-1:]])


def tube(points: ArrayLike, widths: ArrayLike, *, samples: int = 6) -> Points:
    """Returns the outline of a stroke along a smooth curve, its full width given at each point."""
    line = opened(points, samples=samples)
    knots = np.asarray(widths, np.float64)
    width = np.interp(np.linspace(0, 1, len(line)), np.linspace(0, 1, len(knots)), knots)
    along = np.gradient(line, axis=0)
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    side = np.stack([-along[:, 1], along[:, 0]], axis=1) * (width / 2 / length)[:, None]
    return np.vstack([line + side, (line - side)[::-1]])


@cache
def _circle(corners: int) -> Points:
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def ellipse(x: float, y: float, half_width: float, half_height: float) -> Points:
    """Returns the outline of an upright ellipse about (x, y)."""
    outline: Points = _circle(28) * np.array([half_width, half_height]) + np.array([x, y])
    return outline

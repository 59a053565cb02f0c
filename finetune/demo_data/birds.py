"""Birds as filled outlines, sorted by layer, and the smooth curves they consist of.

Points are `(N, 2)` float arrays of x (to the right) and y (downwards), in body lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.demo_data.species import Color, Pose, Species, shade

Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Rotation by `angle` (radians, counterclockwise on screen), then a shift by (x, y)."""

    x: float = 0.0
    y: float = 0.0
    angle: float = 0.0

    def at(self, points: ArrayLike) -> Points:
        """Returns `(N, 2)` points of a part in the coordinates of the bird."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        turned: Points = np.atleast_2d(np.asarray(points, np.float64)) @ turn
        placed: Points = turned + np.array([self.x, self.y])
        return placed


@cache
def _spline(samples: int) -> Points:
    """Returns the weights of four neighboring points at `samples` places between the inner two.

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


Layer = Literal["behind", "body", "marks", "streaks", "over"]
"""From back to front; marks (blurred) and streaks (sharp) are clipped to the body."""


@dataclass(frozen=True, kw_only=True)
class Posture:
    """Posture of one bird; angles in radians, counterclockwise for a bird that faces right."""

    pose: Pose
    tilt: float
    """Angle by which the front of the body is raised."""
    nod: float
    """Angle by which the bill is raised."""
    stretch: float
    """Extension of the neck, 0 to 1."""
    stroke: float
    """Angle of the wings when flying: up (> 0) or down (< 0)."""


@dataclass
class Sketch:
    """Outlines of one bird by layer, and the point at which it touches its support."""

    shapes: list[tuple[Layer, Points, Color]] = field(default_factory=list)
    foot: tuple[float, float] = (0.0, 0.0)

    def add(self, layer: Layer, points: Points, color: Color) -> None:
        """Adds one filled outline; later ones lie over earlier ones of the same layer."""
        self.shapes.append((layer, points, color))


def sliver(ends: list[tuple[float, float]], width: float) -> Points:
    """Returns the outline of one small feather between two ends."""
    (x0, y0), (x1, y1) = ends
    return np.array(
        [(x0, y0), ((x0 + x1) / 2, y0 - width / 2), (x1, y1), ((x0 + x1) / 2, y0 + width)]
    )


def add_tail(sketch: Sketch, species: Species, body: Placement, posture: Posture) -> None:
    """Adds the tail: middle feathers, and two outer ones that may be longer."""
    build, color = species.build, species.plumage.tail
    angle = 0.12 if posture.pose == "swimming" else -0.06
    root = body.at((-0.5, -0.12 * build.depth))[0]
    place = Placement(x=float(root[0]), y=float(root[1]), angle=body.angle - angle)
    half = 0.5 * build.depth
    spread = 1.7 if posture.pose == "flying" else 1.0
    for side, tone in ((-1, 0.82), (1, 1.0)):
        outer = build.tail + build.fork
        y = side * half * spread * 0.42
        middle = (-build.tail * 0.5, y * 0.85)
        edge = (-outer, y * (1 + 1.2 * build.fork))
        feather = tube(
            [(0.1, 0), middle, edge], [half, 0.8 * half, 0.36 * half * (1 - 1.3 * build.fork)]
        )
        sketch.add("behind", place.at(feather), shade(color, tone))
    center = tube([(0.1, 0), (-build.tail * 0.95, 0)], [half * 1.1, half * 0.95 * spread])
    sketch.add("behind", place.at(center), shade(color, 0.92))


def add_folded_wing(sketch: Sketch, species: Species, body: Placement) -> None:
    """Adds the wing of a bird at rest, with its bars or its colored patch."""
    build, colors, d = species.build, species.plumage, species.build.depth
    long = 0.16 if build.fork > 0.3 else 0.0
    tip = (-0.72 - long, 0.02)
    for index in range(5):
        low = 0.3 * d - index * 0.09 * d
        quill = tube(
            [(0.0, low), (-0.35, low * 0.8), (tip[0] + 0.07 * index, tip[1])],
            [0.36 * d, 0.34 * d, 0.02],
        )
        tone = shade(colors.flight, 1.0 + 0.14 * (index % 2))
        sketch.add("over", body.at(quill), tone)
    outline = [(0.3, -0.36), (0.3, 0.1), (0.12, 0.42), (-0.24, 0.26), (-0.5, -0.1), (-0.22, -0.5)]
    sketch.add("over", body.at(closed(np.array([*outline, (0.08, -0.62)]) * (1, d))), colors.wing)
    for index in range(3):
        y = (-0.32 + 0.22 * index) * d
        edge = tube([(0.1, y), (-0.12, y + 0.04 * d), (-0.34, y + 0.02)], [0.012, 0.018, 0.006])
        sketch.add("over", body.at(edge), shade(colors.wing, 1.22))
    for index, color in enumerate(colors.bars):
        x = 0.13 - 0.15 * index if not build.flat_bill else -0.26
        top, bottom = (-0.5, 0.36) if not build.flat_bill else (-0.22, 0.22)
        bar = [(x + 0.03, top * d), (x - 0.02, (top + bottom) / 2 * d), (x + 0.01, bottom * d)]
        width = 0.055 if not build.flat_bill else 0.2
        sketch.add("over", body.at(tube(bar, [0.6 * width, width, 0.6 * width])), color)


def _towards(angle: float, length: float) -> Points:
    return np.array([np.cos(angle), -np.sin(angle)]) * length


def add_spread_wing(
    sketch: Sketch, species: Species, root: Points, stroke: float, *, far: bool
) -> None:
    """Adds one spread wing from its `root`, raised by `stroke` radians; the far one is darker."""
    build, colors = species.build, species.plumage
    layer: Layer = "behind" if far else "over"
    tone = 0.8 if far else 1.0
    start = root.reshape(2)
    sign = float(np.copysign(1.0, stroke))
    hand_angle = stroke + 0.35 * sign
    wrist = start + _towards(stroke - 0.3 * sign, 0.4 * build.span)
    hand = wrist + _towards(hand_angle, 0.26 * build.span)
    bone = np.array([start, wrist, hand])
    count = 12
    for index in reversed(range(count)):
        s = index / (count - 1)
        base = np.array([np.interp(s, [0, 0.5, 1], bone[:, axis]) for axis in (0, 1)])
        angle = sign * np.pi * (1 - s) * 0.95 + hand_angle * s
        length = build.chord * (1 - s) + 0.46 * build.span * s**1.3
        width = build.span / count * (1.25 if build.chord > 0.3 else 0.95)
        points = [base, base + _towards(angle, 0.6 * length), base + _towards(angle - 0.1, length)]
        feather = tube(points, [width, 1.1 * width, 0.25 * width], samples=4)
        mark = colors.flight if build.flat_bill or s > 0.45 else shade(colors.wing, 0.9)
        if build.flat_bill and s < 0.5 and colors.bars:
            mark = colors.bars[0]
        sketch.add(layer, feather, shade(mark, tone * (1.0 + 0.12 * (index % 2))))
    covert = build.chord * 0.5
    inner = bone + _towards(np.pi * 0.9 * sign, 0.16 * build.chord)
    sketch.add(layer, tube(inner, [covert, covert, 0.3 * covert]), shade(colors.wing, tone))
    if colors.bars and not build.flat_bill:
        for index, color in enumerate(colors.bars):
            reach = (0.42 + 0.16 * index) * build.chord
            line = bone[:2] + _towards(np.pi * 0.85 * sign, reach)
            sketch.add(layer, tube(line, [0.04, 0.05]), shade(color, tone))


def add_head(sketch: Sketch, species: Species, head: Placement) -> None:
    """Adds the head's marks, crest, bill and eye; `head` is its center and rotation."""
    build, colors, r = species.build, species.plumage, species.build.head

    def add(layer: Layer, points: ArrayLike, color: Color) -> None:
        sketch.add(layer, head.at(np.asarray(points) * r), color)

    songbird = build.neck == 0
    if songbird:
        # The head's color runs a little down the neck, so that no seam shows.
        add("marks", ellipse(0.05, 0.1, 1.12, 1.08), colors.head)
    else:
        add("marks", ellipse(0, 0, 1.1, 1.04), colors.head)
    if colors.throat is not None:
        add("marks", ellipse(0.62, 0.78, 0.62, 0.5), colors.throat)
    if colors.cheek is not None:
        add("marks", ellipse(-0.1, 0.3, 0.52, 0.3), colors.cheek)
        add("marks", ellipse(-0.85, 0.4, 0.3, 0.24), colors.throat or colors.cheek)
    if colors.cap is not None and build.neck <= 0.5:
        cap = [
            (1.15, -0.42),
            (0.2, -0.4),
            (-0.7, -0.1),
            (-1.3, 0.2),
            (-1.2, -1),
            (0, -1.4),
            (1, -1),
        ]
        add("marks", closed(cap), colors.cap)
    if colors.stripe is not None:
        ends = [(0.9, -0.02), (0.3, -0.12), (-0.5, 0), (-1.05, 0.28)]
        add("marks", tube(ends, [0.14, 0.3, 0.34, 0.42]), colors.stripe)
    _crest(sketch, species, head)
    _bill(sketch, species, head)
    eye = (0.36, -0.14)
    ring = colors.bill if build.neck > 0.5 else shade(colors.head, 0.55)
    size = 0.2 if build.neck == 0 else 0.17
    add("over", ellipse(*eye, size * 1.25, size * 1.25), ring)
    add("over", ellipse(*eye, size, size), (18, 14, 14))
    add("over", ellipse(eye[0] + 0.06, eye[1] - 0.07, 0.06, 0.06), (245, 245, 245))


def _crest(sketch: Sketch, species: Species, head: Placement) -> None:
    build, r = species.build, species.build.head
    color = species.plumage.cap
    if not build.crest or color is None:
        return
    c = build.crest
    if build.neck > 0.5:
        band = tube(
            [(0.5 * r, -0.55 * r), (-0.4 * r, -0.8 * r), (-1.1 * r, -0.3 * r)], [0.03, 0.06, 0.05]
        )
        plume = tube(
            [(-0.8 * r, -0.5 * r), (-0.9 * r - c / 2, 0), (-r - c, 0.1)], [0.05, 0.035, 0.008]
        )
        sketch.add("over", head.at(band), color)
        sketch.add("over", head.at(plume), color)
        return
    tips = [(0.7 * r, -0.7 * r), (0.1 * r, -1.3 * r), (-0.75 * r - 0.3 * c, -r - 0.75 * c)]
    peak = [*tips, (-0.6 * r, -0.95 * r), (-0.95 * r, -0.3 * r), (0, -0.55 * r)]
    sketch.add("over", head.at(closed(peak)), color)
    for share in (0.25, 0.5, 0.75):
        x, y = -0.75 * r - 0.3 * c, -r - 0.75 * c
        fleck = sliver(
            [(x * share, -0.8 * r + (y + 0.8 * r) * share), (x * share - 0.05, y * share)], 0.012
        )
        sketch.add("over", head.at(fleck), (228, 226, 220))


def _bill(sketch: Sketch, species: Species, head: Placement) -> None:
    build, r = species.build, species.build.head
    length, height = build.bill
    x, color = 0.86 * r, species.plumage.bill
    if build.flat_bill:
        upper = [(x, -0.3 * r), (x + 0.35 * length, 0.005), (x + 0.97 * length, 0.012)]
        lower = [(x + length, 0.045), (x + 0.6 * length, 0.068), (x, 0.5 * r)]
        sketch.add("over", head.at(closed([*upper, *lower])), color)
        nail = ellipse(x + 0.98 * length, 0.028, 0.018, 0.015)
        sketch.add("over", head.at(nail), shade(color, 0.4))
        return
    tip, y = (x + length, 0.04), 0.1 * r
    ridge = (x + 0.5 * length, y - 0.34 * height)
    keel = (x + 0.45 * length, y + 0.38 * height)
    upper_half = np.array([(x, y - height / 2), ridge, tip, (x, y + 0.06 * height)])
    lower_half = np.array([(x, y + 0.06 * height), tip, keel, (x, y + height / 2)])
    sketch.add("over", head.at(lower_half), shade(color, 0.78))
    sketch.add("over", head.at(upper_half), color)


def draw_posture(species: Species, pose: Pose, rng: np.random.Generator) -> Posture:
    """Draws a random posture for a bird of this species in `pose`."""
    tilts = {"perched": (0.3, 0.95), "standing": (0.1, 0.5), "flying": (-0.2, 0.35)}
    low, high = tilts.get(pose, (-0.02, 0.08))
    upward = rng.random() < 0.65
    return Posture(
        pose=pose,
        tilt=float(rng.uniform(low, high)),
        nod=float(rng.normal(0, 0.13)),
        stretch=float(rng.uniform(0.35, 1)),
        stroke=float(rng.uniform(0.9, 2.0) if upward else rng.uniform(-1.6, -0.7)),
    )


def sketch_bird(species: Species, posture: Posture, rng: np.random.Generator) -> Sketch:
    """Returns the outlines of a bird of this species that faces right."""
    sketch = Sketch()
    body = Placement(angle=posture.tilt)
    head = _head_placement(species, posture, body)
    flying = posture.pose == "flying"
    if flying:
        add_spread_wing(sketch, species, body.at((0.16, -0.1)), posture.stroke + 0.22, far=True)
    add_tail(sketch, species, body, posture)
    _legs(sketch, species, body, posture)
    _body(sketch, species, body, head, posture)
    _plumage(sketch, species, body, rng)
    add_head(sketch, species, head)
    if flying:
        add_spread_wing(sketch, species, body.at((0.12, -0.06)), posture.stroke, far=False)
    else:
        add_folded_wing(sketch, species, body)
    return sketch


def _head_placement(species: Species, posture: Posture, body: Placement) -> Placement:
    build = species.build
    reach = build.neck * (0.45 + 0.55 * posture.stretch)
    base = body.at((0.36, -0.42 * build.depth))[0]
    if posture.pose == "flying":
        # Herons fly with the neck folded back, ducks with it stretched out.
        reach = 0.3 if build.neck > 0.5 else 0.9 * build.neck
        direction = np.array([1.0, -0.12])
    else:
        direction = np.array([0.42, -1.0]) if build.neck > 0.5 else np.array([0.5, -0.9])
    x, y = base + direction * reach + (0.06, -0.06)
    return Placement(x=float(x), y=float(y), angle=posture.nod + 0.3 * max(0.0, posture.tilt - 0.4))


def _body(
    sketch: Sketch, species: Species, body: Placement, head: Placement, posture: Posture
) -> None:
    build, colors = species.build, species.plumage
    d, r = build.depth, build.head
    egg = [(0.5, -0.12), (0.42, -0.72), (0.1, -1.0), (-0.26, -0.82), (-0.5, -0.4), (-0.62, -0.08)]
    egg += [(-0.5, 0.26), (-0.2, 0.84), (0.14, 1.0), (0.4, 0.66)]
    sketch.add("body", body.at(closed(np.array(egg) * (1, d))), colors.back)
    start, end = body.at((0.26, -0.1 * d))[0], np.array([head.x, head.y])
    if build.neck > 0.5 and posture.pose != "flying":
        bends = np.array([(0.2, -0.16), (0.02, 0.0), (-0.08, 0.06)])
        curve = [start, *(np.array([start, (start + end) / 2, end]) + bends)]
        widths = [1.5 * d, 0.2, 0.13, 0.12, 1.3 * r]
        neck = tube([*curve, end], widths)
    else:
        neck = tube(
            [start, (start + end) / 2 + (0.01, 0), end], [1.55 * d, 1.1 * d + 0.5 * r, 1.7 * r]
        )
    sketch.add("body", neck, colors.back)
    sketch.add("body", head.at(ellipse(0, 0, 1.06 * r, r)), colors.head)
    # Marks follow in the order in which they cover each other.
    if build.neck > 0.0:
        upper = colors.breast if build.neck > 0.5 else colors.head
        share = 0.12 if build.neck > 0.5 else 0.42
        low = start + (end - start) * share
        sketch.add("marks", neck, colors.breast)
        if build.neck <= 0.5:
            sketch.add("marks", tube([low, end], [0.5, 0.5]), upper)
            if colors.collar is not None:
                across = np.array([-(end - start)[1], (end - start)[0]])
                across *= 0.25 / np.hypot(*across)
                sketch.add("marks", tube([low - across, low + across], [0.05, 0.05]), colors.collar)


def _plumage(sketch: Sketch, species: Species, body: Placement, rng: np.random.Generator) -> None:
    build, colors = species.build, species.plumage
    d = build.depth
    sketch.add("marks", body.at(ellipse(-0.08, 0.86 * d, 0.5, 0.72 * d)), colors.belly)
    if build.neck > 0.5:
        sketch.add("marks", body.at(ellipse(0.36, 0.55 * d, 0.16, 0.6 * d)), colors.breast)
    else:
        sketch.add("marks", body.at(ellipse(0.33, 0.42 * d, 0.24, 0.78 * d)), colors.breast)
    if colors.collar is not None and not build.neck:
        sketch.add(
            "marks", body.at(tube([(0.5, 0.1), (0.4, 0.3 * d)], [0.08, 0.06])), colors.collar
        )
    _streaks(sketch, species, body, rng)


def _streaks(sketch: Sketch, species: Species, body: Placement, rng: np.random.Generator) -> None:
    """Adds feathers: short strokes along the body, and the dark streaks of those that have them."""
    colors, d = species.plumage, species.build.depth
    spots = np.stack([rng.uniform(-0.5, 0.2, 40), rng.uniform(-0.95, -0.3, 40) * d], axis=1)
    for x, y in spots:
        tone = shade(colors.back, float(rng.uniform(0.78, 1.2)))
        stroke = [(x, y), (x - 0.07, y + 0.012)]
        sketch.add("streaks", body.at(sliver(stroke, 0.016)), tone)
    if colors.streaks is not None:
        for x, y in zip(rng.uniform(-0.25, 0.4, 26), rng.uniform(0.1, 0.9, 26) * d, strict=True):
            stroke = [(x, y), (x - 0.06, y + 0.01)]
            sketch.add("streaks", body.at(sliver(stroke, 0.014)), colors.streaks)


def _legs(sketch: Sketch, species: Species, body: Placement, posture: Posture) -> None:
    build, colors = species.build, species.plumage
    color = colors.legs
    hips = body.at([(-0.1, 0.75 * build.depth), (0.0, 0.78 * build.depth)])
    if posture.pose == "swimming":
        sketch.foot = (0.0, 0.5 * build.depth)
        return
    if posture.pose == "flying":
        if build.legs > 0.5:
            back = body.at([(-0.4, 0.4 * build.depth), (-1.05, 0.5 * build.depth)])
            sketch.add("behind", tube(back, [0.05, 0.025]), color)
        return
    ground = float(hips[:, 1].max()) + build.legs
    for (x, y), tone in zip(hips, (0.8, 1.0), strict=True):
        knee = (x - 0.1 * build.legs, (y + ground) / 2)
        leg = tube([(x, y), knee, (x + 0.02, ground)], [0.05, 0.028, 0.03])
        foot = tube([(x - 0.05, ground + 0.01), (x + 0.09, ground + 0.015)], [0.02, 0.03])
        thigh = ellipse(x, y + 0.02, 0.09, 0.1)
        sketch.add("behind", leg, shade(color, tone))
        sketch.add("behind", foot, shade(color, tone))
        sketch.add("behind", thigh, shade(colors.belly, tone))
    sketch.foot = (float(hips[:, 0].mean()) + 0.02, ground)

"""The feathers of flight: spread wings, folded wings, the tail."""

from __future__ import annotations

import numpy as np

from finetune.aviary.colours import shade
from finetune.aviary.curves import Placement, Points, closed, tube
from finetune.aviary.sketch import Layer, Posture, Sketch
from finetune.aviary.species import Species


def add_tail(sketch: Sketch, species: Species, body: Placement, posture: Posture) -> None:
    """Adds the tail: middle feathers, and two outer ones that may be longer."""
    build, colour = species.build, species.plumage.tail
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
        sketch.add("behind", place.at(feather), shade(colour, tone))
    centre = tube([(0.1, 0), (-build.tail * 0.95, 0)], [half * 1.1, half * 0.95 * spread])
    sketch.add("behind", place.at(centre), shade(colour, 0.92))


def add_folded_wing(sketch: Sketch, species: Species, body: Placement) -> None:
    """Adds the wing of a bird at rest, with its bars or its coloured patch."""
    build, colours, d = species.build, species.plumage, species.build.depth
    long = 0.16 if build.fork > 0.3 else 0.0
    tip = (-0.72 - long, 0.02)
    for index in range(5):
        low = 0.3 * d - index * 0.09 * d
        quill = tube(
            [(0.0, low), (-0.35, low * 0.8), (tip[0] + 0.07 * index, tip[1])],
            [0.36 * d, 0.34 * d, 0.02],
        )
        tone = shade(colours.flight, 1.0 + 0.14 * (index % 2))
        sketch.add("over", body.at(quill), tone)
    outline = [(0.3, -0.36), (0.3, 0.1), (0.12, 0.42), (-0.24, 0.26), (-0.5, -0.1), (-0.22, -0.5)]
    sketch.add("over", body.at(closed(np.array([*outline, (0.08, -0.62)]) * (1, d))), colours.wing)
    for index in range(3):
        y = (-0.32 + 0.22 * index) * d
        edge = tube([(0.1, y), (-0.12, y + 0.04 * d), (-0.34, y + 0.02)], [0.012, 0.018, 0.006])
        sketch.add("over", body.at(edge), shade(colours.wing, 1.22))
    for index, colour in enumerate(colours.bars):
        x = 0.13 - 0.15 * index if not build.flat_bill else -0.26
        top, bottom = (-0.5, 0.36) if not build.flat_bill else (-0.22, 0.22)
        bar = [(x + 0.03, top * d), (x - 0.02, (top + bottom) / 2 * d), (x + 0.01, bottom * d)]
        width = 0.055 if not build.flat_bill else 0.2
        sketch.add("over", body.at(tube(bar, [0.6 * width, width, 0.6 * width])), colour)


def _towards(angle: float, length: float) -> Points:
    return np.array([np.cos(angle), -np.sin(angle)]) * length


def add_spread_wing(
    sketch: Sketch, species: Species, root: Points, stroke: float, *, far: bool
) -> None:
    """Adds one spread wing from its `root`, raised by `stroke` radians; the far one is darker."""
    build, colours = species.build, species.plumage
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
        mark = colours.flight if build.flat_bill or s > 0.45 else shade(colours.wing, 0.9)
        if build.flat_bill and s < 0.5 and colours.bars:
            mark = colours.bars[0]
        sketch.add(layer, feather, shade(mark, tone * (1.0 + 0.12 * (index % 2))))
    covert = build.chord * 0.5
    inner = bone + _towards(np.pi * 0.9 * sign, 0.16 * build.chord)
    sketch.add(layer, tube(inner, [covert, covert, 0.3 * covert]), shade(colours.wing, tone))
    if colours.bars and not build.flat_bill:
        for index, colour in enumerate(colours.bars):
            reach = (0.42 + 0.16 * index) * build.chord
            line = bone[:2] + _towards(np.pi * 0.85 * sign, reach)
            sketch.add(layer, tube(line, [0.04, 0.05]), shade(colour, tone))

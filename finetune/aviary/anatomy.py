"""A bird as flat shapes: from species and posture to the outlines of its parts.

Birds face right; the body is 1 long, x runs to the right and y downwards.
"""

from __future__ import annotations

import numpy as np

from finetune.aviary.colours import shade
from finetune.aviary.curves import Placement, closed, ellipse, tube
from finetune.aviary.head import add_head
from finetune.aviary.sketch import Posture, Sketch, sliver
from finetune.aviary.species import Pose, Species
from finetune.aviary.wings import add_folded_wing, add_spread_wing, add_tail


def draw_posture(species: Species, pose: Pose, rng: np.random.Generator) -> Posture:
    """Draws how a bird of this species holds itself in `pose`."""
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
    build, colours = species.build, species.plumage
    d, r = build.depth, build.head
    egg = [(0.5, -0.12), (0.42, -0.72), (0.1, -1.0), (-0.26, -0.82), (-0.5, -0.4), (-0.62, -0.08)]
    egg += [(-0.5, 0.26), (-0.2, 0.84), (0.14, 1.0), (0.4, 0.66)]
    sketch.add("body", body.at(closed(np.array(egg) * (1, d))), colours.back)
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
    sketch.add("body", neck, colours.back)
    sketch.add("body", head.at(ellipse(0, 0, 1.06 * r, r)), colours.head)
    # Marks follow in the order in which they cover each other.
    if build.neck > 0.0:
        upper = colours.breast if build.neck > 0.5 else colours.head
        share = 0.12 if build.neck > 0.5 else 0.42
        low = start + (end - start) * share
        sketch.add("marks", neck, colours.breast)
        if build.neck <= 0.5:
            sketch.add("marks", tube([low, end], [0.5, 0.5]), upper)
            if colours.collar is not None:
                across = np.array([-(end - start)[1], (end - start)[0]])
                across *= 0.25 / np.hypot(*across)
                sketch.add(
                    "marks", tube([low - across, low + across], [0.05, 0.05]), colours.collar
                )


def _plumage(sketch: Sketch, species: Species, body: Placement, rng: np.random.Generator) -> None:
    build, colours = species.build, species.plumage
    d = build.depth
    sketch.add("marks", body.at(ellipse(-0.08, 0.86 * d, 0.5, 0.72 * d)), colours.belly)
    if build.neck > 0.5:
        sketch.add("marks", body.at(ellipse(0.36, 0.55 * d, 0.16, 0.6 * d)), colours.breast)
    else:
        sketch.add("marks", body.at(ellipse(0.33, 0.42 * d, 0.24, 0.78 * d)), colours.breast)
    if colours.collar is not None and not build.neck:
        sketch.add(
            "marks", body.at(tube([(0.5, 0.1), (0.4, 0.3 * d)], [0.08, 0.06])), colours.collar
        )
    _streaks(sketch, species, body, rng)


def _streaks(sketch: Sketch, species: Species, body: Placement, rng: np.random.Generator) -> None:
    """Adds feathers: short strokes along the body, and the dark streaks of those that have them."""
    colours, d = species.plumage, species.build.depth
    spots = np.stack([rng.uniform(-0.5, 0.2, 40), rng.uniform(-0.95, -0.3, 40) * d], axis=1)
    for x, y in spots:
        tone = shade(colours.back, float(rng.uniform(0.78, 1.2)))
        stroke = [(x, y), (x - 0.07, y + 0.012)]
        sketch.add("streaks", body.at(sliver(stroke, 0.016)), tone)
    if colours.streaks is not None:
        for x, y in zip(rng.uniform(-0.25, 0.4, 26), rng.uniform(0.1, 0.9, 26) * d, strict=True):
            stroke = [(x, y), (x - 0.06, y + 0.01)]
            sketch.add("streaks", body.at(sliver(stroke, 0.014)), colours.streaks)


def _legs(sketch: Sketch, species: Species, body: Placement, posture: Posture) -> None:
    build, colours = species.build, species.plumage
    colour = colours.legs
    hips = body.at([(-0.1, 0.75 * build.depth), (0.0, 0.78 * build.depth)])
    if posture.pose == "swimming":
        sketch.foot = (0.0, 0.5 * build.depth)
        return
    if posture.pose == "flying":
        if build.legs > 0.5:
            back = body.at([(-0.4, 0.4 * build.depth), (-1.05, 0.5 * build.depth)])
            sketch.add("behind", tube(back, [0.05, 0.025]), colour)
        return
    ground = float(hips[:, 1].max()) + build.legs
    for (x, y), tone in zip(hips, (0.8, 1.0), strict=True):
        knee = (x - 0.1 * build.legs, (y + ground) / 2)
        leg = tube([(x, y), knee, (x + 0.02, ground)], [0.05, 0.028, 0.03])
        foot = tube([(x - 0.05, ground + 0.01), (x + 0.09, ground + 0.015)], [0.02, 0.03])
        thigh = ellipse(x, y + 0.02, 0.09, 0.1)
        sketch.add("behind", leg, shade(colour, tone))
        sketch.add("behind", foot, shade(colour, tone))
        sketch.add("behind", thigh, shade(colours.belly, tone))
    sketch.foot = (float(hips[:, 0].mean()) + 0.02, ground)

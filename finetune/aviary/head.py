"""The head of a bird: its marks, crest, bill and eye."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from finetune.aviary.colours import Colour, shade
from finetune.aviary.curves import Placement, closed, ellipse, tube
from finetune.aviary.sketch import Layer, Sketch, sliver
from finetune.aviary.species import Species


def add_head(sketch: Sketch, species: Species, head: Placement) -> None:
    """Adds the head's marks, crest, bill and eye; `head` is its centre and how far it nods."""
    build, colours, r = species.build, species.plumage, species.build.head

    def add(layer: Layer, points: ArrayLike, colour: Colour) -> None:
        sketch.add(layer, head.at(np.asarray(points) * r), colour)

    songbird = build.neck == 0
    if songbird:
        # The head's colour runs a little down the neck, so that no seam shows.
        add("marks", ellipse(0.05, 0.1, 1.12, 1.08), colours.head)
    else:
        add("marks", ellipse(0, 0, 1.1, 1.04), colours.head)
    if colours.throat is not None:
        add("marks", ellipse(0.62, 0.78, 0.62, 0.5), colours.throat)
    if colours.cheek is not None:
        add("marks", ellipse(-0.1, 0.3, 0.52, 0.3), colours.cheek)
        add("marks", ellipse(-0.85, 0.4, 0.3, 0.24), colours.throat or colours.cheek)
    if colours.cap is not None and build.neck <= 0.5:
        cap = [
            (1.15, -0.42),
            (0.2, -0.4),
            (-0.7, -0.1),
            (-1.3, 0.2),
            (-1.2, -1),
            (0, -1.4),
            (1, -1),
        ]
        add("marks", closed(cap), colours.cap)
    if colours.stripe is not None:
        ends = [(0.9, -0.02), (0.3, -0.12), (-0.5, 0), (-1.05, 0.28)]
        add("marks", tube(ends, [0.14, 0.3, 0.34, 0.42]), colours.stripe)
    _crest(sketch, species, head)
    _bill(sketch, species, head)
    eye = (0.36, -0.14)
    ring = colours.bill if build.neck > 0.5 else shade(colours.head, 0.55)
    size = 0.2 if build.neck == 0 else 0.17
    add("over", ellipse(*eye, size * 1.25, size * 1.25), ring)
    add("over", ellipse(*eye, size, size), (18, 14, 14))
    add("over", ellipse(eye[0] + 0.06, eye[1] - 0.07, 0.06, 0.06), (245, 245, 245))


def _crest(sketch: Sketch, species: Species, head: Placement) -> None:
    build, r = species.build, species.build.head
    colour = species.plumage.cap
    if not build.crest or colour is None:
        return
    c = build.crest
    if build.neck > 0.5:
        band = tube(
            [(0.5 * r, -0.55 * r), (-0.4 * r, -0.8 * r), (-1.1 * r, -0.3 * r)], [0.03, 0.06, 0.05]
        )
        plume = tube(
            [(-0.8 * r, -0.5 * r), (-0.9 * r - c / 2, 0), (-r - c, 0.1)], [0.05, 0.035, 0.008]
        )
        sketch.add("over", head.at(band), colour)
        sketch.add("over", head.at(plume), colour)
        return
    tips = [(0.7 * r, -0.7 * r), (0.1 * r, -1.3 * r), (-0.75 * r - 0.3 * c, -r - 0.75 * c)]
    peak = [*tips, (-0.6 * r, -0.95 * r), (-0.95 * r, -0.3 * r), (0, -0.55 * r)]
    sketch.add("over", head.at(closed(peak)), colour)
    for share in (0.25, 0.5, 0.75):
        x, y = -0.75 * r - 0.3 * c, -r - 0.75 * c
        fleck = sliver(
            [(x * share, -0.8 * r + (y + 0.8 * r) * share), (x * share - 0.05, y * share)], 0.012
        )
        sketch.add("over", head.at(fleck), (228, 226, 220))


def _bill(sketch: Sketch, species: Species, head: Placement) -> None:
    build, r = species.build, species.build.head
    length, height = build.bill
    x, colour = 0.86 * r, species.plumage.bill
    if build.flat_bill:
        upper = [(x, -0.3 * r), (x + 0.35 * length, 0.005), (x + 0.97 * length, 0.012)]
        lower = [(x + length, 0.045), (x + 0.6 * length, 0.068), (x, 0.5 * r)]
        sketch.add("over", head.at(closed([*upper, *lower])), colour)
        nail = ellipse(x + 0.98 * length, 0.028, 0.018, 0.015)
        sketch.add("over", head.at(nail), shade(colour, 0.4))
        return
    tip, y = (x + length, 0.04), 0.1 * r
    ridge = (x + 0.5 * length, y - 0.34 * height)
    keel = (x + 0.45 * length, y + 0.38 * height)
    upper_half = np.array([(x, y - height / 2), ridge, tip, (x, y + 0.06 * height)])
    lower_half = np.array([(x, y + 0.06 * height), tip, keel, (x, y + height / 2)])
    sketch.add("over", head.at(lower_half), shade(colour, 0.78))
    sketch.add("over", head.at(upper_half), colour)

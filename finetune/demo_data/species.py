"""Eight species of the demo data: build, plumage and habits.

Two pairs are hard to tell apart on purpose: the finches differ in cap, eye stripe and wing bars,
the ducks in head, breast and the color of the wing patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Color = tuple[int, int, int]


def shade(color: Color, factor: float) -> Color:
    """Returns a darker (factor < 1) or lighter (> 1) color."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in color)
    return red, green, blue


def blend(first: Color, second: Color, share: float) -> Color:
    """Returns the color that is `share` of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


Pose = Literal["perched", "standing", "swimming", "flying"]
Setting = Literal["sky", "lake", "reeds", "woods", "meadow", "winter"]


@dataclass(frozen=True, kw_only=True)
class Build:
    """Lengths of the body parts; the body is 1 long."""

    depth: float
    """Half the height of the body."""
    head: float
    """Radius of the head."""
    neck: float = 0.0
    bill: tuple[float, float] = (0.12, 0.1)
    """Length and height at the base."""
    flat_bill: bool = False
    crest: float = 0.0
    tail: float = 0.35
    fork: float = 0.05
    """Additional length of the outer tail feathers."""
    legs: float = 0.16
    span: float = 0.9
    """Length of one spread wing."""
    chord: float = 0.36
    """Width of a spread wing at the body."""


@dataclass(frozen=True, kw_only=True)
class Plumage:
    """Colors; None where the species has no such mark."""

    back: Color
    breast: Color
    belly: Color
    head: Color
    wing: Color
    flight: Color
    tail: Color
    bill: Color
    legs: Color
    cap: Color | None = None
    stripe: Color | None = None
    cheek: Color | None = None
    throat: Color | None = None
    collar: Color | None = None
    bars: tuple[Color, ...] = ()
    streaks: Color | None = None


@dataclass(frozen=True, kw_only=True)
class Species:
    """Species with its label, appearance, poses and habitats."""

    name: str
    build: Build
    plumage: Plumage
    poses: Mapping[Pose, float] = field(default_factory=lambda: {"perched": 0.85, "flying": 0.15})
    settings: tuple[Setting, ...] = ("woods", "meadow", "reeds")


KINGFISHER = Species(
    name="カワセミ",
    build=Build(depth=0.3, head=0.235, bill=(0.52, 0.12), tail=0.24, legs=0.08, span=0.85),
    plumage=Plumage(
        back=(30, 150, 205),
        breast=(222, 122, 44),
        belly=(228, 134, 54),
        head=(20, 112, 158),
        wing=(16, 98, 138),
        flight=(14, 72, 108),
        tail=(22, 108, 172),
        bill=(40, 36, 38),
        legs=(206, 84, 52),
        cheek=(226, 128, 48),
        throat=(244, 240, 230),
        bars=((66, 176, 214),),
    ),
    poses={"perched": 0.75, "flying": 0.25},
    settings=("lake", "reeds", "woods"),
)

MALLARD = Species(
    name="mallard",
    build=Build(
        depth=0.26, head=0.16, neck=0.26, bill=(0.23, 0.1), flat_bill=True, tail=0.2, legs=0.2
    ),
    plumage=Plumage(
        back=(150, 142, 134),
        breast=(98, 58, 40),
        belly=(198, 194, 188),
        head=(22, 100, 64),
        wing=(134, 124, 114),
        flight=(92, 84, 78),
        tail=(232, 228, 220),
        bill=(222, 186, 52),
        legs=(232, 122, 40),
        collar=(246, 246, 242),
        bars=((46, 74, 176),),
    ),
    poses={"swimming": 0.65, "flying": 0.2, "standing": 0.15},
    settings=("lake", "reeds"),
)

TEAL = Species(
    name="marsh teal",
    build=Build(
        depth=0.27, head=0.165, neck=0.2, bill=(0.2, 0.09), flat_bill=True, tail=0.2, legs=0.18
    ),
    plumage=Plumage(
        back=(146, 142, 140),
        breast=(204, 176, 140),
        belly=(206, 202, 196),
        head=(142, 70, 38),
        wing=(128, 122, 118),
        flight=(88, 82, 80),
        tail=(214, 196, 120),
        bill=(70, 70, 76),
        legs=(112, 108, 96),
        stripe=(36, 122, 84),
        bars=((38, 140, 84),),
    ),
    poses={"swimming": 0.65, "flying": 0.2, "standing": 0.15},
    settings=("lake", "reeds"),
)

EMBER_FINCH = Species(
    name="ember finch",
    build=Build(depth=0.3, head=0.2, bill=(0.15, 0.15), tail=0.4, fork=0.06),
    plumage=Plumage(
        back=(122, 86, 60),
        breast=(208, 64, 46),
        belly=(234, 214, 198),
        head=(198, 60, 44),
        wing=(86, 64, 52),
        flight=(58, 44, 38),
        tail=(74, 54, 46),
        bill=(120, 104, 92),
        legs=(132, 98, 84),
        cap=(84, 44, 38),
        bars=((246, 242, 234), (246, 242, 234)),
        streaks=(92, 64, 46),
    ),
)

DUSK_FINCH = Species(
    name="dusk finch",
    build=Build(depth=0.29, head=0.2, bill=(0.16, 0.14), tail=0.44, fork=0.1),
    plumage=Plumage(
        back=(130, 100, 74),
        breast=(222, 120, 92),
        belly=(236, 218, 200),
        head=(214, 112, 86),
        wing=(98, 76, 60),
        flight=(66, 52, 44),
        tail=(84, 64, 54),
        bill=(196, 160, 96),
        legs=(132, 98, 84),
        stripe=(84, 58, 48),
        bars=((222, 188, 140),),
        streaks=(104, 78, 56),
    ),
)

CRESTED_TIT = Species(
    name="crested tit",
    build=Build(depth=0.31, head=0.22, bill=(0.1, 0.06), crest=0.3, tail=0.38, span=0.8),
    plumage=Plumage(
        back=(134, 122, 100),
        breast=(240, 232, 212),
        belly=(228, 210, 178),
        head=(244, 242, 236),
        wing=(104, 98, 92),
        flight=(74, 72, 72),
        tail=(90, 86, 82),
        bill=(36, 34, 34),
        legs=(88, 96, 108),
        cap=(44, 42, 46),
        stripe=(34, 32, 36),
        throat=(34, 32, 36),
    ),
    settings=("woods", "winter", "meadow"),
)

GREY_HERON = Species(
    name="grey heron",
    build=Build(
        depth=0.22,
        head=0.105,
        neck=0.85,
        bill=(0.36, 0.085),
        crest=0.22,
        tail=0.16,
        legs=0.8,
        span=1.15,
        chord=0.5,
    ),
    plumage=Plumage(
        back=(142, 152, 164),
        breast=(214, 218, 222),
        belly=(224, 228, 230),
        head=(238, 240, 240),
        wing=(120, 132, 148),
        flight=(58, 64, 78),
        tail=(120, 130, 144),
        bill=(228, 168, 60),
        legs=(150, 132, 98),
        cap=(34, 36, 46),
        streaks=(60, 62, 70),
    ),
    poses={"standing": 0.75, "flying": 0.25},
    settings=("lake", "reeds", "meadow"),
)

BARN_SWALLOW = Species(
    name="barn swallow",
    build=Build(
        depth=0.21,
        head=0.165,
        bill=(0.07, 0.06),
        tail=0.34,
        fork=0.62,
        legs=0.06,
        span=1.2,
        chord=0.26,
    ),
    plumage=Plumage(
        back=(34, 52, 116),
        breast=(242, 224, 200),
        belly=(244, 232, 214),
        head=(30, 46, 104),
        wing=(40, 46, 82),
        flight=(32, 34, 56),
        tail=(32, 40, 84),
        bill=(30, 28, 30),
        legs=(60, 50, 50),
        throat=(168, 66, 38),
        collar=(28, 40, 88),
    ),
    poses={"flying": 0.65, "perched": 0.35},
    settings=("sky", "lake", "meadow"),
)

SPECIES = (
    KINGFISHER,
    MALLARD,
    EMBER_FINCH,
    GREY_HERON,
    BARN_SWALLOW,
    CRESTED_TIT,
    DUSK_FINCH,
    TEAL,
)
"""All species, the most distinct first; a smaller collection takes the first few."""

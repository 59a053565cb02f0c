"""Pictures of other subjects, drawn by code, on which the detection of unknown photos is measured.

They measure, and take no part in any fit: nothing is tuned to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from finetune.demo_data.collection import draw_bird
from finetune.demo_data.species import SPECIES
from finetune.messages import marked

PICTURES = 12
"""Pictures of each kind."""

DRAWN_BIRDS = marked("drawn birds")

_SIDE = 256

_LETTERS = "etaoin shrdlu cmfwyp vbgk ETAOIN 0123456789"


def _noise(rng: np.random.Generator) -> Image.Image:
    picture = Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8))
    return picture.filter(ImageFilter.GaussianBlur(float(rng.integers(0, 4))))


def _blank(rng: np.random.Generator) -> Image.Image:
    """Draws a frame of one color with the noise of a sensor, as through a lens cap or into fog."""
    color = rng.integers(0, 256, 3)
    grain = rng.normal(0, rng.uniform(0, 4), (_SIDE, _SIDE, 1))
    return Image.fromarray(np.clip(color + grain, 0, 255).astype(np.uint8))


def _text(rng: np.random.Generator) -> Image.Image:
    """Draws a page or a screen of letters."""
    dark = bool(rng.integers(0, 2))
    page = Image.new("RGB", (_SIDE, _SIDE), (24, 26, 30) if dark else (250, 248, 244))
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=int(rng.integers(11, 20)))
    for top in range(8, _SIDE - 16, 22):
        line = "".join(rng.choice(list(_LETTERS), int(rng.integers(12, 40))))
        draw.text((10, top), line, fill=(225, 225, 225) if dark else (30, 30, 30), font=font)
    return page


def _bird(rng: np.random.Generator) -> Image.Image:
    kind = SPECIES[int(rng.integers(0, len(SPECIES)))]
    picture, _ = draw_bird(kind.name, rng, (_SIDE, _SIDE))
    return picture


STRANGERS: Mapping[str, Callable[[np.random.Generator], Image.Image]] = MappingProxyType(
    {
        marked("noise"): _noise,
        marked("text"): _text,
        marked("blank frames"): _blank,
        DRAWN_BIRDS: _bird,
    }
)
"""Functions that draw one picture, by kind."""


def draw_strangers(kind: str) -> tuple[NDArray[np.uint8], ...]:
    """Returns the pictures ``(256, 256, 3) uint8`` of one kind, the same in every call.

    Example:
        >>> {picture.shape for picture in draw_strangers("noise")}
        {(256, 256, 3)}
    """
    number = list(STRANGERS).index(kind)
    return tuple(
        np.asarray(STRANGERS[kind](np.random.default_rng((number, seed))))
        for seed in range(PICTURES)
    )

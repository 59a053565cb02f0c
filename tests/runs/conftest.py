"""Photos of several labels that the tests of runs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

COLOURS = {"blue": (50, 60, 230), "green": (40, 200, 60), "red": (220, 40, 30)}
SEVERAL_PHOTOS = 60


def shapes(number: int) -> tuple[tuple[str, ...], Image.Image]:
    """Two discs at most, each of a colour that is a label of the photo."""
    rng = np.random.default_rng(number)
    ground = rng.integers(90, 160, 3) + rng.integers(-15, 15, (48, 64, 1))
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    labels = tuple(sorted(rng.choice(list(COLOURS), int(rng.choice([0, 1, 2])), replace=False)))
    for label, left in zip(labels, (17, 46), strict=False):
        x, y = left + rng.integers(-3, 4), rng.integers(14, 34)
        reach = int(rng.integers(9, 13))
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=COLOURS[label])
    return labels, image


@pytest.fixture(scope="session")
def draw_shapes() -> Callable[[int], tuple[tuple[str, ...], Image.Image]]:
    """The function ``shapes(number)`` that gives the labels of a photo, and the photo."""
    return shapes


@pytest.fixture(scope="module")
def several_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder a label, a photo of two labels in both; photos of nothing in ``none``."""
    root = tmp_path_factory.mktemp("several") / "photos"
    for number in range(SEVERAL_PHOTOS):
        labels, image = shapes(number)
        for label in labels or ("none",):
            (root / label).mkdir(parents=True, exist_ok=True)
            image.save(root / label / f"{number:03d}.png")
    return root


@pytest.fixture
def several(tiny_settings: dict[str, object]) -> dict[str, object]:
    """Flags of a short training on `folders`."""
    return {**tiny_settings, "multi_label": True, "negatives": "none", "mode": "head"}

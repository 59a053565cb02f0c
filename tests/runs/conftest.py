"""Photos of several labels, and searches of settings, that the tests of runs share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from finetune.runs.tune import Tuned, TunePlan, tune
from finetune.settings import resolve
from finetune.training.events import Event

COLOURS = {"blue": (50, 60, 230), "green": (40, 200, 60), "red": (220, 40, 30)}
SEVERAL_PHOTOS = 60
TUNE_COUNTS = {"ant": 12, "bee": 12}
NOT_SEARCHED = frozenset({"model", "weights", "size", "views"})


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


@pytest.fixture
def tune_photos(make_photos: Callable[..., Path]) -> Path:
    """Photos for a search."""
    return make_photos(TUNE_COUNTS)


@pytest.fixture
def search(
    tune_photos: Path, tmp_path: Path, tiny_settings: dict[str, object]
) -> Callable[..., Tuned]:
    """Returns a function that searches `tune_photos`; it takes the fields of a plan."""
    del tiny_settings["batch_size"]

    def run(listen: Callable[[Event], None] = lambda event: None, **plan: Any) -> Tuned:
        chosen = {
            "trials": 3,
            "final": False,
            "fixed": NOT_SEARCHED,
            "runs": tmp_path / "runs",
            **plan,
        }
        return tune(tune_photos, resolve({}, tiny_settings), TunePlan(**chosen), listen=listen)

    return run


@pytest.fixture(scope="session")
def searched(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, draw: Callable[..., Any]
) -> tuple[Tuned, Path]:
    """A search of 4 trials, for tests that only look at it."""
    root = tmp_path_factory.mktemp("tune")
    for index, (label, count) in enumerate(TUNE_COUNTS.items()):
        (root / "photos" / label).mkdir(parents=True)
        for number in range(count):
            draw(index, number).save(root / "photos" / label / f"{number:03d}.jpg", quality=92)
    flags = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48, "device": "cpu"}
    plan = TunePlan(trials=4, final=False, fixed=NOT_SEARCHED, runs=root / "runs")
    return tune(root / "photos", resolve({}, {**flags, "epochs": 3}), plan), root / "photos"


@pytest.fixture
def tuned(searched: tuple[Tuned, Path]) -> Tuned:
    """What the search of 4 trials found."""
    return searched[0]


class ByChance:
    """Chooses by chance, and notes what was asked for."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.asked: dict[str, tuple[Any, ...]] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.asked[name] = tuple(choices)
        return self.rng.choice(list(choices))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked[name] = (low, high, log)
        return self.rng.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.asked[name] = (low, high, log)
        return self.rng.randint(low, high)


@pytest.fixture(scope="session")
def by_chance() -> type[ByChance]:
    """The class ``ByChance(seed)``, a chooser of values."""
    return ByChance

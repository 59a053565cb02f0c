"""Photos, weights and folders that tests share; everything is drawn, nothing is downloaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image, ImageDraw

# huggingface_hub reads it once, when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples each time, and no stopwatch: a busy machine must not fail what is right.
hypothesis.settings.register_profile("finetune", deadline=None, derandomize=True)
hypothesis.settings.load_profile("finetune")

TINY_MODEL = "test_resnet"
TINY_SIZE = 48


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives a test in a browser, another program with a clock of its own, a second chance."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "user-cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(autouse=True)
def _fresh_output(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test meets the command line's output and the library's log as a new process does."""
    from finetune.cli.console import output

    logger = logging.getLogger("finetune")
    handlers, propagate = list(logger.handlers), logger.propagate
    logger.handlers[:], logger.propagate = [], True
    monkeypatch.setattr(output.stdout, "width", 160)
    monkeypatch.setattr(output, "json", False)
    monkeypatch.setattr(output, "quiet", False)
    yield
    logger.handlers[:], logger.propagate = handlers, propagate


def draw_photo(label: int, number: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A disc, a bar or a cross of its label's colour somewhere on a noisy ground."""
    rng = np.random.default_rng((label, number))
    ground = rng.integers(60, 200, 3) + rng.integers(-20, 20, (size[1], size[0], 1))
    image = Image.fromarray(np.broadcast_to(ground, (size[1], size[0], 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    x, y = rng.integers(20, size[0] - 20), rng.integers(18, size[1] - 18)
    colour = [(220, 40, 30), (40, 200, 60), (50, 60, 230), (230, 220, 40)][label % 4]
    reach = int(rng.integers(8, 15))
    shapes = [
        lambda: draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour),
        lambda: draw.rectangle((x - reach, y - 4, x + reach, y + 4), fill=colour),
        lambda: draw.polygon(
            [(x, y - reach), (x + reach, y + reach), (x - reach, y + reach)], colour
        ),
        lambda: draw.rectangle((x - 4, y - reach, x + 4, y + reach), fill=colour),
    ]
    shapes[label % 4]()
    return image


@pytest.fixture(scope="session")
def draw() -> Callable[..., Image.Image]:
    """The function ``draw(label, number)`` that draws one photo."""
    return draw_photo


@pytest.fixture
def make_photos(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that draws ``photos/LABEL/NUMBER.jpg`` and returns the folder."""

    def make(counts: dict[str, int], folder: str = "photos") -> Path:
        root = tmp_path / folder
        for index, (label, count) in enumerate(counts.items()):
            (root / label).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = draw_photo(index, number)
                image.save(root / label / f"{number:03d}.jpg", quality=92)
        root.mkdir(exist_ok=True)
        return root

    return make


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of `TINY_MODEL` with a head of 1,000 outputs, as pretrained ones have."""
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = timm.create_model(TINY_MODEL)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(module.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def train_tiny(tiny_weights: Path) -> Callable[..., Path]:
    """Returns a function that draws ants and bees into ``FOLDER/photos`` and trains on them.

    It returns the run, ``FOLDER/runs/tiny``.
    """

    def train_in(folder: Path, *, photos: int = 8, epochs: int = 2) -> Path:
        from finetune.runs.train import train
        from finetune.settings import resolve

        for index, label in enumerate(["ant", "bee"]):
            (folder / "photos" / label).mkdir(parents=True)
            for number in range(photos):
                draw_photo(index, number).save(folder / "photos" / label / f"{number}.png")
        flags = {
            "model": TINY_MODEL,
            "weights": str(tiny_weights),
            "size": TINY_SIZE,
            "device": "cpu",
            "epochs": epochs,
            "mode": "head",
            # Leaves the head where its few steps left it: not sure of random features.
            "optimizer": "adam",
        }
        run = train(folder / "photos", resolve({}, flags), run="tiny", runs=folder / "runs").run
        return run.path

    return train_in


@pytest.fixture
def tiny_settings(tiny_weights: Path) -> dict[str, object]:
    """Flags with which a training takes about a second."""
    return {
        "model": TINY_MODEL,
        "weights": str(tiny_weights),
        "size": TINY_SIZE,
        "device": "cpu",
        "epochs": 3,
        "batch_size": 8,
    }

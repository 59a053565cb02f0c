"""Fixtures that run the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from finetune.cli import app


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    """Returns a function that runs ``finetune ARGS`` and checks the exit code."""

    def run_command(*args: object, code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    return run_command


@pytest.fixture
def error_of(run: Callable[..., Result]) -> Callable[..., str]:
    """Returns a function that runs a failing command and returns its error line, unwrapped."""

    def error(*words: object) -> str:
        result = run(*words, code=1)
        assert result.stdout == ""
        return " ".join(result.stderr.split()).partition("Error: ")[2]

    return error


@pytest.fixture
def flags(tiny_settings: dict[str, object]) -> list[str]:
    """Options of a training that takes about a second."""
    return [
        word
        for name, value in tiny_settings.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


@pytest.fixture(scope="session")
def draw_scene() -> Callable[..., None]:
    """Returns a function that draws blobs into a JPEG file.

    One seed is one scene at any size; with ``grain`` another photo of it, of which no two pixels
    are quite the same.
    """

    def draw(
        path: Path, seed: int, *, size: tuple[int, int] = (240, 180), grain: int | None = None
    ) -> None:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:180, :240] / 240
        image = np.full((180, 240, 3), rng.uniform(60, 160, 3))
        for _ in range(14):
            distance = (x - rng.random()) ** 2 + (y - rng.random()) ** 2
            blob = np.exp(-distance / rng.uniform(0.002, 0.04))
            image += blob[..., None] * rng.normal(0, 90, 3)
        if grain is not None:
            image += np.random.default_rng(grain).normal(0, 2, image.shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        drawn.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)

    return draw

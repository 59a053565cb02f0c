"""One tiny run for all tests of what is done with runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image


@dataclass(frozen=True)
class Trained:
    run: Path
    photos: Path


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_weights: Path,
    draw: Callable[..., Image.Image],
) -> Trained:
    from finetune import train
    from finetune.settings import resolve

    root = tmp_path_factory.mktemp("trained")
    for index, label in enumerate(["ant", "bee"]):
        (root / "photos" / label).mkdir(parents=True)
        for number in range(8):
            draw(index, number).save(root / "photos" / label / f"{number}.png")
    flags = {
        "model": "test_resnet",
        "weights": str(tiny_weights),
        "size": 48,
        "device": "cpu",
        "epochs": 2,
        "mode": "head",
    }
    run = train(root / "photos", resolve({}, flags), run="tiny", runs=root / "runs").run.path
    return Trained(run, root / "photos")

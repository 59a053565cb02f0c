from __future__ import annotations

from pathlib import Path

import pytest

from finetune.demo_data import Aviary, draw_collection


@pytest.fixture(scope="session")
def small_aviary(tmp_path_factory: pytest.TempPathFactory) -> Aviary:
    folder: Path = tmp_path_factory.mktemp("aviary") / "photos"
    return draw_collection(folder, photos_per_species=8, size=(150, 100), seed=5)

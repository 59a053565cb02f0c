from __future__ import annotations

from pathlib import Path

import pytest

from finetune.demo_data import DemoCollection, draw_collection


@pytest.fixture(scope="session")
def small_collection(tmp_path_factory: pytest.TempPathFactory) -> DemoCollection:
    folder: Path = tmp_path_factory.mktemp("demo_data") / "photos"
    return draw_collection(folder, photos_per_species=8, size=(150, 100), seed=5)

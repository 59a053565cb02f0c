"""One tiny run for all tests of what is done with runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Trained:
    run: Path
    photos: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., Path]) -> Trained:

    root = tmp_path_factory.mktemp("trained")
    run = train_tiny(root)
    return Trained(run, root / "photos")

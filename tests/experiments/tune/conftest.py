"""Searches that the tests of this package share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from finetune.config_io import resolve
from finetune.experiments.tune.search import TuneConfig, TuneResult, tune
from finetune.training.events import Callback, ignore

COUNTS = {"ant": 12, "bee": 12}
FIXED = frozenset({"model", "weights", "size", "views"})


@pytest.fixture
def tune_photos(make_photos: Callable[..., Path]) -> Path:
    """Photos for a search."""
    return make_photos(COUNTS)


@pytest.fixture
def search(
    tune_photos: Path, tmp_path: Path, tiny_settings: dict[str, object]
) -> Callable[..., TuneResult]:
    """Returns a function that searches `tune_photos`; takes the fields of a TuneConfig."""
    del tiny_settings["batch_size"]

    def run(callback: Callback = ignore, mode: str | None = None, **fields: Any) -> TuneResult:
        defaults = {"trials": 3, "final": False, "fixed": FIXED, "runs": tmp_path / "runs"}
        config = TuneConfig(**{**defaults, **fields})
        return tune(
            tune_photos, resolve({}, {**tiny_settings, "mode": mode}), config, callback=callback
        )

    return run


@pytest.fixture(scope="session")
def searched(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, draw: Callable[..., Any]
) -> tuple[TuneResult, Path]:
    """A search of 4 trials with the settings of `search`, and its photos; not to be changed."""
    root = tmp_path_factory.mktemp("tune")
    for index, (label, count) in enumerate(COUNTS.items()):
        (root / "photos" / label).mkdir(parents=True)
        for number in range(count):
            draw(index, number).save(root / "photos" / label / f"{number:03d}.jpg", quality=92)
    flags = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48, "device": "cpu"}
    flags["head_l2"] = "0.3,1"
    config = TuneConfig(trials=4, final=False, fixed=FIXED, runs=root / "runs")
    return tune(root / "photos", resolve({}, {**flags, "epochs": 3}), config), root / "photos"


@pytest.fixture
def tuned(searched: tuple[TuneResult, Path]) -> TuneResult:
    """The result of the search of 4 trials."""
    return searched[0]


@pytest.fixture(scope="session")
def random_trial() -> Callable[[int], optuna.Trial]:
    """Returns a function that starts a random trial of a seed, in a study of its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def start(seed: int) -> optuna.Trial:
        return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()

    return start

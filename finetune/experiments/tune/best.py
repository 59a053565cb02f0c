"""Best settings of a search, and the final model that is trained with them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config_io import settings_toml
from finetune.experiments.tune.space import Space, config_of
from finetune.experiments.tune.study import Trial
from finetune.files import read_json, write_json, write_text
from finetune.runs.folder import RunFolder, create_run
from finetune.training.events import Callback, Note
from finetune.training.train import train

BEST_FILE = "best.toml"
STATE_FILE = "tune.json"


@dataclass(frozen=True, kw_only=True)
class FinalModel:
    """The model trained with the best settings, and its metrics.json."""

    run: RunFolder
    metrics: Mapping[str, Any]
    interrupted: bool


def write_best(folder: Path, space: Space, name: str, best: Trial) -> Path:
    """Writes the best settings of the study `name` as TOML for ``--config``; returns the file."""
    config = config_of(space, best.flags)
    weights = config.model.weights
    if weights is not None and Path(weights).is_file():
        model = dataclasses.replace(config.model, weights=str(Path(weights).absolute()))
        config = dataclasses.replace(config, model=model)
    comment = (
        f"Best of the study '{name}': trial {best.number}, {best.score:.1%} on validation.\n"
        f"Train with it: finetune train PHOTOS --config {BEST_FILE}"
    )
    text = settings_toml(config, always={*best.flags, "seed"}, comment=comment)
    return write_text(folder / BEST_FILE, text)


def train_best(
    root: Path, folder: Path, space: Space, best: Trial, *, callback: Callback
) -> FinalModel:
    """Trains with the best settings, unless that was done before.

    Raises:
        FinetuneError: As `finetune.training.train.train`.
    """
    state = folder / STATE_FILE
    before = read_json(state) if state.is_file() else {}
    kept = RunFolder(Path(before.get("run", "")))
    if before.get("trial") == best.number and kept.model_file.is_file():
        return FinalModel(run=kept, metrics=kept.read(kept.metrics_file), interrupted=False)
    callback(Note(text=f"Training the final model with the settings of trial {best.number}."))
    run = create_run(None, f"{folder.name}-best", folder.parent)
    try:
        result = train(root, config_of(space, best.flags), run=run, callback=callback)
    except BaseException:
        if not run.config_file.is_file():
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    if not result.interrupted:
        write_json(state, {"trial": best.number, "run": str(run.path)})
    return FinalModel(run=run, metrics=result.metrics, interrupted=result.interrupted)

"""What a search is for: the best settings in a file, and the model that is trained with them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import ModelConfig
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
class Final:
    """The model that the best settings trained.

    Attributes:
        run: Holds it.
        metrics: Its metrics.json.
        interrupted: Whether its training was stopped.
    """

    run: RunFolder
    metrics: Mapping[str, Any]
    interrupted: bool


def write_best(folder: Path, space: Space, name: str, best: Trial) -> Path:
    """Writes the best settings of the study `name` into its folder, as TOML for ``--config``."""
    config = config_of(space, best.flags)
    config = dataclasses.replace(config, model=_with_absolute_weights(config.model))
    comment = (
        f"Best of the study '{name}': trial {best.number}, {best.score:.1%} on validation.\n"
        f"Train with it: finetune train PHOTOS --config {BEST_FILE}"
    )
    text = settings_toml(config, always={*best.flags, "seed"}, comment=comment)
    return write_text(folder / BEST_FILE, text)


def train_best(root: Path, folder: Path, space: Space, best: Trial, *, tell: Callback) -> Final:
    """Trains with the best settings, test part and all, unless that was done before.

    Args:
        root: The photos.
        folder: Of the study; the run goes beside it.
        space: What was searched.
        best: The best trial.
        tell: Called with what happens.

    Raises:
        FinetuneError: As `finetune.training.train.train`.
    """
    state = folder / STATE_FILE
    before = read_json(state) if state.is_file() else {}
    kept = RunFolder(Path(before.get("run", "")))
    if before.get("trial") == best.number and kept.model_file.is_file():
        return Final(run=kept, metrics=kept.read(kept.metrics_file), interrupted=False)
    tell(
        Note(
            text=f"Trial {best.number} was best on validation. The final model trains with "
            "its settings."
        )
    )
    run = create_run(None, f"{folder.name}-best", folder.parent)
    try:
        result = train(root, config_of(space, best.flags), run=run, callback=tell)
    except BaseException:
        if not run.config_file.is_file():
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    if not result.interrupted:
        write_json(state, {"trial": best.number, "run": str(run.path)})
    return Final(run=run, metrics=result.metrics, interrupted=result.interrupted)


def _with_absolute_weights(model: ModelConfig) -> ModelConfig:
    if model.weights is None or not Path(model.weights).is_file():
        return model
    return dataclasses.replace(model, weights=str(Path(model.weights).absolute()))

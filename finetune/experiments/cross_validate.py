"""Cross-validation: every photo is held out once and predicted by a model that never saw it.

With few photos, one held-out part gives an imprecise accuracy. Near-duplicates share a fold, and
the held-out fold chooses nothing: a share of the other folds selects the epoch and calibrates.
"""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import TrainConfig
from finetune.config_io import resolve, to_dict
from finetune.errors import ConfigError, RunError
from finetune.experiments.fold_results import (
    Fold,
    FoldStatistics,
    Pooled,
    fold_of_run,
    fold_statistics,
    has_held_out,
    pool,
    save_held_out,
    write_final,
    write_pooled,
)
from finetune.experiments.folds import (
    assign_folds,
    final_splitter,
    fold_splitter,
    read_folds,
    write_folds,
)
from finetune.files import storage_errors, write_json
from finetune.formatting import percent
from finetune.models.registry import DEFAULT_MODEL
from finetune.photos.collection import Collection
from finetune.runs.folder import RUNS_FOLDER, RunFolder, create_run, drop_weights
from finetune.runs.model_card import write_model_card
from finetune.runs.validation import read_validated
from finetune.tasks.base import Task
from finetune.tasks.data_split import DataSplit
from finetune.tasks.single_label import SingleLabel
from finetune.training.device import require_one_process
from finetune.training.events import Callback, Note, ignore, without_repeated_notes
from finetune.training.prepare import Splitter
from finetune.training.resolve import resolve_network
from finetune.training.train import RunResult, resume, train

STATE_FILE = "folds.json"
"""In the run folder: photos, settings and options, and finally the results."""

FOLDS_FILE = "folds.csv"


@dataclass(frozen=True, kw_only=True)
class FoldConfig:
    """Options of a cross-validation.

    Attributes:
        folds: Number of folds, at least 2.
    """

    folds: int = 5
    final: bool = True
    keep_models: bool = False


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """Result of a cross-validation.

    Attributes:
        folder: Folder of all folds; a run once the final model is trained.
        statistics: Statistics of their scores; None before the last fold has finished.
        pooled: Metrics of all held-out photos together; None before the last fold has finished.
        test: Metrics of the final model on the collection's own test folder, if it has one.
    """

    folder: RunFolder
    config: FoldConfig
    folds: tuple[Fold, ...]
    statistics: FoldStatistics | None
    pooled: Mapping[str, Any] | None
    seconds: float
    test: Mapping[str, Any] | None = None
    interrupted: bool = False

    @property
    def task(self) -> Task:
        """Task of the scores."""
        return self.folds[0].task if self.folds else SingleLabel()

    def results(self) -> dict[str, Any]:
        """Returns the results of the folds as JSON values."""
        return {
            "folds": [fold.to_dict() for fold in self.folds],
            "figures": dataclasses.asdict(self.statistics) if self.statistics else None,
        }

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        return {
            "run": str(self.folder.path),
            "plan": dataclasses.asdict(self.config),
            **self.results(),
            "pooled": self.pooled,
            "test": self.test,
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
        }


def cross_validate(
    photos: Path | str,
    config: TrainConfig | None = None,
    folds: FoldConfig | None = None,
    *,
    run: str | None = None,
    runs: Path = RUNS_FOLDER,
    callback: Callback = ignore,
) -> CrossValidation:
    """Trains once per fold, pools the predictions of held-out photos, and trains a final model.

    Args:
        photos: As for `finetune.training.train.train`.
        config: Settings of every training; its test share is ignored.
        folds: Options of the cross-validation.
        run: Name of the run, or a path; None for date and model.
        runs: Folder of named runs.
        callback: Receives the events of every training.

    Raises:
        ConfigError: Fewer than 2 folds, more than there are groups of photos, or several processes.
        FinetuneError: As `train`.

    Example:
        >>> result = cross_validate("photos", folds=FoldConfig(folds=5))  # doctest: +SKIP
        >>> result.statistics.mean  # doctest: +SKIP
        0.962
    """
    require_one_process("--folds")
    folds = folds or FoldConfig()
    if folds.folds < 2:
        raise ConfigError(f"--folds {folds.folds} must be at least 2.")
    config = config or TrainConfig()
    resolved, _ = resolve_network(config)
    name = f"{datetime.date.today():%Y-%m-%d}-{resolved.model.model or DEFAULT_MODEL}-folds"
    folder = create_run(run, name, runs)
    state = {
        "photos": str(Path(photos).absolute()),
        "settings": to_dict(config),
        "plan": dataclasses.asdict(folds),
        "finished": False,
    }
    try:
        write_json(folder.path / STATE_FILE, state)
        return _run_folds(folder, callback)
    except Exception:
        # Invalid photos or settings leave no folder behind.
        if not (folder.path / FOLDS_FILE).is_file():
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def resume_folds(path: Path, *, callback: Callback = ignore) -> CrossValidation:
    """Resumes an interrupted cross-validation; finished folds stay as they are.

    Raises:
        RunError: It is not a cross-validation, it is finished, or its photos have changed.
    """
    require_one_process("--folds")
    if read_state(path)["finished"]:
        raise RunError(
            f"{path} is finished; there is nothing to resume. "
            "Start a new one with: finetune train PHOTOS --folds 5"
        )
    return _run_folds(RunFolder(path), callback)


def is_cross_validation(path: Path) -> bool:
    """Returns whether a folder is that of a cross-validation."""
    return (path / STATE_FILE).is_file()


def read_state(path: Path) -> dict[str, Any]:
    """Returns the content of folds.json.

    Raises:
        RunError: The folder is not that of a cross-validation.
    """
    try:
        state: dict[str, Any] = read_validated(path / STATE_FILE)
        FoldConfig(**state["plan"])
    except (FileNotFoundError, TypeError) as error:
        raise RunError(
            f"{path} has no readable {STATE_FILE}, so it is not a cross-validation. "
            "Start one with: finetune train PHOTOS --folds 5"
        ) from error
    return state


def result_of(
    folder: RunFolder,
    config: FoldConfig,
    done: Sequence[Fold],
    *,
    pooled: Pooled | None = None,
    interrupted: bool = False,
) -> CrossValidation:
    """Returns the result of the finished folds."""
    return CrossValidation(
        folder=folder,
        config=config,
        folds=tuple(done),
        statistics=fold_statistics(done) if pooled else None,
        pooled=pooled.metrics if pooled else None,
        seconds=sum(fold.seconds for fold in done),
        interrupted=interrupted,
    )


def _run_folds(folder: RunFolder, callback: Callback) -> CrossValidation:
    state = read_state(folder.path)
    options = FoldConfig(**state["plan"])
    config = resolve(state["settings"])
    callback = without_repeated_notes(callback, keep=("Fold ",))
    done: list[Fold] = []
    runs = [RunFolder(folder.path / f"fold-{k}") for k in range(1, options.folds + 1)]
    for number, run in enumerate(runs, start=1):
        if not has_held_out(run):
            split = _fold_split(folder, config, options.folds, number, callback)
            trained = _train_or_resume(run, state["photos"], config, split, callback)
            if trained is None:
                return result_of(folder, options, done, interrupted=True)
            save_held_out(run, trained.logits["test"])
        if not options.keep_models:
            drop_weights(run)
        fold = fold_of_run(run, number)
        done.append(fold)
        score = f"{percent(fold.score)} {fold.task.score_name}"
        text = f"Fold {number} of {options.folds} done in {fold.seconds:.1f} s: {score} of "
        callback(Note(text=f"{text}{fold.photos:,} held-out photos."))
    pooled = pool(runs)
    result = result_of(folder, options, done, pooled=pooled)
    results = result.results()
    if options.final:
        split = final_splitter(read_folds(folder.path / FOLDS_FILE), config)
        if not _is_finished(folder):
            trained = _train_or_resume(folder, state["photos"], config, split, callback)
            if trained is None:
                return dataclasses.replace(result, interrupted=True)
        test = write_final(folder, pooled, done).get("test")
        write_model_card(folder)
        seconds = result.seconds + folder.read(folder.config_file)["seconds"]
        result = dataclasses.replace(result, test=test, seconds=seconds)
    else:
        write_pooled(folder, pooled)
    write_json(folder.path / STATE_FILE, state | {"finished": True} | results)
    return result


def _fold_split(
    folder: RunFolder, config: TrainConfig, folds: int, number: int, callback: Callback
) -> Splitter:
    """Returns the split of one fold; the first use assigns photos to folds and writes folds.csv."""

    def split(collection: Collection) -> DataSplit:
        file = folder.path / FOLDS_FILE
        if not file.is_file():
            rows, notes = assign_folds(collection, config, folds)
            for note in notes:
                callback(Note(text=note))
            write_folds(file, rows)
        return fold_splitter(read_folds(file), config, number)(collection)

    return split


def _train_or_resume(
    run: RunFolder, photos: str, config: TrainConfig, split: Splitter, callback: Callback
) -> RunResult | None:
    """Returns the result of a training, or None if it was interrupted at any point."""
    try:
        if run.config_file.is_file() and not _is_finished(run):
            result = resume(run.path, callback=callback, split=split)
        else:
            if not is_cross_validation(run.path):
                # A killed process may have left a run without a first checkpoint or a result.
                shutil.rmtree(run.path, ignore_errors=True)
            with storage_errors(run.path):
                run.path.mkdir(parents=True, exist_ok=True)
            result = train(photos, config, run=run, callback=callback, split=split)
    except KeyboardInterrupt:
        return None
    return None if result.interrupted else result


def _is_finished(run: RunFolder) -> bool:
    return run.config_file.is_file() and bool(run.read(run.config_file).get("finished"))

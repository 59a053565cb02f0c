"""Cross-validation: how right a training will be, from photos that are each held out once.

With few photos a single held-out part says little. Here each photo is answered by a network that
never saw it or anything nearly the same, and in no fold has the held-out part a say in anything:
the epoch is chosen and the calibration fitted on a share of the other folds.
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
    FoldFigures,
    Pooled,
    fold_figures,
    fold_of_run,
    has_held_out,
    keep_held_out,
    pool,
    write_final,
    write_pooled,
)
from finetune.experiments.folds import (
    FoldRow,
    draw_folds,
    final_splitter,
    fold_splitter,
    read_folds,
    write_folds,
)
from finetune.files import read_json, storage_errors, write_json
from finetune.models.registry import DEFAULT_MODEL
from finetune.photos.collection import Collection
from finetune.runs.folder import RUNS_FOLDER, RunFolder, create_run, drop_weights
from finetune.runs.model_card import write_model_card
from finetune.tasks.data_split import DataSplit
from finetune.training.device import require_one_process
from finetune.training.events import Callback, Note, ignore, without_repeated_notes
from finetune.training.prepare import Splitter
from finetune.training.resolve import resolve_network
from finetune.training.runner import RunResult
from finetune.training.train import resume, train

FOLDS_FILE = "folds.csv"


def cross_validate(
    photos: Path | str,
    config: TrainConfig | None = None,
    plan: FoldPlan | None = None,
    *,
    run: str | None = None,
    runs: Path = RUNS_FOLDER,
    callback: Callback = ignore,
) -> FoldStudy:
    """Trains once a fold and puts the answers to held-out photos together; then trains for use.

    Args:
        photos: As for `finetune.training.train.train`.
        config: Settings of every training; its share for a test is not used.
        plan: How many folds, and what becomes of them.
        run: Name of the run, or a path; None takes date, model and mode.
        runs: Where named runs go.
        callback: Called with what happens in every training.

    Raises:
        ConfigError: Fewer than 2 folds, more than there are groups of photos, or several processes.
        FinetuneError: As `train`.
    """
    require_one_process("--folds")
    plan = plan or FoldPlan()
    if plan.folds < 2:
        raise ConfigError(f"--folds {plan.folds} must be at least 2.")
    config = config or TrainConfig()
    decided, _ = resolve_network(config)
    name = f"{datetime.date.today():%Y-%m-%d}-{decided.model.model or DEFAULT_MODEL}-folds"
    folder = create_run(run, name, runs)
    study = {
        "photos": str(Path(photos).absolute()),
        "settings": to_dict(config),
        "plan": dataclasses.asdict(plan),
        "finished": False,
    }
    try:
        write_json(folder.path / STUDY_FILE, study)
        return _go_on(folder, callback)
    except Exception:
        # Photos or settings that could never have worked leave nothing behind.
        if not (folder.path / FOLDS_FILE).is_file():
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def resume_folds(path: Path, *, callback: Callback = ignore) -> FoldStudy:
    """Goes on with an interrupted cross-validation: folds that are done stay as they are.

    Raises:
        RunError: It is none, it is finished, or its photos have changed.
    """
    require_one_process("--folds")
    study = read_study(path)
    if study["finished"]:
        raise RunError(
            f"{path} is finished; there is nothing to resume. "
            "Begin anew with: finetune train PHOTOS --folds 5"
        )
    return _go_on(RunFolder(path), callback)


def _go_on(folder: RunFolder, callback: Callback) -> FoldStudy:
    stored = read_study(folder.path)
    plan = FoldPlan(**stored["plan"])
    config = resolve(stored["settings"])
    tell = without_repeated_notes(callback, keep=("Fold ",))
    done: list[Fold] = []
    for number in range(1, plan.folds + 1):
        run = RunFolder(folder.path / f"fold-{number}")
        if not has_held_out(run):
            split = _fold_split(folder, config, plan, number, tell)
            result = _train_or_resume(run, stored["photos"], config, split, tell)
            if result is None:
                return study_of(folder, plan, done, interrupted=True)
            keep_held_out(run, result.logits["test"])
        if not plan.keep_models:
            drop_weights(run)
        done.append(fold_of_run(run, number))
        tell(Note(text=_in_words(done[-1], plan)))
    pooled = pool([RunFolder(folder.path / f"fold-{fold.number}") for fold in done])
    study = study_of(folder, plan, done, pooled=pooled)
    figures = figures_of(study)
    if plan.final:
        split = final_splitter(read_folds(folder.path / FOLDS_FILE), config)
        if not _is_finished(folder):
            result = _train_or_resume(folder, stored["photos"], config, split, tell)
            if result is None:
                return dataclasses.replace(study, interrupted=True)
        test = write_final(folder, pooled, in_short(study)).get("test")
        write_model_card(folder)
        seconds = study.seconds + folder.read(folder.config_file)["seconds"]
        study = dataclasses.replace(study, test=test, seconds=seconds)
    else:
        write_pooled(folder, pooled)
    write_json(folder.path / STUDY_FILE, stored | {"finished": True} | figures)
    return study


def _fold_split(
    folder: RunFolder, config: TrainConfig, plan: FoldPlan, number: int, tell: Callback
) -> Splitter:
    """Returns the split of one fold; the first to be asked draws the folds and writes them down."""

    def split(collection: Collection) -> DataSplit:
        file = folder.path / FOLDS_FILE
        if file.is_file():
            rows: tuple[FoldRow, ...] = read_folds(file)
        else:
            rows, notes = draw_folds(collection, config, plan.folds)
            for note in notes:
                tell(Note(text=note))
            write_folds(file, rows)
        return fold_splitter(rows, config, number)(collection)

    return split


def _train_or_resume(
    run: RunFolder, photos: str, config: TrainConfig, split: Splitter, tell: Callback
) -> RunResult | None:
    """Returns what a training came to, or None where Ctrl-C stopped it, at whatever point."""
    try:
        result = _train(run, photos, config, split, tell)
    except KeyboardInterrupt:
        return None
    return None if result.interrupted else result


def _train(
    run: RunFolder, photos: str, config: TrainConfig, split: Splitter, tell: Callback
) -> RunResult:
    if run.config_file.is_file() and not _is_finished(run):
        return resume(run.path, callback=tell, split=split)
    if not is_fold_study(run.path):
        # What a kill left before the first step, or between the last one and the record.
        shutil.rmtree(run.path, ignore_errors=True)
    with storage_errors(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
    return train(photos, config, run=run, callback=tell, split=split)


def _is_finished(run: RunFolder) -> bool:
    return run.config_file.is_file() and bool(run.read(run.config_file).get("finished"))


def _in_words(fold: Fold, plan: FoldPlan) -> str:
    score = f"{fold.score:.1%}" + (" mAP" if fold.multi_label else "")
    return f"Fold {fold.number} of {plan.folds} done: {score} of {fold.photos:,} held out."


STUDY_FILE = "folds.json"
"""Beside the folds: the photos, settings and plan, and in the end the figures."""


@dataclass(frozen=True, kw_only=True)
class FoldPlan:
    """What a cross-validation does.

    Attributes:
        folds: In how many parts the photos are held out in turn.
        final: Whether a last network is trained, no photo put aside for a test, to be used.
        keep_models: Whether the networks of the folds are kept, beside their figures.
    """

    folds: int = 5
    final: bool = True
    keep_models: bool = False


@dataclass(frozen=True, kw_only=True)
class FoldStudy:
    """What a cross-validation came to.

    Attributes:
        folder: Holds everything; a run, once the final network is there.
        plan: What was asked for.
        folds: Those that are done, in order.
        figures: Mean, spread and interval of their scores; None before the last fold is done.
        pooled: Metrics of all held-out photos together, as `evaluate_logits` has them; None before
            the last fold is done.
        seconds: Of all trainings.
        test: The final network's metrics on the collection's own test folder, where it has one.
        interrupted: Whether it was stopped before it was done.
    """

    folder: RunFolder
    plan: FoldPlan
    folds: tuple[Fold, ...]
    figures: FoldFigures | None
    pooled: Mapping[str, Any] | None
    seconds: float
    test: Mapping[str, Any] | None
    interrupted: bool

    @property
    def multi_label(self) -> bool:
        """Whether a photo may have several labels; scores are then mean average precision."""
        return any(fold.multi_label for fold in self.folds)


def is_fold_study(path: Path) -> bool:
    """Returns whether a folder is that of a cross-validation."""
    return (path / STUDY_FILE).is_file()


def read_study(path: Path) -> dict[str, Any]:
    """Returns what is kept of a cross-validation.

    Raises:
        RunError: The folder is not that of one.
    """
    try:
        study: dict[str, Any] = read_json(path / STUDY_FILE)
        FoldPlan(**study["plan"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} has no readable {STUDY_FILE}: it is no cross-validation. "
            "Begin one with: finetune train PHOTOS --folds 5"
        ) from error
    return study


def study_of(
    folder: RunFolder,
    plan: FoldPlan,
    done: Sequence[Fold],
    *,
    pooled: Pooled | None = None,
    interrupted: bool = False,
) -> FoldStudy:
    """Returns what the folds that are done came to."""
    return FoldStudy(
        folder=folder,
        plan=plan,
        folds=tuple(done),
        figures=fold_figures(done) if pooled else None,
        pooled=pooled.metrics if pooled else None,
        seconds=sum(fold.seconds for fold in done),
        test=None,
        interrupted=interrupted,
    )


def figures_of(study: FoldStudy) -> dict[str, Any]:
    """Returns what folds.json keeps of the folds."""
    return {
        "folds": [dataclasses.asdict(fold) for fold in study.folds],
        "figures": dataclasses.asdict(study.figures) if study.figures else None,
    }


def in_short(study: FoldStudy) -> dict[str, Any]:
    """Returns what the final network's config.json keeps of the folds."""
    figures = dataclasses.asdict(study.figures) if study.figures else {}
    return {"count": study.plan.folds, "scores": [fold.score for fold in study.folds], **figures}


def to_json(study: FoldStudy) -> dict[str, Any]:
    """Returns a study as plain JSON values."""
    return {
        "run": str(study.folder.path),
        "plan": dataclasses.asdict(study.plan),
        **figures_of(study),
        "pooled": study.pooled,
        "test": study.test,
        "seconds": round(study.seconds, 3),
        "interrupted": study.interrupted,
    }

"""Cross-validation: how right a training will be, from photos that are each held out once.

With few photos a single held-out part says little. Here each photo is answered by a network that
never saw it or anything nearly the same, and in no fold has the held-out part a say in anything:
the epoch is chosen and the calibration fitted on a share of the other folds.
"""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from pathlib import Path

from finetune.config import TrainConfig
from finetune.config_io import resolve, to_dict
from finetune.errors import ConfigError, RunError
from finetune.experiments.cross_validation.results import (
    Fold,
    fold_of_run,
    has_held_out,
    keep_held_out,
    pool,
    write_final,
    write_pooled,
)
from finetune.experiments.cross_validation.split import (
    FoldRow,
    draw_folds,
    final_splitter,
    fold_splitter,
    read_folds,
    write_folds,
)
from finetune.experiments.cross_validation.study import (
    STUDY_FILE,
    FoldPlan,
    FoldStudy,
    figures_of,
    in_short,
    is_fold_study,
    read_study,
    study_of,
)
from finetune.experiments.say_once import say_once
from finetune.files import storage_errors, write_json
from finetune.models.registry import DEFAULT_MODEL
from finetune.photos.collection import Collection
from finetune.runs.folder import RUNS_FOLDER, RunFolder, create_run, drop_weights
from finetune.runs.model_card import write_model_card
from finetune.tasks.data_split import DataSplit
from finetune.training.device import require_one_process
from finetune.training.events import Callback, Note, ignore
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
    tell = say_once(callback, always=("Fold ",))
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

"""Hyperparameter search: trains many trials, prunes weak ones, and keeps the best settings.

All trials share one split and are compared on its validation photos. The test photos are held out
from every trial; they evaluate the final model, which is trained with the best settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune.config import Mode, TrainConfig
from finetune.config_io import settings_toml
from finetune.errors import (
    CollectionError,
    ConfigError,
    FinetuneError,
    MissingExtra,
    StorageError,
    WeightsUnavailable,
)
from finetune.evaluation.intervals import mcnemar
from finetune.experiments.tune.space import Space, config_of, space_for, suggest
from finetune.experiments.tune.study import (
    Trial,
    importances,
    open_study,
    ranked,
    reseed,
    trials_of,
    without_password,
)
from finetune.files import safe_name, storage_errors, write_json, write_text
from finetune.formatting import count, percent
from finetune.photos.collection import Collection
from finetune.runs.folder import RUNS_FOLDER, RunFolder, create_run, drop_weights
from finetune.runs.validation import read_validated
from finetune.tasks.base import Task
from finetune.tasks.data_split import DataSplit, split_collection
from finetune.tasks.factory import main_score, task_for
from finetune.training.device import require_one_process
from finetune.training.events import (
    Callback,
    EpochDone,
    Event,
    Note,
    ignore,
    without_repeated_notes,
)
from finetune.training.train import RunResult, train

if TYPE_CHECKING:
    import optuna


MAX_FIRST_FAILURES = 3
"""Failures without any success that end a search: the settings are not the cause."""

_FATAL = (CollectionError, ConfigError, MissingExtra, StorageError, WeightsUnavailable)


class _Pruned(Exception):  # noqa: N818 - it is no error
    """Raised in a training to prune its trial."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Configuration of a hyperparameter search.

    Attributes:
        study: Name of the study; None takes that of the photos' folder. An existing study
            continues.
        trials: Trials of the study in total, those of other processes included.
        timeout: Seconds after which no trial starts; None for no limit.
        fixed: Names of settings that are not searched.
        storage: An Optuna storage URL; None for a SQLite file in the study's folder.
        final: Whether to train a final model with the best settings and evaluate it on test.
        runs: Folder in which the study's folder is created.
    """

    study: str | None = None
    trials: int = 30
    timeout: float | None = None
    models: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = ()
    fixed: frozenset[str] = frozenset()
    storage: str | None = None
    final: bool = True
    runs: Path = RUNS_FOLDER


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """Result of a hyperparameter search so far.

    Attributes:
        folder: Folder of the study.
        storage: Its URL, without a password.
        best: The complete trials, best first.
        importances: Share of the scores' variance that each parameter explains, largest first.
        best_file: The best settings as TOML; None without a complete trial.
    """

    folder: Path
    study: optuna.Study
    storage: str
    trials: tuple[Trial, ...]
    best: tuple[Trial, ...]
    importances: Mapping[str, float]
    best_file: Path | None
    final: RunFolder | None
    final_metrics: Mapping[str, Any] | None
    task: Task
    interrupted: bool


def tune(
    photos: Path | str,
    config: TrainConfig | None = None,
    search: TuneConfig | None = None,
    *,
    callback: Callback = ignore,
) -> TuneResult:
    """Searches hyperparameters for the photos in a folder; continues a study of the same name.

    A trial below the median of the others at the same epoch is pruned. A trial's settings depend
    only on the seed and the trials before it, so one process reproduces its search.

    Args:
        photos: As for `finetune.training.train.train`.
        config: Settings that all trials share.
        search: Number of trials, search space and storage.
        callback: Receives the events of every training.

    Raises:
        MissingExtra: Optuna is not installed.
        ConfigError: The storage cannot be opened, or holds a study of other settings or photos.
        FinetuneError: As `train`, unless only a trial's settings are to blame.

    Example:
        >>> result = tune("photos", search=TuneConfig(trials=10))  # doctest: +SKIP
        >>> result.best[0].flags  # doctest: +SKIP
        {'model': 'mobilenetv2_100', 'mode': 'head', 'lr': 0.0012, ...}
    """
    require_one_process("finetune tune")
    search = search or TuneConfig()
    if search.trials < 1:
        raise ConfigError(f"--trials {search.trials} must be at least 1.")
    if search.timeout is not None and not search.timeout > 0:
        raise ConfigError(f"--timeout {search.timeout:g} must be greater than 0.")
    root = Path(photos)
    name = safe_name(search.study or root.resolve().name)
    folder = search.runs / f"tune-{name}"
    file = folder / "study.sqlite3"
    config = config or TrainConfig()
    # Trials of head and full network are compared on the same photos, and none sees the test part.
    config = dataclasses.replace(config, collection=config.collection.with_parts())
    space = space_for(config, models=search.models, modes=search.modes, fixed=search.fixed)
    if not root.is_dir():
        raise CollectionError(f"{root} is not a folder. Name the folder of your photos.")
    study = open_study(name, url=search.storage, file=file, space=space)
    callback = without_repeated_notes(callback, keep=("Trial ",))
    trials = _Trials(root=root, folder=folder, space=space, study=study, callback=callback)
    interrupted = trials.run(search.trials, search.timeout)
    best = ranked(trials_of(study))
    best_file = write_best(folder, space, name, best[0]) if best else None
    final = None
    if best and search.final and not interrupted:
        final = train_best(root, folder, space, best[0], callback=callback)
    return TuneResult(
        folder=folder,
        study=study,
        storage=without_password(search.storage or f"sqlite:///{file}"),
        trials=trials_of(study),
        best=tuple(best),
        importances=importances(study),
        best_file=best_file,
        final=final.run if final else None,
        final_metrics=final.metrics if final else None,
        task=task_for(space.base.labels),
        interrupted=interrupted or (final is not None and final.interrupted),
    )


def to_json(result: TuneResult) -> dict[str, Any]:
    """Returns the result of a search as JSON values."""
    return {
        "folder": str(result.folder),
        "study": result.study.study_name,
        "storage": result.storage,
        "trials": [dataclasses.asdict(trial) for trial in result.trials],
        "best": [trial.number for trial in result.best],
        "importances": dict(result.importances),
        "best_file": str(result.best_file) if result.best_file else None,
        "final": str(result.final.path) if result.final else None,
        "final_metrics": result.final_metrics,
        "multi_label": result.task.multi_label,
        "interrupted": result.interrupted,
    }


def describe_gain(result: TuneResult) -> str:
    """Returns a sentence on how far the best trial is ahead of the default settings.

    Empty if there is no complete trial of the default settings, or it is the best.

    Scores are shares of the validation photos, so that a difference is a number of photos; with
    several labels per photo it is none.
    """
    first = next((t for t in result.best if t.number == 0), None)
    if first is None or not result.best or result.best[0].number == 0:
        return ""
    best = result.best[0]
    if best.score is None or first.score is None or not first.photos or result.task.multi_label:
        return ""
    photos = round((best.score - first.score) * first.photos)
    if photos == 0:
        return (
            f"The default settings are right on as many of the {first.photos:,} validation photos."
        )
    # Not even if no photo got worse would the paired test find it.
    doubt = " That may be chance." if mcnemar(0, photos) >= 0.05 else ""
    return (
        f"The difference from the default settings is {count(photos, 'photo')} of "
        f"{first.photos:,}.{doubt}"
    )


def summarize(flags: Mapping[str, Any]) -> str:
    """Returns settings on one line: ``lr 0.003, batch size 32``."""
    shown = []
    for name, value in flags.items():
        if name == "weights" or value is None:
            continue
        if name == "model_arg":
            shown.append(summarize(value))
        elif name in ("model", "mode"):
            shown.append(str(value))
        else:
            shown.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(shown)


@dataclass(kw_only=True)
class _Trials:
    """Trials of one process; `best` is the highest score among them."""

    root: Path
    folder: Path
    space: Space
    study: optuna.Study
    callback: Callback
    best: float = field(default=-1.0)

    def run(self, trials: int, timeout: float | None) -> bool:
        """Runs trials until the study has enough or time is up; returns whether interrupted."""
        deadline = None if timeout is None else time.monotonic() + timeout
        ended = ("complete", "pruned", "failed")
        while sum(trial.state in ended for trial in trials_of(self.study)) < trials:
            if deadline is not None and time.monotonic() >= deadline:
                self.callback(Note(text=f"--timeout {timeout:g} has passed: no more trials."))
                break
            try:
                if self._run_trial():
                    return True
            except KeyboardInterrupt:
                return True
        return False

    def _run_trial(self) -> bool:
        """Runs one trial; returns whether it was interrupted."""
        # Parameters are sampled one by one below, by the sampler of the trial's own number.
        trial = self.study.ask()
        reseed(self.study, self.space.base.machine.seed, trial.number)
        run = RunFolder(self.folder / "trials" / f"{trial.number:04d}")
        started = time.monotonic()
        try:
            flags = suggest(self.space, trial)
            trial.set_user_attr("flags", flags)
            trial.set_user_attr("machine", socket.gethostname())
            result = self._train(trial, run, config_of(self.space, flags))
        except _Pruned:
            self._end(trial, "PRUNED", run, started)
        except _FATAL:
            self._discard(trial, run)
            raise
        except (FinetuneError, torch.OutOfMemoryError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            trial.set_user_attr("reason", reason)
            self._end(trial, "FAIL", run, started)
            states = [trial.state for trial in trials_of(self.study)]
            if states.count("failed") == len(states) >= MAX_FIRST_FAILURES:
                raise
        except BaseException:
            self._discard(trial, run)
            raise
        else:
            if result.interrupted:
                self._discard(trial, run)
                return True
            validation = result.metrics["validation"]
            trial.set_user_attr("log_loss", validation.get("log_loss"))
            trial.set_user_attr("photos", validation.get("photos"))
            self._end(trial, "COMPLETE", run, started, main_score(validation) or 0.0)
        return False

    def _train(self, trial: optuna.Trial, run: RunFolder, config: TrainConfig) -> RunResult:
        def callback(event: Event) -> None:
            self.callback(event)
            if isinstance(event, EpochDone):
                trial.report(event.validation_accuracy, event.epoch)
                if event.epoch < event.epochs and trial.should_prune():
                    raise _Pruned

        def split(collection: Collection) -> DataSplit:
            full_split = split_collection(
                collection, config.collection, seed=config.machine.seed, labels=config.labels
            )
            self._check_split(full_split)
            return dataclasses.replace(
                full_split,
                samples={**full_split.samples, "test": ()},
                rows=tuple(row for row in full_split.rows if row.part != "test"),
            )

        # A killed process may have left the folder.
        shutil.rmtree(run.path, ignore_errors=True)
        with storage_errors(run.path):
            run.path.mkdir(parents=True)
        return train(self.root, config, run=run, callback=callback, split=split)

    def _check_split(self, split: DataSplit) -> None:
        """Raises ConfigError if photos or split differ from those of the study's first trial."""
        lines = sorted(f"{row.digest} {row.part}" for row in split.rows)
        digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
        stored = self.study.user_attrs.get("split")
        if stored is None:
            self.study.set_user_attr("split", digest)
        elif stored != digest:
            raise ConfigError(
                f"The photos in {self.root} have changed since the study "
                f"'{self.study.study_name}' started, so its trials would not be comparable. "
                "Start another study with --study NAME."
            )

    def _end(
        self,
        trial: optuna.Trial,
        state: str,
        run: RunFolder,
        started: float,
        score: float | None = None,
    ) -> None:
        import optuna

        seconds = round(time.monotonic() - started, 3)
        trial.set_user_attr("seconds", seconds)
        drop_weights(run)
        self.study.tell(trial, score, state=optuna.trial.TrialState[state])
        if score is not None:
            mark = "  best so far" if score > self.best else ""
            self.best = max(self.best, score)
            text = f"{percent(score)} in {seconds:.1f} s{mark}."
        elif state == "PRUNED":
            text = f"stopped early after {seconds:.1f} s."
        else:
            text = f"failed. {trial.user_attrs['reason']}"
        settings = summarize(trial.user_attrs.get("flags", {}))
        self.callback(Note(text=f"Trial {trial.number}: {text}  {settings}"))

    def _discard(self, trial: optuna.Trial, run: RunFolder) -> None:
        """Discards a trial that ended for reasons other than its settings."""
        import optuna

        trial.set_user_attr("interrupted", True)
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        shutil.rmtree(run.path, ignore_errors=True)


BEST_FILE = "best.toml"
STATE_FILE = "tune.json"


@dataclass(frozen=True, kw_only=True)
class FinalModel:
    """Model trained with the best settings, and its metrics.json."""

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
        f"Best of the study '{name}': trial {best.number}, {percent(best.score)} on validation.\n"
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
    before = read_validated(state) if state.is_file() else {}
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

"""Searches the settings of a training: tries many, cuts short what falls behind, keeps the best.

All trials share one split, and are judged by its validation photos. The test part is set aside: no
trial sees it. It judges the final model, which trains with the best settings when the search ends.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune.config import Mode, TrainConfig
from finetune.errors import (
    CollectionError,
    ConfigError,
    FinetuneError,
    MissingExtra,
    StorageError,
    WeightsUnavailable,
)
from finetune.evaluation.task import main_score
from finetune.files import read_json, safe_name, storage_errors, write_json, write_text
from finetune.photos.collection import Collection
from finetune.runs.folder import RUNS_FOLDER, RunFolder, create_run
from finetune.runs.light import drop_weights
from finetune.runs.parts import Parts, split_collection
from finetune.runs.said_once import say_once
from finetune.runs.settings_toml import settings_toml
from finetune.runs.train import RunResult, Splitter, train
from finetune.runs.tune_space import Space, config_of, space_for, suggest
from finetune.runs.tune_study import (
    Trial,
    importances,
    open_study,
    ranked,
    reseed,
    trials_of,
    without_password,
)
from finetune.training.events import EpochDone, Event, Listener, Note, ignore
from finetune.training.machine import require_one_process

if TYPE_CHECKING:
    import optuna

BEST_FILE = "best.toml"
STATE_FILE = "tune.json"
FAILURES_AT_FIRST = 3
"""So many failures before anything worked end a search: the fault is not in the settings."""

_ENDS_THE_SEARCH = (CollectionError, ConfigError, MissingExtra, StorageError, WeightsUnavailable)


@dataclass(frozen=True, kw_only=True)
class TunePlan:
    """How long is searched, what among, and where it is kept.

    Attributes:
        study: Name of the search; None takes that of the photos' folder. One that exists goes on.
        trials: How many trainings the study is to hold in all, those of other processes included.
        timeout: No training begins after so many seconds; None: no limit.
        models: Networks to choose from; see `finetune.runs.tune_space.space_for`.
        modes: What may train.
        fixed: Names of settings that are not searched.
        storage: An Optuna storage URL; None takes a SQLite file in the study's folder.
        final: Whether the best settings train a model in the end, and the test part judges it.
        runs: Where the study's folder is.
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
class Tuned:
    """What a search has found so far.

    Attributes:
        folder: Of the study.
        study: Its name.
        storage: Its URL, without a password.
        trials: All, in the order in which they began.
        best: The complete trials, the best first.
        importances: Share of the scores' variance that each searched value explains, most first.
        best_file: The best settings as TOML; None without a complete trial.
        final: The run that trained with them; None where there is none.
        final_metrics: Its metrics.json.
        interrupted: Whether the search was stopped.
    """

    folder: Path
    study: str
    storage: str
    trials: tuple[Trial, ...]
    best: tuple[Trial, ...]
    importances: Mapping[str, float]
    best_file: Path | None
    final: RunFolder | None
    final_metrics: Mapping[str, Any] | None
    interrupted: bool


def tune(
    photos: Path | str,
    config: TrainConfig | None = None,
    plan: TunePlan | None = None,
    *,
    listen: Listener = ignore,
) -> Tuned:
    """Searches settings for the photos in a folder; goes on where the study of that name was.

    A trial that falls behind the median of the others at the same epoch is cut short. What a trial
    tries depends on the seed and the trials before it alone, so that one process finds the same
    again.

    Args:
        photos: As for `finetune.runs.train.train`.
        config: What all trainings share.
        plan: What is searched, and for how long.
        listen: Called with what happens in every training.

    Raises:
        MissingExtra: Optuna is not installed.
        ConfigError: The storage cannot be opened, or holds a study of other settings or photos.
        FinetuneError: As `train`, where it is no fault of a trial's settings.
    """
    require_one_process("finetune tune")
    plan = plan or TunePlan()
    _check(plan)
    root = Path(photos)
    name = safe_name(plan.study or root.resolve().name)
    folder = plan.runs / f"tune-{name}"
    space = space_for(
        config or TrainConfig(), models=plan.models, modes=plan.modes, fixed=plan.fixed
    )
    if not root.is_dir():
        raise CollectionError(f"{root} is not a folder, so there are no photos to tune for.")
    study = open_study(name, url=plan.storage, file=folder / "study.sqlite3", space=space)
    search = _Search(
        root=root,
        folder=folder,
        space=space,
        study=study,
        tell=say_once(listen, always=("Trial ",)),
    )
    interrupted = search.go(plan)
    best = ranked(trials_of(study))
    best_file = _write_best(folder, space, name, best[0]) if best else None
    final = metrics = None
    if best and plan.final and not interrupted:
        final, metrics, interrupted = search.final(best[0], plan.runs / f"tune-{name}-best")
    return Tuned(
        folder=folder,
        study=name,
        storage=without_password(plan.storage or f"sqlite:///{folder / 'study.sqlite3'}"),
        trials=trials_of(study),
        best=tuple(best),
        importances=importances(study),
        best_file=best_file,
        final=final,
        final_metrics=metrics,
        interrupted=interrupted,
    )


def to_json(tuned: Tuned) -> dict[str, Any]:
    """Returns a search as plain JSON values."""
    plain = dataclasses.asdict(tuned)
    return plain | {
        "folder": str(tuned.folder),
        "best": [trial.number for trial in tuned.best],
        "best_file": str(tuned.best_file) if tuned.best_file else None,
        "final": str(tuned.final.path) if tuned.final else None,
    }


class _Pruned(Exception):  # noqa: N818 - it is no error
    """A trial is cut short."""


@dataclass
class _Search:
    """The trials of one process."""

    root: Path
    folder: Path
    space: Space
    study: optuna.Study
    tell: Listener
    best: float = field(default=-1.0)

    def go(self, plan: TunePlan) -> bool:
        """Tries until there are trials enough or the time is up; returns whether it was stopped."""
        deadline = None if plan.timeout is None else time.monotonic() + plan.timeout
        while _done(self.study) < plan.trials:
            if deadline is not None and time.monotonic() >= deadline:
                self.tell(Note(text=f"The time is up ({plan.timeout:g} s): no more trials."))
                break
            try:
                if self._try():
                    return True
            except KeyboardInterrupt:
                return True
        return False

    def final(
        self, best: Trial, path: Path
    ) -> tuple[RunFolder | None, Mapping[str, Any] | None, bool]:
        """Trains with the best settings, test part and all; returns the run and its metrics."""
        state = self.folder / STATE_FILE
        before = read_json(state) if state.is_file() else {}
        kept = RunFolder(Path(before.get("run", "")))
        if before.get("trial") == best.number and kept.model_file.is_file():
            return kept, kept.read(kept.metrics_file), False
        self.tell(
            Note(
                text=f"Trial {best.number} was best on validation. The final model trains with "
                "its settings."
            )
        )
        run = create_run(None, path.name, path.parent)
        try:
            result = train(self.root, config_of(self.space, best.flags), run=run, listen=self.tell)
        except BaseException:
            if not run.config_file.is_file():
                shutil.rmtree(run.path, ignore_errors=True)
            raise
        if not result.interrupted:
            write_json(state, {"trial": best.number, "run": str(run.path)})
        return run, result.metrics, result.interrupted

    def _try(self) -> bool:
        """Trains once and tells the study; returns whether a person asked to stop."""
        # Drawn one by one below, so that the sampler can be that of the trial's own number.
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
        except _ENDS_THE_SEARCH:
            self._abandon(trial, run)
            raise
        except (FinetuneError, torch.OutOfMemoryError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            trial.set_user_attr("reason", reason)
            self._end(trial, "FAIL", run, started)
            if self._nothing_works():
                raise
        except BaseException:
            self._abandon(trial, run)
            raise
        else:
            if result.interrupted:
                self._abandon(trial, run)
                return True
            validation = result.metrics["validation"]
            trial.set_user_attr("log_loss", validation.get("log_loss"))
            self._end(trial, "COMPLETE", run, started, main_score(validation) or 0.0)
        return False

    def _train(self, trial: optuna.Trial, run: RunFolder, config: TrainConfig) -> RunResult:
        def listen(event: Event) -> None:
            self.tell(event)
            if isinstance(event, EpochDone):
                trial.report(event.validation_accuracy, event.epoch)
                if event.epoch < event.epochs and trial.should_prune():
                    raise _Pruned

        # Left by a process that was killed.
        shutil.rmtree(run.path, ignore_errors=True)
        with storage_errors(run.path):
            run.path.mkdir(parents=True)
        return train(
            self.root, config, run=run, listen=listen, split=_without_test(config, self._same_split)
        )

    def _same_split(self, parts: Parts) -> None:
        """Refuses photos or a split that differ from those that the study began with."""
        lines = sorted(f"{row.digest} {row.part}" for row in parts.rows)
        digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
        begun_with = self.study.user_attrs.get("split")
        if begun_with is None:
            self.study.set_user_attr("split", digest)
        elif begun_with != digest:
            raise ConfigError(
                f"The study '{self.study.study_name}' was begun with other photos in {self.root}, "
                "and its trials would not compare. Begin another with --study NAME."
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
        self.tell(Note(text=self._in_words(trial, state, score, seconds)))

    def _abandon(self, trial: optuna.Trial, run: RunFolder) -> None:
        """Takes back a trial that was stopped from outside: it says nothing of its settings."""
        import optuna

        trial.set_user_attr("interrupted", True)
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        shutil.rmtree(run.path, ignore_errors=True)

    def _in_words(
        self, trial: optuna.Trial, state: str, score: float | None, seconds: float
    ) -> str:
        what = in_short(trial.user_attrs.get("flags", {}))
        if state == "FAIL":
            return f"Trial {trial.number}: failed. {trial.user_attrs['reason']}  {what}"
        if state == "PRUNED":
            return f"Trial {trial.number}: cut short after {seconds:.1f} s.  {what}"
        better = (score or 0.0) > self.best
        self.best = max(self.best, score or 0.0)
        mark = "  best so far" if better else ""
        return f"Trial {trial.number}: {score:.1%} in {seconds:.1f} s{mark}.  {what}"

    def _nothing_works(self) -> bool:
        trials = trials_of(self.study)
        failed = sum(trial.state == "failed" for trial in trials)
        return failed >= FAILURES_AT_FIRST and failed == len(trials)


def in_short(flags: Mapping[str, Any]) -> str:
    """Returns settings on one line: ``lr 0.003, batch size 32``."""
    shown = []
    for name, value in flags.items():
        if name == "weights" or value is None:
            continue
        if name == "model_arg":
            shown.append(in_short(value))
        elif name in ("model", "mode"):
            shown.append(str(value))
        else:
            shown.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(shown)


def _without_test(config: TrainConfig, check: Callable[[Parts], None]) -> Splitter:
    """Returns the usual split with its test part set aside."""

    def split(collection: Collection) -> Parts:
        parts = split_collection(
            collection, config.collection, seed=config.machine.seed, labels=config.labels
        )
        check(parts)
        return dataclasses.replace(
            parts,
            samples={**parts.samples, "test": ()},
            rows=tuple(row for row in parts.rows if row.part != "test"),
        )

    return split


def _done(study: optuna.Study) -> int:
    return sum(trial.state in ("complete", "pruned", "failed") for trial in trials_of(study))


def _write_best(folder: Path, space: Space, name: str, best: Trial) -> Path:
    config = config_of(space, best.flags)
    config = dataclasses.replace(config, model=_with_absolute_weights(config))
    comment = (
        f"Best of the study '{name}': trial {best.number}, {best.score:.1%} on validation.\n"
        f"Train with it: finetune train PHOTOS --config {BEST_FILE}"
    )
    text = settings_toml(config, always={*best.flags, "seed"}, comment=comment)
    return write_text(folder / BEST_FILE, text)


def _with_absolute_weights(config: TrainConfig) -> Any:
    weights = config.model.weights
    if weights is None or not Path(weights).is_file():
        return config.model
    return dataclasses.replace(config.model, weights=str(Path(weights).absolute()))


def _check(plan: TunePlan) -> None:
    if plan.trials < 1:
        raise ConfigError(f"--trials {plan.trials} must be at least 1.")
    if plan.timeout is not None and not plan.timeout > 0:
        raise ConfigError(f"--timeout {plan.timeout:g} must be greater than 0.")

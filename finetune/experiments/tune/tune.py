"""Searches the settings of a training: tries many, cuts short what falls behind, keeps the best.

All trials share one split, and are judged by its validation photos. The test part is set aside: no
trial sees it. It judges the final model, which trains with the best settings when the search ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import Mode, TrainConfig
from finetune.errors import CollectionError, ConfigError
from finetune.experiments.say_once import say_once
from finetune.experiments.tune.best import train_best, write_best
from finetune.experiments.tune.space import space_for
from finetune.experiments.tune.study import (
    Trial,
    importances,
    open_study,
    ranked,
    trials_of,
    without_password,
)
from finetune.experiments.tune.trials import Search
from finetune.files import safe_name
from finetune.runs.folder import RUNS_FOLDER, RunFolder
from finetune.training.device import require_one_process
from finetune.training.events import Callback, ignore


@dataclass(frozen=True, kw_only=True)
class TunePlan:
    """How long is searched, what among, and where it is kept.

    Attributes:
        study: Name of the search; None takes that of the photos' folder. One that exists goes on.
        trials: How many trainings the study is to hold in all, those of other processes included.
        timeout: No training begins after so many seconds; None: no limit.
        models: Networks to choose from; see `finetune.experiments.tune.space.space_for`.
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
        multi_label: Whether photos may have several labels: scores are mean average precision then.
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
    multi_label: bool
    interrupted: bool


def tune(
    photos: Path | str,
    config: TrainConfig | None = None,
    plan: TunePlan | None = None,
    *,
    callback: Callback = ignore,
) -> Tuned:
    """Searches settings for the photos in a folder; goes on where the study of that name was.

    A trial that falls behind the median of the others at the same epoch is cut short. What a trial
    tries depends on the seed and the trials before it alone, so that one process finds the same
    again.

    Args:
        photos: As for `finetune.training.train.train`.
        config: What all trainings share.
        plan: What is searched, and for how long.
        callback: Called with what happens in every training.

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
    tell = say_once(callback, always=("Trial ",))
    search = Search(root=root, folder=folder, space=space, study=study, tell=tell)
    interrupted = search.go(plan.trials, plan.timeout)
    best = ranked(trials_of(study))
    best_file = write_best(folder, space, name, best[0]) if best else None
    final = None
    if best and plan.final and not interrupted:
        final = train_best(root, folder, space, best[0], tell=tell)
    return Tuned(
        folder=folder,
        study=name,
        storage=without_password(plan.storage or f"sqlite:///{folder / 'study.sqlite3'}"),
        trials=trials_of(study),
        best=tuple(best),
        importances=importances(study),
        best_file=best_file,
        final=final.run if final else None,
        final_metrics=final.metrics if final else None,
        multi_label=space.base.labels.multi_label,
        interrupted=interrupted or (final is not None and final.interrupted),
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


def _check(plan: TunePlan) -> None:
    if plan.trials < 1:
        raise ConfigError(f"--trials {plan.trials} must be at least 1.")
    if plan.timeout is not None and not plan.timeout > 0:
        raise ConfigError(f"--timeout {plan.timeout:g} must be greater than 0.")

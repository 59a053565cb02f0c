"""The study that a search writes to: Optuna's, in a file of its own or wherever an URL leads."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from finetune.errors import ConfigError, MissingExtra
from finetune.experiments.tune.search_space import usual_values
from finetune.experiments.tune.space import Space
from finetune.files import storage_errors, user_cache_folder

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 8
"""Trials by chance before the sampler learns from them; the first of them is the usual settings."""

PRUNE_FROM_TRIAL = 4
"""No trial is cut short before so many are done."""

PRUNE_FROM_EPOCH = 3
"""Nor before this epoch."""

_WAIT_SECONDS = 120
_ATTEMPTS = 6


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a search, as the study knows it.

    Attributes:
        number: From 0; 0 is the usual settings.
        state: ``complete``, ``pruned`` (cut short), ``failed`` or ``running``.
        score: Share of right validation photos at the best epoch (of several labels a photo: mAP);
            None where there is none.
        log_loss: On validation, in nats; None unless complete.
        flags: The settings that were chosen, by the names that `resolve` takes.
        values: What the sampler chose, by the study's names.
        curve: Validation score by epoch.
        seconds: Of the training; None where it was not told.
        reason: Why it failed.
    """

    number: int
    state: str
    score: float | None
    log_loss: float | None
    flags: Mapping[str, Any]
    values: Mapping[str, Any]
    curve: Mapping[int, float]
    seconds: float | None
    reason: str | None


def open_study(name: str, *, url: str | None, file: Path, space: Space) -> optuna.Study:
    """Returns the study called `name`, begun now or earlier, here or on another machine.

    Args:
        name: Name of the study.
        url: An Optuna storage URL (``sqlite:///``, ``mysql://``, ``postgresql://`` ...), or None.
        file: The SQLite file that is used without a URL.
        space: What is searched; a study that exists must have been begun with the same.

    Raises:
        ConfigError: The storage cannot be opened, or the study was begun with other settings.
        MissingExtra: Optuna is not installed.
    """
    import_optuna().logging.set_verbosity(import_optuna().logging.WARNING)
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    wanted = url or f"sqlite:///{file.absolute()}"
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(wanted)
    try:
        with lock:
            study = _begin(name, wanted)
            begun_with = study.user_attrs.get("space")
            if begun_with is None:
                study.set_user_attr("space", space.to_dict())
                study.enqueue_trial(usual_values(space))
    except ImportError as error:
        raise ConfigError(
            f"--storage {without_password(wanted)}: the package {error.name!r} is missing; "
            "install the driver of that database with pip."
        ) from error
    except (optuna.exceptions.OptunaError, ValueError, SQLAlchemyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"--storage {without_password(wanted)} cannot be opened: {reason}"
        ) from error
    _check_same(name, begun_with, space)
    return study


def _lock(url: str) -> FileLock:
    """Returns this machine's lock of a storage, wherever the studies' folders are."""
    folder = user_cache_folder() / "studies"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    return FileLock(folder / f"{name}.lock", timeout=_WAIT_SECONDS)


def _begin(name: str, url: str) -> optuna.Study:
    """Makes or opens a study; tries again where another process is making its tables as well."""
    import optuna
    from sqlalchemy.exc import DBAPIError

    for attempt in range(_ATTEMPTS):
        try:
            return optuna.create_study(
                study_name=name,
                storage=_storage(url),
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=PRUNE_FROM_TRIAL, n_warmup_steps=PRUNE_FROM_EPOCH
                ),
            )
        except DBAPIError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.5 * (attempt + 1))
    raise AssertionError


def reseed(study: optuna.Study, seed: int, number: int) -> None:
    """Gives a study the sampler of one trial.

    What a trial tries depends on the seed, its number and the trials before it: a search that was
    interrupted goes on as if it had not been, and two processes never draw the same.
    """
    optuna = import_optuna()
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest()
    study.sampler = optuna.samplers.TPESampler(
        seed=int.from_bytes(digest, "big"), n_startup_trials=STARTUP_TRIALS, multivariate=False
    )


def trials_of(study: optuna.Study) -> tuple[Trial, ...]:
    """Returns all trials of a study in the order in which they began; those queued left out."""
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
    return tuple(
        Trial(
            number=trial.number,
            state=states[trial.state.name],
            score=_score(trial),
            log_loss=trial.user_attrs.get("log_loss"),
            flags=trial.user_attrs.get("flags", {}),
            values=trial.params,
            curve=dict(trial.intermediate_values),
            seconds=trial.user_attrs.get("seconds"),
            reason=trial.user_attrs.get("reason"),
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in states and not trial.user_attrs.get("interrupted")
    )


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the complete trials, the best first: by score, then log loss, then who was first."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.score is not None]
    return sorted(
        complete,
        key=lambda trial: (
            -(trial.score or 0.0),
            float("inf") if trial.log_loss is None else trial.log_loss,
            trial.number,
        ),
    )


def importances(study: optuna.Study) -> dict[str, float]:
    """Returns how much of the scores' variance each searched value explains, most first.

    Functional ANOVA on a random forest (Hutter, Hoos & Leyton-Brown 2014, "An Efficient Approach
    for Assessing Hyperparameter Importance"), over the values that all complete trials have. Empty
    where there are fewer than four such trials, or all scores are the same.
    """
    optuna = import_optuna()
    complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if len(complete) < 4 or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def without_password(url: str) -> str:
    """Returns a storage URL as it may be shown.

    Example:
        >>> without_password("mysql://me:secret@host/db")
        'mysql://me:***@host/db'
    """
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)


def import_optuna() -> Any:
    """Returns the package; raises MissingExtra where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("optuna", "tune", "A search of settings") from error
    return optuna


def _storage(url: str) -> Any:
    optuna = import_optuna()
    if not url.startswith("sqlite"):
        return url
    # SQLite takes one writer at a time; the others wait their turn.
    return optuna.storages.RDBStorage(
        url, engine_kwargs={"connect_args": {"timeout": _WAIT_SECONDS}}
    )


def _check_same(name: str, begun_with: Mapping[str, Any] | None, space: Space) -> None:
    now = json.loads(json.dumps(space.to_dict()))
    if begun_with is None or begun_with == now:
        return
    differing = sorted(_differences(begun_with, now))
    raise ConfigError(
        f"The study '{name}' was begun with other settings ({', '.join(differing[:5])}), and its "
        "trials would not compare. Give the same ones, or begin another with --study NAME."
    )


def _differences(one: Any, two: Any, path: str = "") -> set[str]:
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        found = set()
        for key in {*one, *two}:
            found |= _differences(one.get(key), two.get(key), key)
        return found
    return set() if one == two else {path}


def _score(trial: Any) -> float | None:
    if trial.state.name == "COMPLETE":
        return float(trial.value)
    return max(trial.intermediate_values.values(), default=None)

"""Optuna study of a search: opening it, its trials, and their ranking."""

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
from finetune.experiments.tune.space import Space, default_params
from finetune.files import storage_errors, user_cache_folder

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 8
"""Random trials before the sampler learns from them; the first has the default settings."""

PRUNE_FROM_TRIAL = 4
"""Finished trials before any is pruned."""

PRUNE_FROM_EPOCH = 3
"""Epochs of a trial before it can be pruned."""

IMPORTANCE_TRIALS = 20
"""Complete trials below which importances would be chance."""

_LOCK_SECONDS = 120
_ATTEMPTS = 6


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a search.

    Attributes:
        number: From 0; trial 0 has the default settings.
        state: ``complete``, ``pruned``, ``failed`` or ``running``.
        score: Top-1 accuracy on validation at the best epoch (multi-label: mAP), if any.
        log_loss: On validation, in nats; None unless complete.
        flags: The chosen settings, as the flags that `resolve` takes.
        values: The sampled parameters, by their names in the study.
        curve: Validation score by epoch.
        photos: Validation photos of the score; None in studies of earlier versions.
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
    photos: int | None = None


def open_study(name: str, *, url: str | None, file: Path, space: Space) -> optuna.Study:
    """Returns the study called `name`, created if there is none.

    Args:
        name: Name of the study.
        url: An Optuna storage URL (``sqlite:///``, ``mysql://``, ``postgresql://`` ...), or None.
        file: The SQLite file that is used without a URL.
        space: Search space; an existing study must have the same.

    Raises:
        ConfigError: The storage cannot be opened, or the study has another search space.
        MissingExtra: Optuna is not installed.
    """
    import_optuna().logging.set_verbosity(import_optuna().logging.WARNING)
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    storage = url or f"sqlite:///{file.absolute()}"
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(storage):
            study = _create_or_load(name, storage)
            stored = study.user_attrs.get("space")
            if stored is None:
                study.set_user_attr("space", space.to_dict())
                study.enqueue_trial(default_params(space))
    except ImportError as error:
        raise ConfigError(
            f"--storage {without_password(storage)}: the package {error.name!r} is missing; "
            "install the driver of that database with pip."
        ) from error
    except (optuna.exceptions.OptunaError, ValueError, SQLAlchemyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"--storage {without_password(storage)} cannot be opened: {reason}"
        ) from error
    current = json.loads(json.dumps(space.to_dict()))
    if stored is not None and stored != current:
        differing = sorted(_differences(stored, current))
        raise ConfigError(
            f"The study '{name}' has other settings ({', '.join(differing[:5])}), so its trials "
            "would not be comparable. Use the same settings, or start another study with "
            "--study NAME."
        )
    return study


def _lock(url: str) -> FileLock:
    """Returns this machine's lock of a storage, the same for all folders."""
    folder = user_cache_folder() / "studies"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    return FileLock(folder / f"{name}.lock", timeout=_LOCK_SECONDS)


def _create_or_load(name: str, url: str) -> optuna.Study:
    """Creates or loads a study; retries while another machine creates the tables."""
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


def _storage(url: str) -> Any:
    if not url.startswith("sqlite"):
        return url
    # SQLite allows one writer at a time; the others wait.
    connect = {"timeout": _LOCK_SECONDS}
    return import_optuna().storages.RDBStorage(url, engine_kwargs={"connect_args": connect})


def _differences(one: Any, two: Any, path: str = "") -> set[str]:
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        found = set()
        for key in {*one, *two}:
            found |= _differences(one.get(key), two.get(key), key)
        return found
    return set() if one == two else {path}


def reseed(study: optuna.Study, seed: int, number: int) -> None:
    """Gives a study the sampler of one trial.

    A trial's parameters depend on the seed, its number and the trials before it: an interrupted
    search continues as if it had not stopped, and two processes never sample the same.
    """
    optuna = import_optuna()
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest()
    study.sampler = optuna.samplers.TPESampler(
        seed=int.from_bytes(digest, "big"), n_startup_trials=STARTUP_TRIALS, multivariate=False
    )


def trials_of(study: optuna.Study) -> tuple[Trial, ...]:
    """Returns the trials of a study by number, without queued and interrupted ones."""
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
    return tuple(
        Trial(
            number=trial.number,
            state=states[trial.state.name],
            score=trial.value
            if trial.state.name == "COMPLETE"
            else max(trial.intermediate_values.values(), default=None),
            log_loss=trial.user_attrs.get("log_loss"),
            flags=trial.user_attrs.get("flags", {}),
            values=trial.params,
            curve=dict(trial.intermediate_values),
            seconds=trial.user_attrs.get("seconds"),
            reason=trial.user_attrs.get("reason"),
            photos=trial.user_attrs.get("photos"),
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in states and not trial.user_attrs.get("interrupted")
    )


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the complete trials, best first: by score, then log loss, then number."""
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
    """Returns the share of the scores' variance that each parameter explains, largest first.

    Functional ANOVA on a random forest (Hutter, Hoos & Leyton-Brown 2014, "An Efficient Approach
    for Assessing Hyperparameter Importance"), over the parameters that all complete trials have.
    Empty for fewer than `IMPORTANCE_TRIALS` such trials, or if all scores are equal.
    """
    optuna = import_optuna()
    complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if len(complete) < IMPORTANCE_TRIALS or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def without_password(url: str) -> str:
    """Returns a storage URL with its password masked.

    Example:
        >>> without_password("mysql://me:secret@host/db")
        'mysql://me:***@host/db'
    """
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)


def import_optuna() -> Any:
    """Returns the package; raises MissingExtra if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("optuna", "tune", "A hyperparameter search") from error
    return optuna

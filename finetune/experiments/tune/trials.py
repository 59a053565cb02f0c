"""The trials of a search: each one a training that is judged, cut short, or found impossible."""

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

from finetune.config import TrainConfig
from finetune.errors import (
    CollectionError,
    ConfigError,
    FinetuneError,
    MissingExtra,
    StorageError,
    WeightsUnavailable,
)
from finetune.experiments.tune.search_space import suggest
from finetune.experiments.tune.space import Space, config_of
from finetune.experiments.tune.study import reseed, trials_of
from finetune.files import storage_errors
from finetune.photos.collection import Collection
from finetune.runs.folder import RunFolder, drop_weights
from finetune.tasks.data_split import DataSplit, split_collection
from finetune.tasks.task import main_score
from finetune.training.events import Callback, EpochDone, Event, Note
from finetune.training.prepare import Splitter
from finetune.training.runner import RunResult
from finetune.training.train import train

if TYPE_CHECKING:
    import optuna

FAILURES_AT_FIRST = 3
"""So many failures before anything worked end a search: the fault is not in the settings."""

_ENDS_THE_SEARCH = (CollectionError, ConfigError, MissingExtra, StorageError, WeightsUnavailable)


class _Pruned(Exception):  # noqa: N818 - it is no error
    """A trial is cut short."""


@dataclass
class Search:
    """The trials of one process.

    Attributes:
        root: The photos.
        folder: Of the study; the trials' runs are in it.
        space: What is searched.
        study: Told what came out.
        tell: Told what happens.
        best: The best score that this process has seen.
    """

    root: Path
    folder: Path
    space: Space
    study: optuna.Study
    tell: Callback
    best: float = field(default=-1.0)

    def go(self, trials: int, timeout: float | None) -> bool:
        """Tries until the study holds so many trials, or so many seconds are over.

        Returns:
            Whether a person stopped it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while _done(self.study) < trials:
            if deadline is not None and time.monotonic() >= deadline:
                self.tell(Note(text=f"The time is up ({timeout:g} s): no more trials."))
                break
            try:
                if self._try():
                    return True
            except KeyboardInterrupt:
                return True
        return False

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
        def callback(event: Event) -> None:
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
            self.root,
            config,
            run=run,
            callback=callback,
            split=_without_test(config, self._same_split),
        )

    def _same_split(self, parts: DataSplit) -> None:
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


def _without_test(config: TrainConfig, check: Callable[[DataSplit], None]) -> Splitter:
    """Returns the usual split with its test part set aside."""

    def split(collection: Collection) -> DataSplit:
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

"""Search for the backbone whose features suit a collection: ``--model auto``.

No backbone is best everywhere, and a short search on the photos themselves beats advice (VIBES,
arXiv 2410.08592). Every candidate gets a head on cached features, evaluated on the same held-out
photos.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from finetune.config import AugmentationConfig, OptimizationConfig, TrainConfig, TrainingConfig
from finetune.errors import ConfigError, ModelError
from finetune.evaluation.intervals import Interval, cross_validated_interval, wilson
from finetune.files import write_json
from finetune.formatting import count, seconds_of
from finetune.models import weights as weights_files
from finetune.models.features import FeatureCache
from finetune.models.packaged import PACKAGED, packaged_weights
from finetune.models.pair import SIGN
from finetune.models.registry import DEFAULT_MODEL, check_name, resolve_preprocessing
from finetune.runs.folder import RunFolder
from finetune.runs.model_card import write_model_card
from finetune.tasks.data_split import DataSplit
from finetune.training.device import make_accelerator, require_one_process
from finetune.training.events import Callback, Event, Note, Progressed, ignore
from finetune.training.linear_probe.features import (
    FitInterruptedError,
    feature_cache,
    fill_features,
)
from finetune.training.linear_probe.heads import fit_head, head_fitter, strengths_of
from finetune.training.prepare import Overrides, prepare
from finetune.training.prepared import Prepared
from finetune.training.train import RunResult, train
from finetune.training.validation import calibrated_losses

DEFAULT_BUDGET = 300.0
"""Seconds that a search may take."""

LARGER = 1.25
"""Factor of the larger input size; a larger one at test time suits features of objects that
training crops had enlarged (Touvron et al. 2019, arXiv 1906.06423)."""

REFINED = 2
"""Best models that are tried at the larger size, and the partners of a pair with the best."""

TIMED_PHOTOS = 8


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Backbone that was tried, or why it was not.

    Attributes:
        model: Model name, or two with a plus sign.
        size: Side of the input in pixels.
        accuracy: Share of held-out photos that are right, or the task's score of several labels.
        interval: Its 95 % interval; None with several labels.
        log_loss: Calibrated, in nats.
        milliseconds: Of the network for one photo, on this machine.
        megabytes: Of the network in float32.
        skipped: Reason that it was not tried; the figures are then None.
    """

    model: str
    size: int
    accuracy: float | None = None
    interval: Interval | None = None
    log_loss: float | None = None
    milliseconds: float | None = None
    megabytes: float | None = None
    skipped: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSearch:
    """Result of a search.

    Attributes:
        config: The settings with the chosen model and size.
        candidates: All that were considered, in the order in which they were tried.
        chosen: Index of the chosen one.
        best: Index of the one with the lowest log loss.
        photos: Number of held-out photos.
    """

    config: TrainConfig
    candidates: tuple[Candidate, ...]
    chosen: int
    best: int
    photos: int

    def describe(self) -> str:
        """Returns the choice and its reason, in a sentence."""
        winner, best = self.candidates[self.chosen], self.candidates[self.best]
        named = f"Model {winner.model} at {winner.size} pixels"
        tried = sum(candidate.skipped is None for candidate in self.candidates)
        on = f"of {count(tried, 'model')} on {count(self.photos, 'held-out photo')}"
        if winner is best:
            return f"{named}: the lowest log loss ({best.log_loss:.3f}) {on}."
        rank = "the default" if winner.model == DEFAULT_MODEL else "the fastest"
        return (
            f"{named}: {rank} {on} whose log loss ({winner.log_loss:.3f}) is within one "
            f"standard error of the lowest ({best.log_loss:.3f}, {best.model})."
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the content of model_search.json."""
        return {
            "photos": self.photos,
            "chosen": self.chosen,
            "best": self.best,
            "candidates": [dataclasses.asdict(candidate) for candidate in self.candidates],
        }

    def write(self, run: RunFolder) -> None:
        """Adds the search to a run: model_search.json, a note, and a line of its model card.

        Raises:
            StorageError: A file could not be written.
        """
        write_json(run.model_search_file, self.to_json())
        description = run.read(run.config_file)
        description["notes"] = [self.describe(), *description.get("notes", [])]
        write_json(run.config_file, description)
        write_model_card(run)


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """Candidate with the losses ``(N,)`` of the held-out photos, and their groups ``(N,)``."""

    candidate: Candidate
    losses: NDArray[np.float64]
    groups: NDArray[np.int64]


def search_models(
    photos: Path,
    config: TrainConfig,
    *,
    models: Sequence[str] | None = None,
    callback: Callback = ignore,
) -> ModelSearch:
    """Returns the default backbone or the fastest within one standard error of the best.

    Tried are all models whose weights are on this machine, then the best two with a larger input,
    then pairs of the best with the next two, until `config.model.budget` is used up. Only the
    collection's caches are written, which the training uses.

    Args:
        photos: As for `finetune.train`.
        config: Settings of the training; its model is replaced.
        models: Model names; None: those of `models_here`.
        callback: Receives progress and notes.

    Raises:
        ConfigError: Settings that contradict a search.
        FinetuneError: Photos or weights do not allow a training.
    """
    require_one_process("--model auto")
    if config.model.weights is not None:
        raise ConfigError(
            "--model auto uses the weights of each model; leave --weights out, or name a folder of "
            "files with --weights-dir."
        )
    names = list(models or models_here(config.model.weights_dir))
    # The packaged default comes first: with any budget there is a result.
    names.sort(key=lambda name: (name != DEFAULT_MODEL, name))
    search = _Search(photos, config, callback)
    for name in names:
        search.attempt(name, config.pixels.size or resolve_preprocessing(check_name(name)).size)
    ranked = search.ranked()
    if not ranked:
        reasons = "; ".join(f"{c.model}: {c.skipped}" for c in search.candidates)
        raise ModelError(f"--model auto: no model could be tried ({reasons}).")
    if config.pixels.size is None:
        for tried in ranked[:REFINED]:
            search.attempt(tried.candidate.model, _larger(tried.candidate.size), optional=True)
    ranked = search.ranked()
    singles: dict[str, _Tried] = {}
    for tried in ranked:
        singles.setdefault(tried.candidate.model, tried)
    best, *others = singles.values()
    for other in others[:REFINED]:
        pair = f"{best.candidate.model}{SIGN}{other.candidate.model}"
        search.attempt(pair, best.candidate.size, optional=True)
    return search.result()


def train_best_model(
    photos: Path,
    config: TrainConfig,
    *,
    callback: Callback = ignore,
    on_search: Callable[[ModelSearch], None] = lambda search: None,
    **options: Any,
) -> RunResult:
    """Searches for a model, trains it, and returns the run, which also holds the search.

    Args:
        photos: As for `finetune.training.train.train`.
        config: As for `search_models`.
        callback: Receives the events of both.
        on_search: Receives the result of the search before the training begins.
        **options: Other arguments of `finetune.training.train.train`.
    """
    search = search_models(photos, config, callback=callback)
    callback(Note(text=search.describe()))
    on_search(search)
    result = train(photos, search.config, callback=callback, **options)
    search.write(result.run)
    return result


def models_here(weights_dir: Path | None) -> list[str]:
    """Returns the models whose weights are on this machine: packaged, downloaded, or in a folder.

    Raises:
        ModelError: There is no such folder.
    """
    found = [name for name in PACKAGED if packaged_weights(name) is not None]
    for name in timm.list_pretrained():
        if weights_files.local_weights(timm.get_pretrained_cfg(name)) is not None:
            found.append(name)
    if weights_dir is not None:
        found += [name for name in weights_files.models_in(weights_dir) if timm.is_model(name)]
    return list(dict.fromkeys(found))


class _Search:
    """Candidates tried so far, within a time budget."""

    def __init__(self, photos: Path, config: TrainConfig, callback: Callback) -> None:
        self.photos = photos
        self.config = config
        self.callback = callback
        self.deadline = time.monotonic() + _budget(config.model.budget)
        self.candidates: list[Candidate] = []
        self.tried: dict[int, _Tried] = {}
        self._split: DataSplit | None = None
        self._decoding = 0.0

    def attempt(self, model: str, size: int, *, optional: bool = False) -> None:
        """Tries a model, unless it fails or would take longer than the budget.

        An `optional` one leaves no trace when it cannot be made.
        """
        planned = Candidate(model=model, size=size)
        try:
            with self._prepared(model, size) as prepared:
                tried = self._evaluate(prepared, planned)
        except _OutOfTimeError as error:
            self.candidates.append(dataclasses.replace(planned, skipped=str(error)))
            return
        except ModelError as error:
            if not optional:
                self.candidates.append(dataclasses.replace(planned, skipped=str(error)))
            return
        self.tried[len(self.candidates)] = tried
        self.candidates.append(tried.candidate)

    def ranked(self) -> list[_Tried]:
        """Returns what was tried, the lowest log loss first."""
        return sorted(self.tried.values(), key=lambda tried: float(tried.losses.mean()))

    def result(self) -> ModelSearch:
        """Returns the candidates with the choice by the one-standard-error rule.

        It is Breiman et al.'s (1984, "Classification and Regression Trees", section 3.4.3), for the
        paired differences of the log losses, whose errors are those of whole groups of photos. The
        default stands first: a few hundred photos favor another model too often by chance.
        """
        best = min(self.tried, key=lambda index: float(self.tried[index].losses.mean()))
        lowest = self.tried[best]
        near = [
            index
            for index, tried in self.tried.items()
            if within_one_standard_error(tried.losses - lowest.losses, lowest.groups)
        ]
        chosen = choose(near, self.candidates)
        winner = self.candidates[chosen]
        model, pixels = self.config.model, self.config.pixels
        return ModelSearch(
            config=dataclasses.replace(
                self.config,
                model=dataclasses.replace(model, model=winner.model),
                pixels=dataclasses.replace(pixels, size=winner.size),
            ),
            candidates=tuple(self.candidates),
            chosen=chosen,
            best=best,
            photos=len(lowest.losses),
        )

    def _prepared(self, model: str, size: int) -> Any:
        config = dataclasses.replace(
            self.config,
            model=dataclasses.replace(self.config.model, model=model),
            pixels=dataclasses.replace(self.config.pixels, size=size),
            training=TrainingConfig(mode="head", head_l2=self.config.training.head_l2),
            optimization=OptimizationConfig(),
            augmentation=AugmentationConfig(),
            recipe={},
        )
        split = self._split
        overrides = Overrides(split=None if split is None else lambda collection: split)
        return prepare(
            self.photos, config, callback=self._progress_of(model, size), overrides=overrides
        )

    def _progress_of(self, model: str, size: int) -> Callback:
        def callback(event: Event) -> None:
            if isinstance(event, Progressed):
                stage = f"{model}, {size} px: {event.stage[:1].lower()}{event.stage[1:]}"
                self.callback(dataclasses.replace(event, stage=stage))

        return callback

    def _evaluate(self, prepared: Prepared, planned: Candidate) -> _Tried:
        self._split = prepared.data_split
        device = make_accelerator(prepared.config.machine).device
        module = prepared.loaded.module.to(device).eval()
        datasets = prepared.datasets()
        with feature_cache(prepared, datasets) as features:
            seconds = _seconds_per_photo(features)
            missing = sum(
                key not in features.records
                for part in datasets.values()
                for key in features.keys(part)
            )
            if self.tried:
                self._check_time(missing * (seconds + self._decoding))
            started = time.monotonic()
            stop = (lambda: time.monotonic() > self.deadline) if self.tried else (lambda: False)
            try:
                photos = fill_features(prepared, features, datasets, stop=stop)
            except FitInterruptedError as error:
                raise _OutOfTimeError("out of time") from error
            if missing:
                taken = (time.monotonic() - started) / missing
                self._decoding = max(self._decoding, taken - seconds)
            fitter = head_fitter(prepared, photos, device)
            fitted = fit_head(fitter, strengths_of(prepared.config.training.head_l2))
        outputs, objective = fitted.held_out, fitter.objective
        losses = calibrated_losses(outputs, objective)
        score = objective.score(torch.from_numpy(outputs.logits), torch.from_numpy(outputs.targets))
        right = outputs.logits.argmax(1) == outputs.targets if outputs.targets.ndim == 1 else None
        held = np.flatnonzero(photos.folds >= 0)
        candidate = dataclasses.replace(
            planned,
            accuracy=score[1],
            interval=None if right is None else _interval(prepared, int(right.sum()), len(right)),
            log_loss=float(losses.mean()),
            milliseconds=1000 * seconds,
            megabytes=sum(tensor.numel() for tensor in module.state_dict().values()) * 4 / 1e6,
        )
        return _Tried(candidate=candidate, losses=losses, groups=_groups(prepared)[held])

    def _check_time(self, expected: float) -> None:
        left = self.deadline - time.monotonic()
        if expected > left:
            raise _OutOfTimeError(
                f"would take {expected:.0f} s of the {max(left, 0):.0f} s that are left"
            )


class _OutOfTimeError(Exception):
    """Raised when a candidate does not fit into the budget."""


def choose(near: Sequence[int], candidates: Sequence[Candidate]) -> int:
    """Returns the index of the default model at its own size if it is near, else of the fastest.

    Args:
        near: Indices of the candidates within one standard error of the best.
        candidates: All candidates, in the order in which they were tried.
    """
    # The default is tried first.
    if 0 in near and candidates[0].model == DEFAULT_MODEL:
        return 0
    return min(near, key=lambda index: candidates[index].milliseconds or math.inf)


def within_one_standard_error(differences: NDArray[np.float64], groups: NDArray[np.int64]) -> bool:
    """Returns whether a mean difference is at most one standard error above zero.

    Args:
        differences: ``(N,)``, of the losses of each photo.
        groups: ``(N,)``, group of each photo; the differences of a group count as one.
    """
    mean = float(differences.mean())
    sums = np.bincount(groups, weights=differences - mean)
    return mean <= math.sqrt(float((sums**2).sum())) / len(differences)


def _interval(prepared: Prepared, right: int, photos: int) -> Interval | None:
    folds = prepared.data_split.folds
    if folds is None:
        return wilson(right, photos)
    return cross_validated_interval(right, photos, folds=int(folds.max()) + 1)


def _groups(prepared: Prepared) -> NDArray[np.int64]:
    """Returns the group number of each training and validation photo."""
    split = prepared.data_split
    group_of = {row.path: row.group for row in split.rows}
    names = [group_of[s.path] for s in (*split.samples["train"], *split.samples["validation"])]
    _, numbers = np.unique(np.array(names), return_inverse=True)
    return numbers.astype(np.int64)


def _seconds_per_photo(features: FeatureCache) -> float:
    side = features.preprocessing.working_size
    images = torch.zeros(TIMED_PHOTOS, 3, side, side, dtype=torch.uint8)
    times = []
    for _ in range(3):
        started = time.monotonic()
        features.compute(images)
        times.append(time.monotonic() - started)
    return min(times) / TIMED_PHOTOS


def _budget(text: str | None) -> float:
    """Returns a time budget in seconds; raises ConfigError."""
    if text is None:
        return DEFAULT_BUDGET
    try:
        return seconds_of(text)
    except ValueError as error:
        raise ConfigError(f"--budget {text} must be a duration such as 90s, 5m or 1h.") from error


def _larger(size: int) -> int:
    """Returns a larger input size, a multiple of 32."""
    return round(size * LARGER / 32) * 32

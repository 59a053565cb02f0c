"""Trains a classifier on a person's photos: from a folder to a run."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from finetune.config import TrainConfig
from finetune.data.home import collection_home
from finetune.errors import RunError
from finetune.files import write_json, write_text
from finetune.models import factory
from finetune.models.heads import has_linear_head
from finetune.photos.collection import Part
from finetune.photos.spec import InputSpec
from finetune.photos.split import read_split, write_split
from finetune.runs.batch_size import check_shares, with_batch_size
from finetune.runs.beginning import Splitter as Splitter
from finetune.runs.beginning import describe, new_head, new_network, usual_split
from finetune.runs.continuing import Earlier, load_earlier
from finetune.runs.defaults import Holding, on_features, recipe_of, with_defaults, with_mode
from finetune.runs.folder import RUNS_FOLDER, RunFolder, create_run, open_run, write_labels
from finetune.runs.job import Job
from finetune.runs.model_card import write_model_card
from finetune.runs.objective import WHAT_IS_COUNTED, start_from_prior
from finetune.runs.on_features import help_with_features, train_on_features
from finetune.runs.on_photos import train_on_photos
from finetune.runs.outcome import Outcome
from finetune.runs.parts import replay_split, task_for
from finetune.runs.reading import crop_policy, pixel_cache, read_photos, square_notes
from finetune.runs.results import write_results
from finetune.runs.tracking import check_tracking, tracked
from finetune.settings import resolve
from finetune.training.events import Event, Listener, Note, ignore
from finetune.training.interrupt import interruption
from finetune.training.machine import join_processes, make_accelerator
from finetune.training.state import read_position, save_tensors
from finetune.training.validation import Metric


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a training came to.

    Attributes:
        run: The run's folder.
        metrics: As in metrics.json: one object a part.
        best_epoch: The epoch whose weights were kept, from 1.
        seconds: From the start of the call to its end.
        interrupted: Whether it was stopped before its last epoch.
        logits: ``(N, labels)`` of the validation and test photos, in the order of their paths.
    """

    run: RunFolder
    metrics: dict[str, Any]
    best_epoch: int
    seconds: float
    interrupted: bool
    logits: Mapping[Part, NDArray[np.float32]]


def train(
    photos: Path | str,
    config: TrainConfig | None = None,
    *,
    run: str | RunFolder | None = None,
    runs: Path = RUNS_FOLDER,
    listen: Listener = ignore,
    split: Splitter | None = None,
    earlier: Earlier | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> RunResult:
    """Trains a classifier on the photos in a folder and returns the run.

    Args:
        photos: A folder with one folder of photos a label, or ``train/ val/ test/`` of such.
        config: Settings; the defaults suit the machine and the collection.
        run: Name of the run, or a path, or a folder that is ready for it; None takes date, model
            and mode.
        runs: Where named runs go.
        listen: Called with what happens; see `finetune.training.events`.
        split: Splits the collection instead of its own folders or the settings.
        earlier: A finished run to go on from, with a config that `continuing.inherit` has settled.
        metrics: Own figures by name, each a function of logits ``(N, labels)`` and targets ``(N,)``
            of the validation photos; they are in `EpochDone.metrics` and ``log.jsonl``.

    Raises:
        FinetuneError: Photos, settings, weights, device or disk do not allow it; says why.

    Example:
        >>> from finetune import train
        >>> result = train("photos")  # doctest: +SKIP
        >>> result.metrics["validation"]["top1"]  # doctest: +SKIP
        0.97
    """
    started = datetime.datetime.now()
    root = Path(photos)
    config = config or TrainConfig()
    team = join_processes(config.machine)
    listen = listen if team.is_main else ignore
    said: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Note):
            said.append(event.text)
        listen(event)

    config, notes = with_defaults(config)
    check_tracking(config.tracking)
    for note in notes:
        tell(Note(text=note))
    recipe_of(config)  # refused before the photos are read, where it cannot work
    with team.main_first():  # one download, one look at each photo
        loaded = load_earlier(earlier, config) if earlier else new_network(config)
    spec = loaded.spec
    home = collection_home(root, config.collection.catalog)
    with contextlib.closing(pixel_cache(home, spec, config)) as cache:
        with team.main_first():
            cache.records.refresh()
            collection = read_photos(root, config, cache, tell)
        parts = (split or usual_split(config, earlier))(collection)
        for note in (*parts.notes, *([WHAT_IS_COUNTED] if parts.task.multi_label else [])):
            tell(Note(text=note))
        asked = config
        config, notes = with_mode(config, Holding.of(parts))
        photos_to_learn = len(parts.samples["train"])
        config, more = with_batch_size(config, asked, loaded.module, spec, photos_to_learn)
        config = team.agree(config)
        check_shares(team, config, photos_to_learn)
        for note in (*notes, *more):
            tell(Note(text=note))
        recipe = recipe_of(config)
        # Only now is it known which recipe a network brings along.
        whiten = loaded.spec.whiten if recipe is None else recipe.whiten
        spec = dataclasses.replace(spec, whiten=whiten)
        kept_head = loaded.own_head and loaded.module.num_classes == len(parts.labels)
        if kept_head and config.training.head_epochs is None:
            # A person's own head is what the network is to go on from.
            on = dataclasses.replace(config.training, head_epochs=0)
            config = dataclasses.replace(config, training=on)
        origin, note_on_head = new_head(loaded, earlier, parts.labels, config)
        if earlier is None:
            start_from_prior(loaded.module.get_classifier(), parts)  # type: ignore[operator]
        if note_on_head:
            tell(Note(text=note_on_head))
        default_name = f"{started:%Y-%m-%d}-{loaded.name}-{config.training.mode}"
        before = earlier.crop_policy if earlier else None
        policy = crop_policy(collection, config.collection.catalog, before)
        for note in square_notes(collection, policy, before):
            tell(Note(text=note))
        folder = None
        if team.is_main:
            folder = run if isinstance(run, RunFolder) else create_run(run, default_name, runs)
            write_split(folder.split_file, parts.rows)
            write_labels(folder, parts.labels)
            write_json(folder.preprocessing_file, spec.to_dict() | {"crop_policy": policy})
            save_tensors(folder.start_checkpoint, loaded.module.state_dict(), {})
            description = describe(config, loaded, parts, started) | origin | {"notes": said}
            # Last, since a folder counts as a run from the moment that it has this file.
            write_json(folder.config_file, description)
        folder = team.agree(folder)
        return _execute(
            Job(
                run=folder,
                config=config,
                loaded=loaded,
                spec=spec,
                recipe=recipe,
                parts=parts,
                cache=cache,
                home=home,
                listen=listen,
                metrics=metrics or {},
                team=team,
            ),
            started,
        )


def resume(
    run: Path | str,
    *,
    listen: Listener = ignore,
    split: Splitter | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> RunResult:
    """Goes on with an interrupted run and returns it; the result is as if it had never stopped.

    Args:
        run: Its folder.
        listen: As for `train`.
        split: What `train` was given, if it was.
        metrics: Likewise.

    Raises:
        RunError: It is no run, it is finished, or its photos have changed.
    """
    started = datetime.datetime.now()
    folder = open_run(Path(run))
    description = folder.read(folder.config_file)
    if description.get("finished"):
        raise RunError(
            f"{folder.path} is finished; there is nothing to resume. "
            "Start a new run with: finetune train PHOTOS"
        )
    config = resolve(description["settings"])
    team = join_processes(config.machine)
    listen = listen if team.is_main else ignore
    root = Path(description["photos"])
    labels = tuple(folder.read(folder.labels_file))
    spec = InputSpec.from_dict(folder.read(folder.preprocessing_file))
    loaded = factory.LoadedModel(
        factory.rebuild(
            description["model"],
            len(labels),
            spec.size,
            load_file(folder.start_checkpoint),
            config.model_args,
        ),
        description["model"],
        spec,
        description["weights"],
    )
    home = collection_home(root, config.collection.catalog)
    with contextlib.closing(pixel_cache(home, spec, config)) as cache:
        with team.main_first():
            cache.records.refresh()
            collection = read_photos(root, config, cache, listen)
        parts = (
            split(collection)
            if split
            else replay_split(
                collection, read_split(folder.split_file), labels, task_for(config.labels)
            )
        )
        return _execute(
            Job(
                run=folder,
                config=config,
                loaded=loaded,
                spec=spec,
                recipe=recipe_of(config),
                parts=parts,
                cache=cache,
                home=home,
                listen=listen,
                metrics=metrics or {},
                team=team,
            ),
            started,
        )


def _execute(job: Job, started: datetime.datetime) -> RunResult:
    """Trains, writes what came of it in the main process, and tells the others."""
    if not job.team.is_main:
        _help(job)
        result: RunResult = job.team.agree(None)
        return result
    run = job.run
    with run.held():
        _forget_unfinished_epochs(run)
        outcome, metrics = _outcome(job)
        seconds = (datetime.datetime.now() - started).total_seconds()
        description = run.read(run.config_file)
        description |= outcome.summary()
        description["seconds"] = round(description.get("seconds", 0.0) + seconds, 3)
        write_json(run.config_file, description)
        write_model_card(run)
    if outcome.finished:
        # The best weights are the model now, and a finished run has nothing to resume.
        shutil.rmtree(run.last_checkpoint.parent, ignore_errors=True)
    result = RunResult(
        run=run,
        metrics=metrics,
        best_epoch=outcome.position.best_epoch,
        seconds=seconds,
        interrupted=not outcome.finished,
        logits=outcome.logits,
    )
    job.team.agree(result)
    return result


def _help(job: Job) -> None:
    """Does another process's part of what the main one does in `_outcome`."""
    accelerator = make_accelerator(job.config.machine)
    devices = range(torch.cuda.device_count())
    with interruption(lambda: None) as stop, torch.random.fork_rng(devices=devices):
        torch.manual_seed(job.config.machine.seed + job.team.rank)
        if on_features(job.config, linear_head=has_linear_head(job.loaded.module)):
            help_with_features(job, accelerator)
        else:
            train_on_photos(job, accelerator, stop)


def _outcome(job: Job) -> tuple[Outcome, dict[str, Any]]:
    """Trains and writes what came of it; returns that and its figures."""
    accelerator = make_accelerator(job.config.machine)
    warning = "Interrupted: finishing this step and saving. Ctrl-C again ends at once."
    by_features = on_features(job.config, linear_head=has_linear_head(job.loaded.module))
    train_on = train_on_features if by_features else train_on_photos
    with (
        interruption(lambda: job.listen(Note(text=warning))) as stop,
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        tracked(job, accelerator.device, by_features=by_features) as shown,
    ):
        torch.manual_seed(job.config.machine.seed)
        outcome = train_on(shown, accelerator, stop)
        return outcome, write_results(job.run, job.loaded.name, job.parts, outcome)


def _forget_unfinished_epochs(run: RunFolder) -> None:
    """Takes epochs off the log that the checkpoint to resume from has not seen the end of."""
    if not run.log_file.is_file():
        return
    done = 0
    if run.last_checkpoint.is_file():
        done = read_position(run.last_checkpoint).epoch
    kept = [event for event in run.read_log() if event.get("epoch", 0) <= done]
    lines = [json.dumps(event, ensure_ascii=False) + "\n" for event in kept]
    write_text(run.log_file, "".join(lines))

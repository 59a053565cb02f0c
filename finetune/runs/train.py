"""Trains a classifier on a person's photos: from a folder to a run."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from finetune import __version__
from finetune.augmentation.recipes import named
from finetune.config import TrainConfig
from finetune.curation.policy import PolicySpec, remembered_policy
from finetune.data.cache import PixelCache
from finetune.data.home import collection_home
from finetune.errors import RunError
from finetune.files import write_json, write_text
from finetune.models import factory
from finetune.models.heads import has_linear_head
from finetune.photos.collection import Collection
from finetune.photos.scan import scan
from finetune.photos.spec import InputSpec
from finetune.photos.split import read_split, write_split
from finetune.runs.defaults import recipe_of, with_defaults
from finetune.runs.folder import RUNS_FOLDER, RunFolder, create_run, open_run, write_labels
from finetune.runs.job import Job
from finetune.runs.model_card import write_model_card
from finetune.runs.on_features import train_on_features
from finetune.runs.on_photos import train_on_photos
from finetune.runs.parts import Parts, replay_split, split_collection
from finetune.runs.results import write_results
from finetune.settings import resolve, to_dict
from finetune.training.events import Event, Listener, Note, Progressed, ignore
from finetune.training.interrupt import interruption
from finetune.training.machine import choose_device, make_accelerator
from finetune.training.state import read_position, save_tensors

SQUARES_NOTE = (
    "Most photos have a square around their subject; the run learns from these, and its "
    "predictions look for the subject in the same way."
)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a training came to.

    Attributes:
        run: The run's folder.
        metrics: As in metrics.json: one object a part.
        best_epoch: The epoch whose weights were kept, from 1.
        seconds: From the start of the call to its end.
        interrupted: Whether it was stopped before its last epoch.
    """

    run: RunFolder
    metrics: dict[str, Any]
    best_epoch: int
    seconds: float
    interrupted: bool


def train(
    photos: Path | str,
    config: TrainConfig | None = None,
    *,
    run: str | None = None,
    runs: Path = RUNS_FOLDER,
    listen: Listener = ignore,
) -> RunResult:
    """Trains a classifier on the photos in a folder and returns the run.

    Args:
        photos: A folder with one folder of photos a label, or ``train/ val/ test/`` of such.
        config: Settings; the defaults suit the machine and the collection.
        run: Name of the run, or a path; None takes date, model and mode.
        runs: Where named runs go.
        listen: Called with what happens; see `finetune.training.events`.

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
    said: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Note):
            said.append(event.text)
        listen(event)

    config, notes = with_defaults(config or TrainConfig())
    for note in notes:
        tell(Note(text=note))
    recipe = recipe_of(config)
    loaded = factory.create(
        factory.ModelRequest(
            name=config.model.model or factory.DEFAULT_MODEL,
            weights=config.model.weights,
            size=config.pixels.size,
            fit=config.pixels.fit,
            seed=config.machine.seed,
        )
    )
    spec = dataclasses.replace(loaded.spec, whiten=recipe is not None and recipe.whiten)
    home = collection_home(root, config.collection.catalog)
    with contextlib.closing(_pixel_cache(home, spec, config)) as cache:
        collection = _scan(root, config, cache, tell)
        parts = split_collection(collection, config.collection, seed=config.machine.seed)
        for note in parts.notes:
            tell(Note(text=note))
        note_on_head = factory.replace_head(loaded, len(parts.labels), seed=config.machine.seed)
        if note_on_head:
            tell(Note(text=note_on_head))
        default_name = f"{started:%Y-%m-%d}-{loaded.name}-{config.training.mode}"
        folder = create_run(run, default_name, runs)
        write_split(folder.split_file, parts.rows)
        write_labels(folder, parts.labels)
        policy = crop_policy(collection, config.collection.catalog)
        if policy is not None:
            tell(Note(text=SQUARES_NOTE))
        write_json(folder.preprocessing_file, spec.to_dict() | {"crop_policy": policy})
        save_tensors(folder.start_checkpoint, loaded.module.state_dict(), {})
        description = _describe(config, loaded, parts, started) | {"notes": said}
        # Last, since a folder counts as a run from the moment that it has this file.
        write_json(folder.config_file, description)
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
            ),
            started,
        )


def crop_policy(collection: Collection, catalog: Path | None) -> dict[str, Any] | None:
    """Returns how a prediction should choose its square, as `curation.policy` understands it.

    None where most photos have no square of their own: the run's fit then serves predictions too.
    """
    with_square = sum(photo.crop is not None for photo in collection.photos)
    if 2 * with_square <= len(collection):
        return None
    policy = remembered_policy(collection.root, catalog) or PolicySpec(method="saliency")
    return policy.to_dict()


def resume(run: Path | str, *, listen: Listener = ignore) -> RunResult:
    """Goes on with an interrupted run and returns it; the result is as if it had never stopped.

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
    root = Path(description["photos"])
    labels = tuple(folder.read(folder.labels_file))
    spec = InputSpec.from_dict(folder.read(folder.preprocessing_file))
    loaded = factory.LoadedModel(
        factory.rebuild(
            description["model"], len(labels), spec.size, load_file(folder.start_checkpoint)
        ),
        description["model"],
        spec,
        description["weights"],
    )
    home = collection_home(root, config.collection.catalog)
    with contextlib.closing(_pixel_cache(home, spec, config)) as cache:
        collection = _scan(root, config, cache, listen)
        parts = replay_split(collection, read_split(folder.split_file), labels)
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
            ),
            started,
        )


def _execute(job: Job, started: datetime.datetime) -> RunResult:
    run = job.run
    accelerator = make_accelerator(job.config.machine)
    _forget_unfinished_epochs(run)
    warning = "Interrupted: finishing this step and saving. Ctrl-C again ends at once."
    on_features = (
        job.mode == "head"
        and (job.recipe == named("none") or (job.recipe and job.config.training.views > 1))
        and has_linear_head(job.loaded.module)
    )
    devices = range(torch.cuda.device_count())
    with (
        interruption(lambda: job.listen(Note(text=warning))) as stop,
        torch.random.fork_rng(devices=devices),
    ):
        torch.manual_seed(job.config.machine.seed)
        train_on = train_on_features if on_features else train_on_photos
        outcome = train_on(job, accelerator, stop)
        metrics = write_results(run, job.loaded.name, job.parts, outcome)
    seconds = (datetime.datetime.now() - started).total_seconds()
    description = run.read(run.config_file)
    description |= outcome.summary()
    description["seconds"] = round(description.get("seconds", 0.0) + seconds, 3)
    write_json(run.config_file, description)
    write_model_card(run)
    if outcome.finished:
        # The best weights are the model now, and a finished run has nothing to resume.
        shutil.rmtree(run.last_checkpoint.parent, ignore_errors=True)
    return RunResult(
        run=run,
        metrics=metrics,
        best_epoch=outcome.position.best_epoch,
        seconds=seconds,
        interrupted=not outcome.finished,
    )


def _pixel_cache(home: Path, spec: InputSpec, config: TrainConfig) -> PixelCache:
    return PixelCache(home, spec, limit_gb=config.pixels.cache_gb)


def _scan(root: Path, config: TrainConfig, cache: PixelCache, listen: Listener) -> Collection:
    collection = scan(
        root,
        catalog=config.collection.catalog,
        progress=lambda done, total: listen(
            Progressed(stage="Reading photos", done=done, total=total)
        ),
        sink=cache,
    )
    if collection.problems:
        first = collection.problems[0]
        count = len(collection.problems)
        what = (
            "1 file is no usable photo" if count == 1 else f"{count:,} files are no usable photos"
        )
        listen(
            Note(
                text=f"{what} and left out: {first.path} ({first.reason})"
                + (", ... See them all with: finetune scan" if count > 1 else ".")
            )
        )
    return collection


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


def _describe(
    config: TrainConfig,
    loaded: factory.LoadedModel,
    parts: Parts,
    started: datetime.datetime,
) -> dict[str, Any]:
    import timm

    return {
        "photos": str(parts.root.absolute()),
        "model": loaded.name,
        "weights": loaded.origin,
        "started": started.isoformat(timespec="seconds"),
        "versions": {
            "finetune": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
        "device": str(choose_device(config.machine.device)),
        "settings": to_dict(config),
        "split": dataclasses.asdict(parts.proof) if parts.proof else None,
        "finished": False,
    }

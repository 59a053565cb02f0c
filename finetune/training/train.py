"""Trains a classifier on a person's photos: from a folder to a run."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from finetune.config import TrainConfig
from finetune.config_io import resolve
from finetune.errors import RunError
from finetune.files import collection_cache_dir, write_json
from finetune.models import factory
from finetune.photos.preprocessing import Preprocessing
from finetune.photos.split.split import read_split, write_split
from finetune.runs.folder import RUNS_FOLDER, RunFolder, create_run, open_run, write_labels
from finetune.tasks.data_split import replay_split, task_for
from finetune.training.batch_size_choice import check_shares, with_batch_size
from finetune.training.checkpoints import save_tensors
from finetune.training.context import TrainingContext
from finetune.training.defaults import DatasetSize, recipe_of, with_defaults, with_mode
from finetune.training.device import join_processes
from finetune.training.events import Callback, Event, Note, ignore
from finetune.training.objectives import WHAT_IS_COUNTED, start_from_prior
from finetune.training.read_photos import crop_policy, pixel_cache, read_photos, square_notes
from finetune.training.runner import RunResult, execute
from finetune.training.setup import Splitter, describe, new_head, new_network, usual_split
from finetune.training.tracking import check_tracking
from finetune.training.validation import Metric
from finetune.training.warm_start import ParentRun, load_earlier


def train(
    photos: Path | str,
    config: TrainConfig | None = None,
    *,
    run: str | RunFolder | None = None,
    runs: Path = RUNS_FOLDER,
    callback: Callback = ignore,
    split: Splitter | None = None,
    parent: ParentRun | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> RunResult:
    """Trains a classifier on the photos in a folder and returns the run.

    Args:
        photos: A folder with one folder of photos a label, or ``train/ val/ test/`` of such.
        config: Settings; the defaults suit the machine and the collection.
        run: Name of the run, or a path, or a folder that is ready for it; None takes date, model
            and mode.
        runs: Where named runs go.
        callback: Called with what happens; see `finetune.training.events`.
        split: Splits the collection instead of its own folders or the settings.
        parent: A finished run to go on from, with a config that `continuing.inherit` has settled.
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
    world = join_processes(config.machine)
    callback = callback if world.is_main else ignore
    said: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Note):
            said.append(event.text)
        callback(event)

    config, notes = with_defaults(config)
    check_tracking(config.tracking)
    for note in notes:
        tell(Note(text=note))
    recipe_of(config)  # refused before the photos are read, where it cannot work
    with world.main_first():  # one download, one look at each photo
        loaded = load_earlier(parent, config) if parent else new_network(config)
    preprocessing = loaded.preprocessing
    cache_dir = collection_cache_dir(root, config.collection.catalog)
    with contextlib.closing(pixel_cache(cache_dir, preprocessing, config)) as cache:
        with world.main_first():
            cache.records.refresh()
            collection = read_photos(root, config, cache, tell)
        parts = (split or usual_split(config, parent))(collection)
        for note in (*parts.notes, *([WHAT_IS_COUNTED] if parts.task.multi_label else [])):
            tell(Note(text=note))
        asked = config
        config, notes = with_mode(config, DatasetSize.of(parts))
        photos_to_learn = len(parts.samples["train"])
        config, more = with_batch_size(config, asked, loaded.module, preprocessing, photos_to_learn)
        config = world.agree(config)
        check_shares(world, config, photos_to_learn)
        for note in (*notes, *more):
            tell(Note(text=note))
        recipe = recipe_of(config)
        # Only now is it known which recipe a network brings along.
        whiten = loaded.preprocessing.whiten if recipe is None else recipe.whiten
        preprocessing = dataclasses.replace(preprocessing, whiten=whiten)
        kept_head = loaded.head_from_file and loaded.module.num_classes == len(parts.labels)
        if kept_head and config.training.head_epochs is None:
            # A person's own head is what the network is to go on from.
            on = dataclasses.replace(config.training, head_epochs=0)
            config = dataclasses.replace(config, training=on)
        origin, note_on_head = new_head(loaded, parent, parts.labels, config)
        if parent is None:
            start_from_prior(loaded.module.get_classifier(), parts)  # type: ignore[operator]
        if note_on_head:
            tell(Note(text=note_on_head))
        default_name = f"{started:%Y-%m-%d}-{loaded.name}-{config.training.mode}"
        before = parent.crop_policy if parent else None
        policy = crop_policy(collection, config.collection.catalog, before)
        for note in square_notes(collection, policy, before):
            tell(Note(text=note))
        folder = None
        if world.is_main:
            folder = run if isinstance(run, RunFolder) else create_run(run, default_name, runs)
            write_split(folder.split_file, parts.rows)
            write_labels(folder, parts.labels)
            write_json(folder.preprocessing_file, preprocessing.to_dict() | {"crop_policy": policy})
            save_tensors(folder.start_checkpoint, loaded.module.state_dict(), {})
            description = describe(config, loaded, parts, started) | origin | {"notes": said}
            # Last, since a folder counts as a run from the moment that it has this file.
            write_json(folder.config_file, description)
        folder = world.agree(folder)
        return execute(
            TrainingContext(
                run=folder,
                config=config,
                loaded=loaded,
                preprocessing=preprocessing,
                recipe=recipe,
                parts=parts,
                cache=cache,
                cache_dir=cache_dir,
                callback=callback,
                metrics=metrics or {},
                world=world,
            ),
            started,
        )


def resume(
    run: Path | str,
    *,
    callback: Callback = ignore,
    split: Splitter | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> RunResult:
    """Goes on with an interrupted run and returns it; the result is as if it had never stopped.

    Args:
        run: Its folder.
        callback: As for `train`.
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
    world = join_processes(config.machine)
    callback = callback if world.is_main else ignore
    root = Path(description["photos"])
    labels = tuple(folder.read(folder.labels_file))
    preprocessing = Preprocessing.from_dict(folder.read(folder.preprocessing_file))
    loaded = factory.LoadedModel(
        factory.rebuild(
            description["model"],
            len(labels),
            preprocessing.size,
            load_file(folder.start_checkpoint),
            config.model_args,
        ),
        description["model"],
        preprocessing,
        description["weights"],
    )
    cache_dir = collection_cache_dir(root, config.collection.catalog)
    with contextlib.closing(pixel_cache(cache_dir, preprocessing, config)) as cache:
        with world.main_first():
            cache.records.refresh()
            collection = read_photos(root, config, cache, callback)
        parts = (
            split(collection)
            if split
            else replay_split(
                collection, read_split(folder.split_file), labels, task_for(config.labels)
            )
        )
        return execute(
            TrainingContext(
                run=folder,
                config=config,
                loaded=loaded,
                preprocessing=preprocessing,
                recipe=recipe_of(config),
                parts=parts,
                cache=cache,
                cache_dir=cache_dir,
                callback=callback,
                metrics=metrics or {},
                world=world,
            ),
            started,
        )

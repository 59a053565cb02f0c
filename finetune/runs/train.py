"""Trains a classifier on a person's photos: from a folder to a run."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from finetune.config import TrainConfig
from finetune.data.home import collection_home
from finetune.errors import RunError
from finetune.files import write_json
from finetune.models import factory
from finetune.photos.spec import InputSpec
from finetune.photos.split import read_split, write_split
from finetune.runs.batch_size import check_shares, with_batch_size
from finetune.runs.beginning import Splitter, describe, new_head, new_network, usual_split
from finetune.runs.continuing import Earlier, load_earlier
from finetune.runs.defaults import Holding, recipe_of, with_defaults, with_mode
from finetune.runs.execution import RunResult, execute
from finetune.runs.folder import RUNS_FOLDER, RunFolder, create_run, open_run, write_labels
from finetune.runs.job import Job
from finetune.runs.objective import WHAT_IS_COUNTED, start_from_prior
from finetune.runs.parts import replay_split, task_for
from finetune.runs.reading import crop_policy, pixel_cache, read_photos, square_notes
from finetune.runs.tracking import check_tracking
from finetune.settings import resolve
from finetune.training.events import Event, Listener, Note, ignore
from finetune.training.machine import join_processes
from finetune.training.state import save_tensors
from finetune.training.validation import Metric


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
        return execute(
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
        return execute(
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

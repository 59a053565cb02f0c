"""Prepares a training: resolved config, network, split photos, head and run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from finetune import __version__
from finetune.config import TrainConfig
from finetune.config_io import resolve, to_dict
from finetune.curation.crop_policy import CropPolicyConfig, read_policy
from finetune.data.pixel_cache import PixelCache
from finetune.errors import ConfigError, FinetuneError, RunError
from finetune.files import collection_cache_dir, write_json
from finetune.formatting import count
from finetune.models import factory
from finetune.models.factory import LoadedModel
from finetune.models.registry import DEFAULT_MODEL
from finetune.photos.collection import Collection
from finetune.photos.preprocessing import Preprocessing
from finetune.photos.scan import scan
from finetune.photos.split.split import read_split, write_split
from finetune.runs.folder import (
    RUNS_FOLDER,
    RunFolder,
    check_photos_are_there,
    create_run,
    write_labels,
)
from finetune.tasks.data_split import FOLDS, DataSplit, replay_split, split_collection
from finetune.tasks.factory import task_for
from finetune.training.checkpoints import save_tensors
from finetune.training.device import choose_device, join_processes
from finetune.training.distributed import World
from finetune.training.events import Callback, Note, Progressed, ignore
from finetune.training.prepared import LEFT_OUT, Prepared
from finetune.training.resolve import (
    DatasetSize,
    ResolvedConfig,
    check_shares,
    cross_validates,
    resolve_network,
    resolve_training,
)
from finetune.training.tracking import check_tracking
from finetune.training.validation import Metric
from finetune.training.warm_start import (
    ParentRun,
    expand_parent_head,
    lineage,
    load_parent,
    split_with_pinned,
)

Splitter = Callable[[Collection], DataSplit]
"""Splits a collection, the same way each time."""


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """Destination of a new run.

    Attributes:
        run: A name, a path, or an empty run folder; None: date, model and mode.
    """

    run: str | RunFolder | None = None
    runs: Path = RUNS_FOLDER


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Split and metrics supplied by the caller.

    Attributes:
        split: Splits the collection instead of its own folders or the settings.
        metrics: Own figures on the validation photos, by name.
    """

    split: Splitter | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)


@contextlib.contextmanager
def prepare(
    photos: Path | None,
    config: TrainConfig | None = None,
    *,
    parent: ParentRun | None = None,
    resume: RunFolder | None = None,
    run: NewRun | None = None,
    callback: Callback = ignore,
    overrides: Overrides = Overrides(),
) -> Iterator[Prepared]:
    """Yields a training that is ready for its first step, and closes its caches afterwards.

    Args:
        photos: A folder with one folder of photos a label, or ``train/ val/ test/`` of such. With
            `resume`: where the photos of that run are now; None: where they were.
        config: Requested settings; unset ones are resolved.
        parent: Finished run to start from, with a `config` from `warm_start.inherit`.
        resume: Interrupted run to resume, exactly as it was prepared before.
        run: Destination of a new run; None: only the collection's caches are written.
        callback: Receives events, among them a note with the reason of each decision.
        overrides: Split and metrics of the caller.

    Raises:
        FinetuneError: Photos, settings, weights, device or disk do not allow it.
        RunError: The run to resume is finished or damaged, or its photos have changed.
    """
    if resume is not None:
        with _resumed(resume, photos, callback, overrides) as prepared:
            yield prepared
        return
    if photos is None:
        raise ConfigError("A new training needs a folder of photos.")
    config = config or TrainConfig()
    started = datetime.datetime.now()
    world = join_processes(config.machine)
    callback = callback if world.is_main else ignore
    notes = _Notes(callback)
    check_tracking(config.tracking)
    network_config, decisions = resolve_network(config)
    notes.add(decision.reason for decision in decisions)
    with world.main_first():  # one download
        loaded = load_parent(parent, network_config) if parent else create_network(network_config)
    cache_dir = collection_cache_dir(photos, config.collection.catalog)
    cache = PixelCache(cache_dir, loaded.preprocessing, limit_gb=config.pixels.cache_gb)
    with contextlib.closing(cache), contextlib.ExitStack() as stack:
        collection = _scan(photos, config, cache, world, notes)
        pinned = parent is not None and not parent.cross_validated
        cross_validated = not pinned and cross_validates(network_config, collection, loaded.module)
        split = overrides.split or default_split(
            network_config, parent if pinned else None, cross_validated=cross_validated
        )
        data_split = split(collection)
        notes.add(data_split.notes)
        if data_split.task.note:
            notes.add([data_split.task.note])
        resolved, more = world.broadcast(
            resolve_training(
                network_config,
                DatasetSize.of(data_split),
                loaded.module,
                loaded.preprocessing,
                keeps_head=bool(
                    loaded.head_from_file and loaded.module.num_classes == len(data_split.labels)
                ),
            )
        )
        check_shares(
            world,
            len(data_split.samples["train"]),
            batch_size=resolved.training.batch_size,
            accumulate=resolved.optimization.accumulate,
        )
        notes.add(decision.reason for decision in more)
        preprocessing, recipe = loaded.preprocessing, resolved.recipe_or_none
        if recipe is not None:
            preprocessing = dataclasses.replace(preprocessing, whiten=recipe.whiten)
        keeps_head = parent is not None and (pinned or not parent.was_trained_on(collection))
        origin, head_note = _add_head(loaded, parent, data_split, resolved, keeps_head=keeps_head)
        notes.add([head_note] if head_note else [])
        warning = parent.starting_point()[1] if parent is not None else None
        notes.add([warning] if warning else [])
        policy_before = parent.crop_policy if parent else None
        policy = crop_policy(collection, config.collection.catalog, policy_before)
        notes.add(crop_notes(collection, policy, policy_before))
        if run is None:
            folder = RunFolder(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        else:
            description = _describe(resolved, loaded, data_split, started) | origin
            description |= {
                "notes": notes.texts,
                "decisions": [*map(dataclasses.asdict, decisions + more)],
            }
            pixels = preprocessing.to_dict() | {"crop_policy": policy}
            written = None
            if world.is_main:
                written = _write_run(run, loaded, data_split, pixels, description)
            # The other processes read the folder, so they wait until it is written.
            folder = world.broadcast(written)
        yield Prepared(
            run=folder,
            config=resolved,
            loaded=loaded,
            preprocessing=preprocessing,
            data_split=data_split,
            cache=cache,
            cache_dir=cache_dir,
            callback=callback,
            metrics=overrides.metrics,
            world=world,
        )


@contextlib.contextmanager
def _resumed(
    run: RunFolder, moved_to: Path | None, callback: Callback, overrides: Overrides
) -> Iterator[Prepared]:
    description = run.read(run.config_file)
    if description.get("finished"):
        raise RunError(
            f"{run.path} is finished; there is nothing to resume. "
            "Start a new run with: finetune train PHOTOS"
        )
    try:
        config = ResolvedConfig.of(resolve(description["settings"]))
    except ConfigError as error:
        raise RunError(f"{run.config_file} is damaged: {error}") from error
    world = join_processes(config.machine)
    callback = callback if world.is_main else ignore
    photos = Path(description["photos"]) if moved_to is None else moved_to.resolve()
    check_photos_are_there(photos, run.path, "finetune train --resume RUN --photos FOLDER")
    if moved_to is not None and world.is_main:
        write_json(run.config_file, {**description, "photos": str(photos)})
    labels = tuple(run.read(run.labels_file))
    preprocessing = Preprocessing.from_dict(run.read(run.preprocessing_file))
    try:
        module = factory.rebuild(
            description["model"],
            len(labels),
            preprocessing.size,
            run.start_checkpoint,
            config.model_args,
        )
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{run.start_checkpoint} is missing or damaged, so that {run.path} cannot be resumed. "
            "Start a new run with: finetune train PHOTOS"
        ) from error
    cache_dir = collection_cache_dir(photos, config.collection.catalog)
    cache = PixelCache(cache_dir, preprocessing, limit_gb=config.pixels.cache_gb)
    with contextlib.closing(cache):
        collection = _scan(photos, config, cache, world, _Notes(callback))
        yield Prepared(
            run=run,
            config=config,
            loaded=LoadedModel(module, description["model"], preprocessing, description["weights"]),
            preprocessing=preprocessing,
            data_split=overrides.split(collection)
            if overrides.split
            else replay_split(
                collection,
                read_split(run.split_file),
                labels,
                task_for(config.labels),
                left_out={e["path"] for e in run.read_log() if e.get("event") == LEFT_OUT},
            ),
            cache=cache,
            cache_dir=cache_dir,
            callback=callback,
            metrics=overrides.metrics,
            world=world,
        )


class _Notes:
    """Sends notes to a callback and keeps their texts."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.texts: list[str] = []

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.texts.append(text)
            self.callback(Note(text=text))


def create_network(config: TrainConfig) -> factory.LoadedModel:
    """Returns the network of a config, with the head of its weights."""
    return factory.create_model(
        factory.ModelRequest(
            name=config.model.model or DEFAULT_MODEL,
            weights=config.model.weights,
            weights_dir=config.model.weights_dir,
            size=config.pixels.size,
            channels=config.pixels.channels,
            fit=config.pixels.fit,
            seed=config.machine.seed,
            args=config.model_args,
        )
    )


def default_split(
    config: TrainConfig, parent: ParentRun | None, *, cross_validated: bool = False
) -> Splitter:
    """Returns the split of a config; photos of a parent run stay in its parts."""

    def split(collection: Collection) -> DataSplit:
        seed = config.machine.seed
        if parent is not None:
            return split_with_pinned(
                collection, parent.run, config.collection, seed=seed, labels=config.labels
            )
        return split_collection(
            collection,
            config.collection,
            seed=seed,
            labels=config.labels,
            folds=FOLDS if cross_validated else None,
        )

    return split


def _scan(
    photos: Path, config: TrainConfig, cache: PixelCache, world: World, notes: _Notes
) -> Collection:
    """Returns the photos of a folder, scanned by the main process first; notes bad files."""
    with world.main_first():
        cache.records.refresh()
        collection = scan(
            photos,
            catalog=config.collection.catalog,
            progress=lambda done, total: notes.callback(
                Progressed(stage="Reading photos", done=done, total=total)
            ),
            sink=cache,
        )
    if collection.problems:
        first, amount = collection.problems[0], len(collection.problems)
        what = count(amount, "file cannot be used and is", "files cannot be used and are")
        more = ", ... See them all with: finetune scan" if amount > 1 else "."
        notes.add([f"{what} left out: {first.path} ({first.reason}){more}"])
    return collection


def _add_head(
    loaded: LoadedModel,
    parent: ParentRun | None,
    data_split: DataSplit,
    config: ResolvedConfig,
    *,
    keeps_head: bool,
) -> tuple[dict[str, Any], str | None]:
    """Adds the head to the network; returns the run's lineage and a note about the head."""
    seed = config.machine.seed
    origin: dict[str, Any] = {}
    if parent is not None:
        growth, note = expand_parent_head(loaded, parent, data_split.labels, seed=seed)
        origin = {"from": lineage(parent, growth, head=keeps_head)}
        if keeps_head:
            return origin, note
    replaced = factory.replace_head(loaded, len(data_split.labels), seed=seed)
    head = loaded.module.get_classifier()  # type: ignore[operator]
    data_split.task.initialize_head(head, data_split.targets("train"))
    if parent is not None:
        replaced = (
            f"Starts from the backbone of {parent.starting_point()[0]}. The head is fitted anew: "
            "that run's head was fitted on all of its photos, so it could not be evaluated on them."
        )
    return origin, replaced


def _write_run(
    run: NewRun,
    loaded: LoadedModel,
    data_split: DataSplit,
    pixels: dict[str, Any],
    description: dict[str, Any],
) -> RunFolder:
    """Creates the run folder with everything a resume needs."""
    started = datetime.datetime.fromisoformat(description["started"])
    name = f"{started:%Y-%m-%d}-{loaded.name}-{description['settings']['training']['mode']}"
    folder = run.run if isinstance(run.run, RunFolder) else create_run(run.run, name, run.runs)
    try:
        write_split(folder.split_file, data_split.rows)
        write_labels(folder, data_split.labels)
        write_json(folder.preprocessing_file, pixels)
        save_tensors(folder.start_checkpoint, loaded.module.state_dict(), {})
        # Last, since this file makes the folder a run.
        write_json(folder.config_file, description)
    except FinetuneError:
        if not isinstance(run.run, RunFolder):
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return folder


def _describe(
    config: ResolvedConfig,
    loaded: LoadedModel,
    data_split: DataSplit,
    started: datetime.datetime,
) -> dict[str, Any]:
    """Returns the content of config.json before the first step."""
    import timm

    return {
        "photos": str(data_split.root.absolute()),
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
        "split": data_split.proof.summary() if data_split.proof else None,
        **data_split.task.config_entry(),
        "finished": False,
    }


def crop_policy(
    collection: Collection, catalog: Path | None, before: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """Returns the crop policy for predictions, as in `curation.crop_policy`.

    None where most photos have no crop: predictions then use the run's fit. `before` is the policy
    of the parent run, used where the collection has none.
    """
    with_crop = sum(photo.crop is not None for photo in collection.photos)
    if 2 * with_crop <= len(collection):
        return None
    policy = read_policy(collection.root, catalog)
    if policy is not None:
        return policy.to_dict()
    return before or CropPolicyConfig(method="saliency").to_dict()


def crop_notes(
    collection: Collection, policy: dict[str, Any] | None, before: dict[str, Any] | None = None
) -> list[str]:
    """Returns notes about the crops; `before` as in `crop_policy`."""
    if policy is None:
        if before is None:
            return []
        return [
            "The parent run was trained on crops around subjects, and most of these photos have "
            "none. Create them with: finetune crop"
        ]
    without = sum(photo.crop is None for photo in collection.photos)
    notes = [
        "Most photos have a crop around their subject; the run trains on these, and its "
        "predictions crop photos in the same way."
    ]
    if without and before is not None:
        bare = count(without, "photo has", "photos have")
        notes.append(f"{bare} no crop yet. Create them with: finetune crop")
    return notes

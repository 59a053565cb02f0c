"""Warm start from a parent run: its network, preprocessing and split.

Photos of earlier runs stay in their parts of the split, since the network was trained on them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from finetune.config import CollectionConfig, LabelsConfig, TrainConfig
from finetune.config_io import problems, settings
from finetune.errors import ConfigError, FinetuneError, RunError
from finetune.formatting import percent
from finetune.models import factory
from finetune.models.factory import LoadedModel
from finetune.models.heads import HeadExpansion, expand_head
from finetune.models.registry import resolve_preprocessing
from finetune.photos.collection import Collection, Part, Photo
from finetune.photos.preprocessing import Preprocessing
from finetune.photos.scan import scan
from finetune.photos.split.grouping import photo_groups
from finetune.photos.split.split import read_split
from finetune.runs.folder import RunFolder
from finetune.runs.loading import load_network
from finetune.tasks.data_split import DataSplit, split_collection
from finetune.training.final_weights import keeps_start

logger = logging.getLogger(__name__)

INHERITED = (
    *("min_photos", "validation", "test", "group_by", "size", "fit"),
    *("multi_label", "negatives", "label_precision"),
)
"""Settings inherited from the parent run unless set: those that decide what
the network sees and how photos are split. How it trains is decided anew."""


@dataclass(frozen=True, kw_only=True)
class ParentRun:
    """Finished run to start from.

    Attributes:
        labels: In the order of the network's outputs.
        crop_policy: Crop policy of predictions; None: photos are not cropped.
    """

    run: RunFolder
    description: dict[str, Any]
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    crop_policy: dict[str, Any] | None

    @property
    def model(self) -> str:
        """Timm's name of the architecture."""
        return str(self.description["model"])

    @property
    def weights_file(self) -> Path:
        """Tensors to start from: the trained network, even where the model is another."""
        return self.run.best_file if self.run.best_file.is_file() else self.run.model_file

    def starting_point(self) -> tuple[str, str | None]:
        """Returns the weights to start from, in words, and a warning where they were not trained.

        Raises:
            RunError: The run's weights are damaged.
        """
        description = self.description
        mode = description.get("settings", {}).get("training", {}).get("mode")
        epoch, epochs = description.get("best_epoch"), description.get("epochs_done")
        if mode not in ("full", "gradual") or not epoch:
            return f"{self.run.path}", None
        untrained = f"{self.run.path} was trained for {epochs} epochs, but "
        again = "Its training is not continued: train it again for that."
        if self.run.best_file.is_file():
            if keeps_start(self.run):
                untrained += "its best weights equal those before its first epoch. "
                return str(self.run.path), untrained + again
        else:
            share = description.get("share_of_training", 1.0)
            if share == 0:
                untrained += "it kept only the frozen backbone with its head. "
                return str(self.run.path), untrained + again
            if share != 1:
                return (
                    f"{self.run.path}, {percent(share, 0)} of the way to epoch {epoch} of {epochs}",
                    None,
                )
        return f"{self.run.path}, trained network of epoch {epoch} of {epochs}", None

    @property
    def cross_validated(self) -> bool:
        """Whether all its photos were trained on, and its metrics are those of folds."""
        return any(row.fold is not None for row in read_split(self.run.split_file))

    def was_trained_on(self, collection: Collection) -> bool:
        """Returns whether it was trained on a photo of the collection."""
        seen = {row.digest for row in read_split(self.run.split_file)}
        return any(photo.digest in seen for photo in collection.photos)

    def photos(self) -> Path:
        """Returns the folder of its photos.

        Raises:
            RunError: The folder does not exist anymore.
        """
        root = Path(self.description["photos"])
        if not root.is_dir():
            raise RunError(
                f"The photos of {self.run.path} are no longer in {root}. "
                f"Give their folder: finetune train --from {self.run.path} PHOTOS"
            )
        return root


def open_parent(run: RunFolder) -> ParentRun:
    """Returns a finished run to start from.

    Raises:
        RunError: It is not finished, or one of its files is missing or damaged.
    """
    description = run.read(run.config_file)
    if not description.get("finished"):
        raise RunError(
            f"--from {run.path}: its training is not finished. "
            f"Finish it first: finetune train --resume {run.path}"
        )
    pixels = run.read(run.preprocessing_file)
    return ParentRun(
        run=run,
        description=description,
        labels=tuple(run.read(run.labels_file)),
        preprocessing=Preprocessing.from_dict(pixels),
        crop_policy=pixels.get("crop_policy"),
    )


def inherit(
    config: TrainConfig,
    parent: ParentRun,
    *,
    explicit: Container[str] = (),
    same_photos: bool = False,
) -> TrainConfig:
    """Returns a config with unset settings inherited from a parent run.

    Args:
        config: Requested settings.
        parent: Run that gives the rest.
        explicit: Names of requested settings; these are kept even at their default values.
        same_photos: Whether the photos are in the run's own folder, so that its catalog is used.

    Raises:
        ConfigError: `config` also names weights, or another network.
    """
    requested = config.model
    if requested.weights is not None:
        raise ConfigError(
            f"--from {parent.run.path} starts from the weights of that run, and "
            f"--weights {requested.weights} from others. Leave one of them out."
        )
    if requested.model is not None and _architecture(requested.model) != _architecture(
        parent.model
    ):
        raise ConfigError(
            f"--model {requested.model}: {parent.run.path} is a {parent.model}, and --from "
            "continues with its network. Leave --model out, or start a new run without --from."
        )
    channels = config.pixels.channels
    if channels is not None and channels != parent.preprocessing.channels:
        raise ConfigError(
            f"--channels {channels}: the network of {parent.run.path} takes "
            f"{parent.preprocessing.channels}, and --from continues with it. Leave --channels out."
        )
    changed: dict[str, dict[str, Any]] = {"model": {"model": parent.model}}
    before = parent.description.get("settings", {})
    for setting in settings():
        section = before.get(setting.concern, {})
        name, requested_value = (
            setting.name,
            getattr(getattr(config, setting.concern), setting.name),
        )
        untouched = requested_value == setting.default and name not in explicit
        if name in INHERITED and name in section and untouched:
            changed.setdefault(setting.concern, {})[name] = section[name]
    replaced: dict[str, Any] = {
        concern: dataclasses.replace(getattr(config, concern), **values)
        for concern, values in changed.items()
    }
    catalog = before.get("collection", {}).get("catalog")
    if same_photos and catalog and config.collection.catalog is None:
        replaced["collection"] = dataclasses.replace(
            replaced.get("collection", config.collection), catalog=Path(catalog)
        )
    arguments = before.get("model_args") or {}
    if config.model_args and dict(config.model_args) != dict(arguments):
        raise ConfigError(
            f"--model-arg: --from continues with the network of {parent.run.path} as it is. "
            "Leave --model-arg out."
        )
    replaced["model_args"] = arguments
    if parent.preprocessing.whiten:
        replaced["recipe"] = {"whiten": True, **config.recipe}
    inherited = dataclasses.replace(config, **replaced)
    if wrong := problems(inherited):
        raise RunError(f"{parent.run.config_file} is damaged: {'; '.join(wrong)}.")
    return inherited


def load_parent(parent: ParentRun, config: TrainConfig) -> LoadedModel:
    """Returns the trained network of a parent run, with its head, for the image size of `config`.

    Raises:
        RunError: Its weights are missing or damaged.
        ModelError: They do not fit its architecture, or the requested size.
    """
    preprocessing = parent.preprocessing
    if config.pixels.channels not in (None, preprocessing.channels):
        raise ConfigError(
            f"--channels {config.pixels.channels}: the network of the run {parent.run.name} has "
            f"{preprocessing.channels}. Leave --channels out."
        )
    weights = parent.weights_file
    module = load_network(
        parent.run, parent.model, len(parent.labels), preprocessing, device="cpu", weights=weights
    )
    size, fit = config.pixels.size or preprocessing.size, config.pixels.fit
    default = resolve_preprocessing(parent.model, size=size, fit=fit)
    pretrained = timm.get_pretrained_cfg(parent.model)
    if size != preprocessing.size and pretrained and pretrained.fixed_input_size:
        request = factory.ModelRequest(
            name=parent.model,
            weights=str(weights),
            size=size,
            channels=preprocessing.channels,
            fit=fit,
        )
        module = factory.create_model(request).module
    crop_pct = preprocessing.crop_pct if fit == preprocessing.fit else default.crop_pct
    preprocessing = dataclasses.replace(preprocessing, size=size, fit=fit, crop_pct=crop_pct)
    return LoadedModel(module, parent.model, preprocessing, f"the run {parent.run.name}")


def expand_parent_head(
    loaded: LoadedModel, parent: ParentRun, labels: Sequence[str], *, seed: int
) -> tuple[HeadExpansion, str]:
    """Expands the head of a parent run's network for new labels; returns a note about it."""
    growth = expand_head(loaded.module, parent.labels, labels, seed=seed)
    where, kept = f"Starts from {parent.starting_point()[0]}", len(growth.kept)
    if not kept:
        return growth, f"{where}: none of its labels is left, so only its backbone is used."
    text = f"{where}: {kept} {'label keeps its' if kept == 1 else 'labels keep their'}"
    text += " part of the head"
    if growth.new:
        text += f"; new: {_listed(growth.new)}"
    if growth.dropped:
        text += f"; dropped, since no photo has them now: {_listed(growth.dropped)}"
    return growth, text + "."


def lineage(parent: ParentRun, growth: HeadExpansion, *, head: bool = True) -> dict[str, Any]:
    """Returns the lineage entry of config.json; `head`: whether its head is continued."""
    digest = hashlib.blake2b(parent.weights_file.read_bytes(), digest_size=16).hexdigest()
    return {
        "run": str(parent.run.path.absolute()),
        "started": parent.description.get("started"),
        "model_digest": digest,
        "labels": {name: list(value) for name, value in vars(growth).items()},
        "head": head,
    }


def _architecture(name: str) -> str:
    return name.partition(".")[0]


def _listed(labels: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(labels[:most])
    return shown if len(labels) <= most else f"{shown} and {len(labels) - most} more"


@dataclass(frozen=True, kw_only=True)
class EarlierPhotos:
    """Photos of earlier runs with their parts.

    Attributes:
        parts: Part of every photo, by digest.
        absent: Photos that are not in the collection now, as far as their files still exist.
    """

    parts: Mapping[str, Part]
    absent: tuple[Photo, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PinnedPhotos:
    """Collection with the parts of its pinned photos.

    Attributes:
        collection: Without photos that resemble several parts.
        parts: Part by digest, of photos of earlier runs and of their near-duplicates.
    """

    collection: Collection
    parts: Mapping[str, Part]
    notes: tuple[str, ...]


def split_with_pinned(
    collection: Collection,
    run: RunFolder,
    config: CollectionConfig,
    *,
    seed: int,
    labels: LabelsConfig | None = None,
) -> DataSplit:
    """Returns a split that keeps the photos of `run` and of its parent runs in their parts.

    Near-duplicates of these photos join them, and all others are split as usual.

    Raises:
        CollectionError: Too few labels, or too few photos of one.
        RunError: The run's split.csv cannot be read.
    """
    kept = pin_parts(collection, earlier_photos(run, collection), config)
    parts = split_collection(kept.collection, config, seed=seed, kept=kept.parts, labels=labels)
    return dataclasses.replace(parts, notes=(*kept.notes, *parts.notes))


def earlier_photos(run: RunFolder, collection: Collection) -> EarlierPhotos:
    """Returns the photos of a run and of its parent runs.

    A photo that had several parts is in the first of train, validation and test.
    """
    parts: dict[str, Part] = {}
    notes: list[str] = []
    roots: dict[Path, Path | None] = {}
    present: RunFolder | None = run
    seen: set[Path] = set()
    while present is not None and present.path.resolve() not in seen:
        seen.add(present.path.resolve())
        for row in read_split(present.split_file):
            if row.fold is not None:
                # Only its backbone was continued, which was not trained.
                continue
            before = parts.setdefault(row.digest, row.part)
            parts[row.digest] = min(before, row.part, key=_LEARNED.index)
        description = present.read(present.config_file)
        catalog = description.get("settings", {}).get("collection", {}).get("catalog")
        roots.setdefault(Path(description["photos"]), Path(catalog) if catalog else None)
        origin = (description.get("from") or {}).get("run")
        present = RunFolder(Path(origin)) if origin else None
        if present is not None and not present.split_file.is_file():
            notes.append(
                f"{present.path}, a parent run of {run.path}, is missing: photos that only it was "
                "trained on count as new."
            )
            present = None
    here = {photo.digest for photo in collection.photos}
    absent: dict[str, Photo] = {}
    for root, catalog in roots.items():
        if root.resolve() != collection.root.resolve():
            for photo in _photos_in(root, catalog):
                if photo.digest in parts and photo.digest not in here:
                    absent.setdefault(photo.digest, photo)
    return EarlierPhotos(parts=parts, absent=tuple(absent.values()), notes=tuple(notes))


def pin_parts(
    collection: Collection, memory: EarlierPhotos, config: CollectionConfig
) -> PinnedPhotos:
    """Returns the parts of photos of earlier runs and of their near-duplicates.

    A new photo that resembles photos of several parts is left out.
    """
    photos = collection.photos
    sides: dict[tuple[int, str], set[Part]] = defaultdict(set)
    groupings = _groupings(photos, memory.absent, config)
    for number, groups in enumerate(groupings):
        for photo, group in zip((*photos, *memory.absent), groups, strict=False):
            if photo.digest in memory.parts:
                sides[number, group].add(memory.parts[photo.digest])
    parts: dict[str, Part] = {}
    lost = []
    old = similar = 0
    for index, photo in enumerate(photos):
        found = set().union(*(sides[n, groups[index]] for n, groups in enumerate(groupings)))
        if photo.digest in memory.parts:
            parts[photo.digest] = memory.parts[photo.digest]
            old += 1
        elif len(found) == 1:
            (parts[photo.digest],) = found
            similar += 1
        elif found:
            lost.append(photo)
    left = {photo.digest for photo in lost}
    kept = tuple(photo for photo in photos if photo.digest not in left)
    notes = [*memory.notes, _counts_note(old, similar, len(kept) - old - similar)]
    moved = [p.path for p in kept if p.part and p.digest in parts and p.part != parts[p.digest]]
    if moved:
        notes.append(
            f"{_photos(len(moved), 'is', 'are')} in the folder of another part than before, and "
            f"{'stays' if len(moved) == 1 else 'stay'} in the old one, {moved[0]} among them."
        )
    if lost:
        notes.append(
            f"{_photos(len(lost), 'resembles', 'resemble', 'new ')} earlier photos of more than "
            f"one part and {'is' if len(lost) == 1 else 'are'} left out, {lost[0].path} among them."
        )
    return PinnedPhotos(
        collection=dataclasses.replace(collection, photos=kept), parts=parts, notes=tuple(notes)
    )


_LEARNED: tuple[Part, ...] = ("train", "validation", "test")


def _groupings(
    photos: Sequence[Photo], absent: Sequence[Photo], config: CollectionConfig
) -> list[list[str]]:
    assigned = {photo.digest: photo.group for photo in photos if photo.group}
    groupings = [photo_groups(photos, group_by=config.group_by, assigned=assigned)]
    if absent and config.group_by != "none":
        # Folders of two collections may share a name, so these are compared by their pixels.
        groupings.append(photo_groups([*photos, *absent], group_by="duplicates"))
    return groupings


def _photos_in(root: Path, catalog: Path | None) -> Sequence[Photo]:
    try:
        return scan(root, catalog=catalog).photos
    except FinetuneError as error:
        logger.warning(
            "New photos cannot be compared with those of the earlier run: %s", str(error)
        )
        return ()


def _counts_note(old: int, similar: int, new: int) -> str:
    text = f"{_photos(old, 'keeps its', 'keep their')} part of the earlier run; "
    if similar:
        text += f"{similar:,} near-{'duplicate' if similar == 1 else 'duplicates'} of these "
        text += f"{'joins' if similar == 1 else 'join'} the same part; "
    return text + f"{new:,} {'is' if new == 1 else 'are'} new."


def _photos(count: int, one: str, many: str, kind: str = "") -> str:
    return f"{count:,} {kind}{'photo' if count == 1 else 'photos'} {one if count == 1 else many}"

"""Split pinning: photos of earlier runs stay in their parts.

A network that goes on from an earlier run has learned that run's training photos, and was chosen by
its validation photos. A photo that changed sides would be judged by a network that knows it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.config import CollectionConfig, LabelsConfig
from finetune.errors import FinetuneError
from finetune.photos.collection import Collection, Part, Photo
from finetune.photos.scan import scan
from finetune.photos.split.grouping import photo_groups
from finetune.photos.split.split import read_split
from finetune.runs.folder import RunFolder
from finetune.tasks.data_split import DataSplit, split_collection

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Photos of earlier runs with their parts.

    Attributes:
        parts: Part by digest of every photo that they had.
        absent: Those of the photos that are not in the collection now, where they still are.
        notes: What a person must know of it.
    """

    parts: Mapping[str, Part]
    absent: tuple[Photo, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Collection with the parts of its pinned photos.

    Attributes:
        collection: Without the photos that would be on both sides.
        parts: Part by digest: of what earlier runs had, and of what nearly looks the same.
        notes: What a person must know of it.
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
    """Returns a split that keeps the photos of `run` in their parts.

    Photos of the run and of those that it came from keep their part, what looks like one of them
    goes with it, and all others are split as usual.

    Raises:
        CollectionError: Too few labels, or too few photos of one.
        RunError: The run's split.csv cannot be read.
    """
    kept = keep_sides(collection, remember(run, collection), config)
    parts = split_collection(kept.collection, config, seed=seed, kept=kept.parts, labels=labels)
    return dataclasses.replace(parts, notes=(*kept.notes, *parts.notes))


def remember(run: RunFolder, collection: Collection) -> Memory:
    """Returns the photos of a run and of its parent runs.

    Where a photo had several parts, it counts as learned: train comes first, then validation.

    Args:
        run: The latest of them.
        collection: What is to be trained on now.
    """
    parts: dict[str, Part] = {}
    notes: list[str] = []
    roots: dict[Path, Path | None] = {}
    present: RunFolder | None = run
    seen: set[Path] = set()
    while present is not None and present.path.resolve() not in seen:
        seen.add(present.path.resolve())
        for row in read_split(present.split_file):
            before = parts.setdefault(row.digest, row.part)
            parts[row.digest] = min(before, row.part, key=_LEARNED.index)
        description = present.read(present.config_file)
        catalog = description.get("settings", {}).get("collection", {}).get("catalog")
        roots.setdefault(Path(description["photos"]), Path(catalog) if catalog else None)
        origin = (description.get("from") or {}).get("run")
        present = RunFolder(Path(origin)) if origin else None
        if present is not None and not present.split_file.is_file():
            notes.append(
                f"{present.path}, which {run.path} came from, is gone: photos that it alone "
                "learned from cannot be told from new ones."
            )
            present = None
    here = {photo.digest for photo in collection.photos}
    absent: dict[str, Photo] = {}
    for root, catalog in roots.items():
        if root.resolve() != collection.root.resolve():
            for photo in _photos_in(root, catalog):
                if photo.digest in parts and photo.digest not in here:
                    absent.setdefault(photo.digest, photo)
    return Memory(parts=parts, absent=tuple(absent.values()), notes=tuple(notes))


def keep_sides(collection: Collection, memory: Memory, config: CollectionConfig) -> Kept:
    """Returns the parts of photos of earlier runs and of their near-duplicates.

    A new photo that looks like photos on both sides can be on neither; it is left out.
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
    old = alike = 0
    for index, photo in enumerate(photos):
        found = set().union(*(sides[n, groups[index]] for n, groups in enumerate(groupings)))
        if photo.digest in memory.parts:
            parts[photo.digest] = memory.parts[photo.digest]
            old += 1
        elif len(found) == 1:
            (parts[photo.digest],) = found
            alike += 1
        elif found:
            lost.append(photo)
    left = {photo.digest for photo in lost}
    kept = tuple(photo for photo in photos if photo.digest not in left)
    notes = [*memory.notes, _in_words(old, alike, len(kept) - old - alike)]
    moved = [p.path for p in kept if p.part and p.digest in parts and p.part != parts[p.digest]]
    if moved:
        notes.append(
            f"{_photos(len(moved), 'is', 'are')} in the folder of another part than before, and "
            f"{'stays' if len(moved) == 1 else 'stay'} in the old one, {moved[0]} among them."
        )
    if lost:
        notes.append(
            f"{_photos(len(lost), 'looks', 'look', 'new ')} like earlier photos of more than one "
            f"part and {'is' if len(lost) == 1 else 'are'} left out, {lost[0].path} among them."
        )
    return Kept(
        collection=dataclasses.replace(collection, photos=kept), parts=parts, notes=tuple(notes)
    )


_LEARNED: tuple[Part, ...] = ("train", "validation", "test")


def _groupings(
    photos: Sequence[Photo], absent: Sequence[Photo], config: CollectionConfig
) -> list[list[str]]:
    said = {photo.digest: photo.group for photo in photos if photo.group}
    groupings = [photo_groups(photos, group_by=config.group_by, said=said)]
    if absent and config.group_by != "none":
        # Folders of two collections may share a name, so these are compared by their looks.
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


def _in_words(old: int, alike: int, new: int) -> str:
    text = f"{_photos(old, 'keeps its', 'keep their')} part of the earlier run; "
    if alike:
        text += f"{alike:,} that {'looks' if alike == 1 else 'look'} like one of them "
        text += f"{'goes' if alike == 1 else 'go'} along; "
    return text + f"{new:,} {'is' if new == 1 else 'are'} new."


def _photos(count: int, one: str, many: str, kind: str = "") -> str:
    return f"{count:,} {kind}{'photo' if count == 1 else 'photos'} {one if count == 1 else many}"

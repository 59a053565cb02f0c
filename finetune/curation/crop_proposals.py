"""Proposed square crops of a collection, saved in its catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.curation.crop_policy import CropPolicy, CropPolicyConfig, load_policy, save_policy
from finetune.errors import DecodeError
from finetune.formatting import count
from finetune.photos.catalog.catalog import Catalog, open_catalog
from finetune.photos.collection import Collection, Photo, Problem
from finetune.photos.crops import Crop
from finetune.photos.members import read_bytes
from finetune.photos.scan import scan
from finetune.processes import ALONE, Team

_AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Proposed crops.

    Attributes:
        crops: By digest.
        nothing_found: Photos without a subject, which get no crop.
        problems: Photos that could not be opened.
    """

    crops: Mapping[str, Crop]
    nothing_found: tuple[Photo, ...]
    problems: tuple[Problem, ...]


def propose(
    collection: Collection,
    policy: CropPolicy,
    *,
    skip: AbstractSet[str] = frozenset(),
    progress: Callable[[int, int], None] | None = None,
    team: Team = ALONE,
) -> Proposals:
    """Returns a crop for each photo of a collection; copies of a photo are read once.

    Args:
        collection: The photos.
        policy: Returns the crop of a photo.
        skip: Digests of photos to leave out.
        progress: Called as ``progress(done, total)``.
        team: Processes that share the photos; each returns the crops of all.
    """
    every = list({p.digest: p for p in collection.photos if p.digest not in skip}.values())
    photos = [every[index] for index in team.shard(np.arange(len(every))).tolist()]
    crops: dict[str, Crop] = {}
    nothing: list[Photo] = []
    problems: list[Problem] = []
    for done, (photo, content) in enumerate(_contents(collection, photos), start=1):
        try:
            crop = policy(content) if isinstance(content, bytes) else None
            if crop is not None:
                crops[photo.digest] = crop
            elif isinstance(content, bytes):
                nothing.append(photo)
            else:
                problems.append(Problem(path=photo.path, reason=content))
        except DecodeError as error:
            problems.append(Problem(path=photo.path, reason=error.reason))
        if progress is not None:
            progress(done, len(photos))
    parts = team.gather_objects((crops, nothing, problems))
    return Proposals(
        crops={digest: crop for part, _, _ in parts for digest, crop in part.items()},
        nothing_found=tuple(photo for _, part, _ in parts for photo in part),
        problems=tuple(problem for _, _, part in parts for problem in part),
    )


def propose_crops(
    root: Path,
    config: CropPolicyConfig,
    *,
    catalog: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Proposals:
    """Proposes a crop for each photo in a folder and saves it in the catalog.

    Crops set by a person stay. Trainings use the crops, and the policy is saved for predictions.

    Raises:
        CollectionError: The folder cannot be scanned.
        ModelError: The policy's network cannot be loaded.
    """
    policy, loaded = load_policy(config)
    collection = scan(root, catalog=catalog)
    with open_catalog(root, catalog) as opened:
        found = propose_to_catalog(opened, collection, policy, progress=progress)
    save_policy(root, loaded, catalog)
    return found


def propose_to_catalog(
    catalog: Catalog,
    collection: Collection,
    policy: CropPolicy,
    *,
    progress: Callable[[int, int], None] | None = None,
    team: Team = ALONE,
) -> Proposals:
    """Proposes a crop for each photo and saves it in the catalog; crops set by a person stay.

    Of several processes, the main one saves them.
    """
    sources = catalog.crop_sources()
    by_person = {digest for digest, source in sources.items() if source == "person"}
    found = propose(collection, policy, skip=by_person, progress=progress, team=team)
    # Removes an earlier proposal where no subject is found now.
    crops = {photo.digest: None for photo in found.nothing_found} | dict(found.crops)
    if team.is_main:
        catalog.propose_crops(crops)
    return found


def accept(catalog: Catalog, digests: Sequence[str] | None = None) -> int:
    """Accepts proposed crops as set by a person, undoably; returns their number.

    Args:
        catalog: The catalog.
        digests: Digests of the photos; None: all.
    """
    crops = catalog.crops()
    chosen = _by_model(catalog, digests)
    if chosen:
        with catalog.writer(f"crop {count(len(chosen), 'photo')}", chosen) as writer:
            for digest in chosen:
                writer.set_crop(digest, crops[digest])
    return len(chosen)


def clear(catalog: Catalog, digests: Sequence[str] | None = None) -> int:
    """Deletes proposed crops, not those set by a person; returns their number."""
    chosen = _by_model(catalog, digests)
    if chosen:
        catalog.propose_crops(dict.fromkeys(chosen))
    return len(chosen)


def undo_accept(catalog: Catalog) -> str | None:
    """Undoes the last action if it changed crops; returns its description, or None."""
    latest = next((action for action in catalog.history() if not action.undone), None)
    if latest is None or not latest.what.startswith("crop "):
        return None
    undone = catalog.undo(latest.number)
    return None if undone is None else undone.what


def _by_model(catalog: Catalog, digests: Sequence[str] | None) -> list[str]:
    sources = catalog.crop_sources()
    chosen = sources if digests is None else digests
    return [digest for digest in chosen if sources.get(digest) == "model"]


def _contents(
    collection: Collection, photos: Sequence[Photo]
) -> Iterator[tuple[Photo, bytes | str]]:
    """Yields each photo with the bytes of its file, or the reason why it cannot be read."""

    def read(photo: Photo) -> bytes | str:
        try:
            return read_bytes(collection.path_of(photo))
        except OSError as error:
            return (error.strerror or "cannot be read").lower()

    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        for start in range(0, len(photos), _AHEAD):
            step = photos[start : start + _AHEAD]
            yield from zip(step, pool.map(read, step), strict=True)

"""Moves of photos into the folders of their labels: planned, journaled and undoable."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from finetune.errors import CollectionError
from finetune.files import numbered, safe_folders
from finetune.photos.collection import Collection
from finetune.photos.file_mover import (
    JOURNAL,
    Move,
    MoveJournal,
    MoveResult,
    Progress,
    link_targets,
    remove_empty_folders,
)
from finetune.photos.labels import find_parts, nfc


def plan_moves(collection: Collection) -> tuple[Move, ...]:
    """Returns the moves after which each photo with one label lies in that label's folder.

    Photos without a label or with several stay where they are, and so do those whose folder has
    the label's name already, and those to which a symbolic link leads. A photo of a ready-made
    train/val/test split stays in its part. No target is an existing file.
    """
    paths = [photo.path for photo in collection.photos] + [p.path for p in collection.problems]
    parts = find_parts(paths)
    # Names that differ in case alone are one file to some systems.
    taken = {path.casefold() for path in paths}
    folders = safe_folders(label for photo in collection.photos for label in photo.labels)
    needed = link_targets(collection.root)
    moves = []
    for photo in collection.photos:
        folder_label, _ = parts.place(photo.path)
        if len(photo.labels) != 1 or photo.labels[0] == folder_label or photo.path in needed:
            continue
        folder = PurePosixPath(parts.folder_of(photo.path, folders[photo.labels[0]]))
        name = PurePosixPath(photo.path).name
        target = _free(collection.root, folder / name, taken)
        taken.add(target.casefold())
        moves.append(Move(source=photo.path, target=target))
    return tuple(moves)


def apply_moves(
    root: Path, cache_dir: Path, moves: Sequence[Move], *, progress: Progress | None = None
) -> tuple[Move, ...]:
    """Moves files within a collection and returns the moves that were done.

    A file that no longer exists, or whose target has been taken since, stays out.

    Args:
        root: The collection's folder.
        cache_dir: Folder of its caches and of the journal.
        moves: As returned by `plan_moves`.
        progress: Called as ``progress(done, total)``.

    Raises:
        StorageError: A file could not be moved; those before it are in the journal.
    """
    journal = _journal_of(root, cache_dir)
    journal.prepare()
    done = []
    for number, move in enumerate(moves, start=1):
        if os.path.lexists(root / move.source) and not os.path.lexists(root / move.target):
            done.append(journal.transfer(move.source, move.target))
        if progress is not None:
            progress(number, len(moves))
    for move in done:
        remove_empty_folders((root / move.source).parent, root)
    return tuple(done)


def undo_moves(root: Path, cache_dir: Path, *, progress: Progress | None = None) -> MoveResult:
    """Moves files back to where they were before `apply_moves`; see `MoveJournal.undo`.

    Raises:
        CollectionError: Nothing was moved, or the journal is damaged.
        StorageError: A file could not be moved; calling again continues where it stopped.
    """
    journal = _journal_of(root, cache_dir)
    if not journal.path.is_file():
        raise CollectionError(f"Nothing was moved in {root}: there is no {journal.path}.")
    return journal.undo(progress=progress)


def _journal_of(root: Path, cache_dir: Path) -> MoveJournal:
    return MoveJournal(cache_dir / JOURNAL, target_root=root, source_root=root)


def _free(root: Path, path: PurePosixPath, taken: set[str]) -> str:
    target, number = path, 2
    while nfc(str(target)).casefold() in taken or os.path.lexists(root / target):
        target = path.with_name(numbered(path.name, number))
        number += 1
    return str(target)

"""Moving photos into folders named after their labels: asked for, journalled, undoable.

Each move is in ``moves.jsonl`` of the collection's home, and on disk, before the file moves.
Whatever moment a power cut comes at, each photo is where it was or where the journal says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from finetune.errors import CollectionError
from finetune.files import safe_name, storage_errors, write_text
from finetune.photos.collection import Collection
from finetune.photos.labels import find_parts, nfc, place_of

JOURNAL = "moves.jsonl"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Move:
    """One file, from where to where; paths below the collection's root."""

    source: str
    target: str


def plan_moves(collection: Collection) -> tuple[Move, ...]:
    """Returns the moves after which each photo with one label lies in that label's folder.

    Photos without a label or with several stay where they are, and so do those whose folder says
    their label already. A photo of a ready part stays in it. No target is taken by another file.
    """
    paths = [photo.path for photo in collection.photos] + [p.path for p in collection.problems]
    parts = find_parts(paths)
    # Names that differ in case alone are one file to some systems.
    taken = {path.casefold() for path in paths}
    moves = []
    for photo in collection.photos:
        folder_label, _ = place_of(photo.path, parts)
        if len(photo.labels) != 1 or photo.labels[0] == folder_label:
            continue
        pieces = [safe_name(piece) for piece in photo.labels[0].split("/")]
        # A folder that begins with a dot would be passed over by the next scan.
        folder = PurePosixPath(*(f"_{p}" if p.startswith(".") else p for p in pieces))
        first = photo.path.partition("/")[0]
        if photo.part is not None and first in parts:
            folder = PurePosixPath(first) / folder
        name = PurePosixPath(photo.path).name
        target = _free(collection.root, folder / name, taken)
        taken.add(target.casefold())
        moves.append(Move(source=photo.path, target=target))
    return tuple(moves)


def apply_moves(
    root: Path, cache_dir: Path, moves: Sequence[Move], *, progress: Progress | None = None
) -> tuple[Move, ...]:
    """Moves files within a collection; returns the moves that were done.

    A file that has gone since, and one whose target has been taken since, stays out.

    Args:
        root: The collection's folder.
        cache_dir: Where its caches are, and the journal.
        moves: What `plan_moves` returned.
        progress: Called as ``progress(done, total)``.

    Raises:
        StorageError: A file could not be moved; those before it are in the journal.
    """
    done = []
    with storage_errors(root):
        cache_dir.mkdir(parents=True, exist_ok=True)
        journal = cache_dir / JOURNAL
        _drop_cut_line(journal)
        with journal.open("a", encoding="utf-8") as log:
            for number, move in enumerate(moves, start=1):
                source, target = root / move.source, root / move.target
                if os.path.lexists(source) and not os.path.lexists(target):
                    log.write(json.dumps([move.source, move.target]) + "\n")
                    log.flush()
                    os.fsync(log.fileno())
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source.rename(target)
                    done.append(move)
                if progress is not None:
                    progress(number, len(moves))
        for move in done:
            _remove_empty(root, PurePosixPath(move.source).parent)
    return tuple(done)


def take_back(root: Path, cache_dir: Path, *, progress: Progress | None = None) -> tuple[Move, ...]:
    """Moves files back to where they were before `apply_moves`; returns the moves it undid.

    A place that has been taken since is not overwritten: that file stays, and stays in the journal.

    Raises:
        CollectionError: Nothing was moved, or the journal is damaged.
        StorageError: A file could not be moved; calling again goes on where it stopped.
    """
    journal = cache_dir / JOURNAL
    if not journal.is_file():
        raise CollectionError(f"Nothing was moved in {root}: there is no {journal}.")
    _drop_cut_line(journal)
    entries = _read(journal)
    left: list[Move] = []
    done = []
    with storage_errors(root):
        for number, move in enumerate(reversed(entries), start=1):
            source, target = root / move.target, root / move.source
            if os.path.lexists(source) and not os.path.lexists(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                source.rename(target)
                _remove_empty(root, PurePosixPath(move.target).parent)
                done.append(move)
            elif os.path.lexists(source):
                left.insert(0, move)
            if progress is not None:
                progress(number, len(entries))
        if left:
            write_text(journal, "".join(json.dumps([m.source, m.target]) + "\n" for m in left))
        else:
            journal.unlink()
    return tuple(done)


def _read(journal: Path) -> list[Move]:
    moves = []
    for number, line in enumerate(journal.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry: Any = json.loads(line)
            source, target = map(str, entry)
        except (ValueError, TypeError) as error:
            raise CollectionError(f"{journal}, line {number} is damaged: {line[:80]!r}.") from error
        for path in (source, target):
            # A journal is a file like any other: it may not send photos anywhere it likes.
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise CollectionError(f"{journal}, line {number} leads out of {journal.parent}.")
        moves.append(Move(source=source, target=target))
    return moves


def _drop_cut_line(journal: Path) -> None:
    """Takes off a last line that a power cut left unfinished: its file had not moved yet."""
    if journal.is_file():
        text = journal.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            write_text(journal, whole)


def _free(root: Path, wanted: PurePosixPath, taken: set[str]) -> str:
    target, number = wanted, 2
    while nfc(str(target)).casefold() in taken or os.path.lexists(root / target):
        target = wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")
        number += 1
    return str(target)


def _remove_empty(root: Path, folder: PurePosixPath) -> None:
    """Removes a folder that was left empty, and those above it; never the root."""
    while folder.parts:
        try:
            (root / folder).rmdir()
        except OSError:
            return
        folder = folder.parent

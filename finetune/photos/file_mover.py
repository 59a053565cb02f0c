"""Moving photos out of a collection so that they can be put back: a journal, and no overwriting.

Each move is written to ``moves.jsonl`` in the quarantine folder, and is on disk, before the file
moves. Whatever moment a power cut comes at, each photo is either where it was or where the journal
says, and `restore` puts it back.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from finetune.errors import CollectionError
from finetune.files import storage_errors, write_atomically, write_text

JOURNAL = "moves.jsonl"


@dataclass(frozen=True, kw_only=True)
class Moves:
    """What a quarantine or a restore did.

    Attributes:
        done: Paths below the collection's root of the photos that were moved.
        problems: Photos that were left where they are, as (path, reason).
    """

    done: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]


def quarantine(
    root: Path,
    paths: Sequence[str],
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Moves:
    """Moves photos of a collection to another folder, under the same relative paths.

    Args:
        root: The collection's folder.
        paths: Photos, as paths below `root`.
        folder: Where they go; it is made, and must lie outside of `root`.
        progress: Called as ``progress(done, total)``.

    Raises:
        CollectionError: `folder` is inside of `root`, or already holds another collection's photos.
        StorageError: A photo could not be moved; those before it are in the journal.
    """
    root, folder = root.resolve(), folder.resolve()
    if folder.is_relative_to(root):
        raise CollectionError(
            f"--quarantine {folder} lies inside {root}, where the next scan would find the photos "
            "again. Choose a folder outside of it."
        )
    journal = folder / JOURNAL
    _drop_cut_line(journal)
    _check_owner(journal, root)
    done: list[str] = []
    problems: list[tuple[str, str]] = []
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with journal.open("a", encoding="utf-8", errors="surrogateescape") as log:
            for number, path in enumerate(paths, start=1):
                source, target = root / path, _free(folder / path)
                if not os.path.lexists(source):
                    problems.append((path, "is gone"))
                else:
                    entry = {
                        "root": str(root),
                        "path": path,
                        "moved_to": target.relative_to(folder).as_posix(),
                    }
                    _write(log, entry)
                    _move(source, target)
                    done.append(path)
                if progress is not None:
                    progress(number, len(paths))
    return Moves(done=tuple(done), problems=tuple(problems))


def restore(
    root: Path, folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> Moves:
    """Moves the photos of a quarantine back to where they were.

    A place that has been taken since is not overwritten: that photo stays in the quarantine and in
    its journal. With the last photo the journal goes, too.

    Raises:
        CollectionError: `folder` is no quarantine of this collection.
        StorageError: A photo could not be moved; the same command goes on where it stopped.
    """
    root, folder = root.resolve(), folder.resolve()
    journal = folder / JOURNAL
    if not journal.is_file():
        raise CollectionError(f"{folder} is no quarantine: it has no {JOURNAL}.")
    _drop_cut_line(journal)
    _check_owner(journal, root)
    entries = _read(journal)
    done: list[str] = []
    problems: list[tuple[str, str]] = []
    left: list[dict[str, str]] = []
    with storage_errors(root):
        # Backwards, so that a path which was moved twice ends with its first file.
        for number, entry in enumerate(reversed(entries), start=1):
            source, target = folder / entry["moved_to"], root / entry["path"]
            if os.path.lexists(source):
                if not os.path.lexists(target):
                    _move(source, target)
                    done.append(entry["path"])
                elif _same(source, target):
                    source.unlink()  # a move between disks that was cut short
                    done.append(entry["path"])
                else:
                    problems.append((entry["path"], "another file has its place"))
                    left.insert(0, entry)
            elif not os.path.lexists(target):
                problems.append((entry["path"], "is gone from the quarantine"))
            if progress is not None:
                progress(number, len(entries))
        if left:
            write_text(journal, "".join(json.dumps(entry) + "\n" for entry in left))
        else:
            journal.unlink()
        _remove_empty(folder)
    return Moves(done=tuple(done), problems=tuple(problems))


def _check_owner(journal: Path, root: Path) -> None:
    if not journal.is_file():
        return
    owners = {entry["root"] for entry in _read(journal)} - {str(root)}
    if owners:
        raise CollectionError(
            f"{journal.parent} holds photos of {min(owners)}, not of {root}. "
            "Name the collection that they came from, or choose another folder."
        )


def _read(journal: Path) -> list[dict[str, str]]:
    text = journal.read_text(encoding="utf-8", errors="surrogateescape")
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            entry = json.loads(line)
            checked = {name: str(entry[name]) for name in ("root", "path", "moved_to")}
        except (ValueError, KeyError, TypeError) as error:
            raise CollectionError(f"{journal}, line {number} is damaged: {line[:80]!r}.") from error
        for name in ("path", "moved_to"):
            # A journal is a file like any other: it may not send photos anywhere it likes.
            if Path(checked[name]).is_absolute() or ".." in Path(checked[name]).parts:
                raise CollectionError(
                    f"{journal}, line {number} leads out of the folder: {checked[name]!r}."
                )
        entries.append(checked)
    return entries


def _write(log: TextIO, entry: dict[str, str]) -> None:
    # Escaped to ASCII, so that no file name can break a line.
    log.write(json.dumps(entry) + "\n")
    log.flush()
    os.fsync(log.fileno())


def _drop_cut_line(journal: Path) -> None:
    """Takes off a last line that a power cut left unfinished: its file had not moved yet."""
    if journal.is_file():
        content = journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_atomically(journal, lambda file: file.write(whole))


def _free(target: Path) -> Path:
    """Returns the path, or one with a number where a file has it already."""
    number = 2
    free = target
    while os.path.lexists(free):
        free = target.with_name(f"{target.stem} ({number}){target.suffix}")
        number += 1
    return free


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Another disk: the copy is whole and on disk before the original goes.
        part = target.with_name(f".{target.name}.part")
        shutil.copy2(source, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.rename(target)
        source.unlink()


def _same(first: Path, second: Path) -> bool:
    return first.stat().st_size == second.stat().st_size and (
        first.read_bytes() == second.read_bytes()
    )


def _remove_empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            with contextlib.suppress(OSError):
                path.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()

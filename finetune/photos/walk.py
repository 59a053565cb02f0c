"""Finding the photos of a folder: any depth, no hidden folders, no endless loops."""

from __future__ import annotations

import os
import stat
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from finetune.errors import CollectionError
from finetune.photos.collection import Problem
from finetune.photos.decode.decoder import is_photo_name

_NOT_PHOTOS = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")
)
"""Folders, in lower case, in which systems keep copies and waste, thumbnails among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """A file that is a photo by its name.

    Attributes:
        path: Path below the root, with ``/``, spelled as on disk.
        size: Bytes.
        mtime_ns: Time of the last change, in nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(kw_only=True, slots=True)
class Found:
    """What a walk found: files, and what could not be looked at."""

    files: list[FoundFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def require_photos(root: Path, *, advice: str) -> Found:
    """Returns what `find_photos` finds where there is something; `advice` ends the error's line.

    Raises:
        CollectionError: There is no such folder, it cannot be read, or no photo is in it.
    """
    try:
        found = find_photos(root)
    except FileNotFoundError as error:
        raise CollectionError(f"There is no folder {root}. {advice}") from error
    except NotADirectoryError as error:
        raise CollectionError(f"{root} is a file, not a folder. {advice}") from error
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise CollectionError(
            f"The folder {root} cannot be read: {reason}. "
            "Change its permissions, or copy the photos elsewhere."
        ) from error
    if not found.files and not found.problems:
        raise CollectionError(f"There are no photos in {root}. {advice}")
    return found


def find_photos(root: Path) -> Found:
    """Returns the photos in a folder and below, sorted by path.

    Hidden files and folders are skipped, and so are the folders of operating systems. Symbolic
    links are followed, each folder being entered once: by its own name where it lies below the
    root, else by the first link to it.

    Raises:
        OSError: The root itself cannot be listed.
    """
    found = Found()
    entered = {_identity(root.stat())}
    links: deque[tuple[str, str]] = deque()
    _walk(str(root), "", found, entered, links)
    while links:
        folder, path = links.popleft()
        identity = _identity(os.stat(folder))  # noqa: PTH116 - strings are much faster here
        if identity not in entered:
            entered.add(identity)
            _walk(folder, path + "/", found, entered, links)
    found.files.sort(key=lambda file: file.path)
    found.problems.sort(key=lambda problem: problem.path)
    return found


def _walk(
    folder: str,
    prefix: str,
    found: Found,
    entered: set[tuple[int, int]],
    links: deque[tuple[str, str]],
) -> None:
    """Walks real folders; links to folders are put off, so that a folder's own name wins."""
    waiting = [(folder, prefix)]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                raise
            reason = f"this folder cannot be listed: {(error.strerror or 'error').lower()}"
            found.problems.append(Problem(path=prefix.rstrip("/"), reason=reason))
            continue
        for entry in listed:
            if entry.name.startswith(".") or entry.name.casefold() in _NOT_PHOTOS:
                continue
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                entered.add(_identity(os.stat(entry.path)))  # noqa: PTH116
                waiting.append((entry.path, path + "/"))
            elif entry.is_symlink() and _is_folder(entry):
                links.append((entry.path, path))
            elif is_photo_name(entry.name):
                _note_file(entry, path, found)


def _note_file(entry: os.DirEntry[str], path: str, found: Found) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", errors="replace")
        reason = "the file's name is not valid UTF-8; rename it"
        found.problems.append(Problem(path=shown, reason=reason))
        return
    try:
        status = entry.stat()
    except OSError as error:
        broken = "a link to a file that is not there" if entry.is_symlink() else None
        reason = broken or (error.strerror or "cannot be read").lower()
        found.problems.append(Problem(path=path, reason=reason))
        return
    if not stat.S_ISREG(status.st_mode):
        found.problems.append(Problem(path=path, reason="not a regular file"))
        return
    found.files.append(FoundFile(path=path, size=status.st_size, mtime_ns=status.st_mtime_ns))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino

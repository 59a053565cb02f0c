"""Photos named on the command line: files, folders, patterns, standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from finetune.errors import CollectionError
from finetune.photos.decode.decoder import is_photo_name
from finetune.photos.walk import find_photos

STDIN = "-"


def photos_of(
    sources: Sequence[str | Path], *, stdin: Iterable[str] = (), without: Path | None = None
) -> Iterator[Path]:
    """Yields the photos of paths, folders and patterns, in the order given.

    A folder stands for the photos in it at any depth, ``-`` for the paths in `stdin`, one a line,
    and a path with ``*``, ``?`` or ``[`` that does not exist is a pattern (``**``: any depth). A
    missing file is yielded too, so that it gets a row with the reason.

    Args:
        sources: Paths, patterns, ``-``.
        stdin: Lines for ``-``.
        without: Folder whose photos are skipped.

    Raises:
        CollectionError: A folder or pattern yields no photos, or a folder cannot be listed.
    """
    apart = without.resolve() if without is not None else None
    for source in sources:
        for path in _expanded(str(source), stdin):
            if apart is None or not path.resolve().is_relative_to(apart):
                yield path


def _expanded(source: str, stdin: Iterable[str]) -> Iterator[Path]:
    if source == STDIN:
        for line in stdin:
            name = line.rstrip("\r\n")
            if name:
                yield from _expanded_path(Path(name))
        return
    path = Path(source)
    if not os.path.lexists(path) and glob.has_magic(source):
        yield from _matches(source)
    else:
        yield from _expanded_path(path)


def _expanded_path(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    try:
        files = find_photos(path).files
    except OSError as error:
        raise CollectionError(
            f"The folder {path} cannot be listed: {(error.strerror or 'error').lower()}."
        ) from error
    if not files:
        raise CollectionError(f"There are no photos in {path}.")
    for file in files:
        yield path / file.path


def _matches(pattern: str) -> Iterator[Path]:
    found = False
    for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - may be absolute
        path = Path(name)
        if path.is_file() and is_photo_name(path.name):
            found = True
            yield path
    if not found:
        raise CollectionError(f"No photo matches {pattern}.")

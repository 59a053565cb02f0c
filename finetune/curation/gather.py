"""Copies or links of chosen photos in a folder of their own."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from finetune.errors import CollectionError, StorageError
from finetune.files import safe_name, storage_errors

Link = Literal["copy", "hardlink", "symlink"]


def gather(
    sources: Sequence[Path],
    folder: Path,
    *,
    link: Link = "copy",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Copies or links photos into a new folder, numbered, so that it sorts by their order.

    Args:
        sources: The photos, the likest first; they are not changed.
        folder: New or empty.
        link: ``copy``, ``hardlink`` or ``symlink``.
        progress: Called as ``progress(done, total)``.

    Returns:
        The files made: ``0001 heron.jpg`` and so on.

    Raises:
        CollectionError: The folder has something in it.
        StorageError: A file could not be copied or linked; those before it are there.
    """
    _check_empty(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    width = max(4, len(str(len(sources))))
    made = []
    for number, source in enumerate(sources, start=1):
        target = folder / f"{number:0{width}d} {safe_name(source.name)}"
        _place(source, target, link)
        made.append(target)
        if progress is not None:
            progress(number, len(sources))
    return made


def check_target(folder: Path, pool: Path) -> None:
    """Checks that photos of `pool` can be gathered in `folder`.

    Raises:
        CollectionError: It has something in it, or lies inside of the pool.
    """
    if folder.resolve().is_relative_to(pool.resolve()):
        raise CollectionError(
            f"--to {folder} lies inside {pool}, where the next search would find the photos again. "
            "Choose a folder outside of it."
        )
    _check_empty(folder)


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CollectionError(
            f"{folder} is not an empty folder. Choose a new one; nothing is lost."
        )


def _place(source: Path, target: Path, link: Link) -> None:
    with storage_errors(target):
        match link:
            case "copy":
                shutil.copy2(source, target)
            case "symlink":
                target.symlink_to(source.resolve())
            case "hardlink":
                try:
                    os.link(source.resolve(), target)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    raise StorageError(
                        f"{target} cannot be a hard link: it is on another disk than {source}. "
                        "Use --link symlink, or --link copy."
                    ) from error

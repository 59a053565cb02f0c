"""Data sets that come as numbers in large files, written out as a collection of PNG files.

`read_image_set` knows them by their content's names: CIFAR-10 (`finetune.photos.datasets.cifar`),
MNIST and what is shaped like it (`finetune.photos.datasets.idx`), and archives of image folders
(`finetune.photos.datasets.archives`). Nothing in such a file is ever run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from finetune.errors import CollectionError
from finetune.files import storage_errors
from finetune.photos.datasets import archives, cifar, idx
from finetune.photos.datasets.image_sets import ArchivedFolders, ImageSet

Progress = Callable[[int, int], None]


def read_image_set(source: Path) -> ImageSet | ArchivedFolders | None:
    """Returns the data set in a file or folder; None where it is none that is known here.

    Args:
        source: ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz`` or the folder in it; an idx
            file of MNIST or the folder of the four, gzipped or not; a ``.zip`` or ``.tar.gz`` of
            image folders.

    Raises:
        CollectionError: It is one, but damaged, incomplete or hostile; says which file and how.
    """
    if source.is_dir():
        return cifar.read_folder(source) or idx.read_folder(source)
    if not source.is_file():
        return None
    if idx.is_idx_name(source.name):
        return idx.read_folder(source.parent, only=source)
    if archives.is_archive_name(source.name):
        found = cifar.read_archive(source) or archives.read_archive(source)
        if found is None:
            raise CollectionError(f"{source} holds neither CIFAR-10 nor photos in folders.")
        return found
    return None


def write_image_set(
    found: ImageSet | ArchivedFolders, folder: Path, *, progress: Progress | None = None
) -> dict[str, int]:
    """Writes a data set as a collection and returns how many photos each label got.

    The folder appears when all of it is written: what is interrupted leaves nothing behind.

    Args:
        found: The data set.
        folder: A new folder, or an empty one.
        progress: Called with how many photos are written, and of how many.

    Raises:
        CollectionError: The folder holds something already.
        StorageError: It cannot be written.
    """
    check_new(folder)
    counts: Counter[str] = Counter()
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent)
        )
        try:
            made: set[Path] = set()
            for number, (name, content) in enumerate(found.files(), start=1):
                path = beside / name
                if path.parent not in made:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    made.add(path.parent)
                path.write_bytes(content)
                counts[path.parent.name] += 1
                if progress is not None:
                    progress(number, len(found))
            beside.chmod(0o777 & ~_umask())
            if folder.exists():
                folder.rmdir()
            beside.rename(folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    return dict(counts)


def check_new(folder: Path) -> None:
    """Raises a CollectionError unless a collection can be written to this folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CollectionError(
            f"{folder} exists already. Name a new folder for the photos: "
            "finetune import SOURCE NEW_FOLDER"
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

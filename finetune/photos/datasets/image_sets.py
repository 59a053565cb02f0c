"""Image data sets read from large files, and writing them as a folder of photos."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.errors import CollectionError
from finetune.files import safe_folders, storage_errors, umask
from finetune.photos.collection import Part
from finetune.photos.labels import find_parts


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """Images and targets of one part of a data set.

    Attributes:
        images: ``(N, H, W) uint8`` gray or ``(N, H, W, 3) uint8`` RGB.
        targets: ``(N,) int64`` indices of labels.
    """

    part: Part
    images: NDArray[np.uint8]
    targets: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Data set held as arrays.

    Attributes:
        format: Name of the file format, for messages.
        labels: By target index.
        parts: Train and test.
    """

    format: str
    labels: tuple[str, ...]
    parts: tuple[ImagePart, ...]

    def __len__(self) -> int:
        return sum(len(part.targets) for part in self.parts)

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """Labels whose folder has another name, as (label, folder)."""
        folders = safe_folders(self.labels, nested=False)
        return tuple(item for item in folders.items() if item[0] != item[1])

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yields the path of each PNG below the collection's root, and its content."""
        chosen = safe_folders(self.labels, nested=False)
        folders = [chosen[label] for label in self.labels]
        for part in self.parts:
            digits = max(4, len(str(len(part.targets) - 1)))
            for number, (image, target) in enumerate(zip(part.images, part.targets, strict=True)):
                file = io.BytesIO()
                # Small noisy pictures gain nothing by more compression, and 60,000 take minutes.
                Image.fromarray(image).save(file, "PNG", compress_level=1)
                yield f"{part.part}/{folders[target]}/{number:0{digits}d}.png", file.getvalue()


@dataclass(frozen=True, kw_only=True)
class ArchivedFolders:
    """Photos in the folders of an archive, copied unchanged.

    Attributes:
        format: Name of the file format, for messages.
        names: Paths of the photos below the collection's root, safe to write.
        read: Yields each name with the file's content.
        renamed: Files and folders with another name here, as (path in the archive, path here).
    """

    format: str
    names: tuple[str, ...]
    read: Callable[[], Iterator[tuple[str, bytes]]]
    renamed: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yields path and content of each photo."""
        return self.read()


Progress = Callable[[int, int], None]


def write_image_set(
    found: ImageSet | ArchivedFolders, folder: Path, *, progress: Progress | None = None
) -> dict[str, int]:
    """Writes a data set as a collection and returns the number of photos by label.

    The folder appears only when it is complete; an interrupted import leaves nothing behind.

    Args:
        found: The data set.
        folder: A new or empty folder.
        progress: Called as ``progress(done, total)``.

    Raises:
        CollectionError: The folder is not empty.
        StorageError: The folder cannot be written.
    """
    check_new(folder)
    names: list[str] = []
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent)
        )
        try:
            made: set[Path] = set()
            for number, (name, content) in enumerate(found.files(), start=1):
                path = partial / name
                if path.parent not in made:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    made.add(path.parent)
                path.write_bytes(content)
                names.append(name)
                if progress is not None:
                    progress(number, len(found))
            partial.chmod(0o777 & ~umask())
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    parts = find_parts(names)
    return dict(Counter(parts.place(name)[0] or "" for name in names))


def check_new(folder: Path) -> None:
    """Raises a CollectionError unless a collection can be written to this folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CollectionError(
            f"{folder} exists already. Name a new folder for the photos: "
            "finetune import SOURCE NEW_FOLDER"
        )

"""A data set that came in large files: its numbers or its files, by label and part."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.files import safe_name
from finetune.photos.collection import Part


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """One side of a data set.

    Attributes:
        part: Which.
        images: ``(N, H, W) uint8`` gray or ``(N, H, W, 3) uint8`` RGB.
        targets: ``(N,) int64`` indices of labels.
    """

    part: Part
    images: NDArray[np.uint8]
    targets: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A data set, read and checked.

    Attributes:
        format: In words.
        labels: By index.
        parts: Train and test.
    """

    format: str
    labels: tuple[str, ...]
    parts: tuple[ImagePart, ...]

    def __len__(self) -> int:
        return sum(len(part.targets) for part in self.parts)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yields the path of each PNG below the collection's root, and its content."""
        folders = [safe_name(label) for label in self.labels]
        for part in self.parts:
            digits = max(4, len(str(len(part.targets) - 1)))
            for number, (image, target) in enumerate(zip(part.images, part.targets, strict=True)):
                file = io.BytesIO()
                # Small noisy pictures gain nothing by more compression, and 60,000 take minutes.
                Image.fromarray(image).save(file, "PNG", compress_level=1)
                yield f"{part.part}/{folders[target]}/{number:0{digits}d}.png", file.getvalue()


@dataclass(frozen=True, kw_only=True)
class ArchivedFolders:
    """Image folders in an archive: their files as they are.

    Attributes:
        format: In words.
        names: Paths of the photos below the collection's root, safe to write.
        read: Yields each of these with the file's content.
    """

    format: str
    names: tuple[str, ...]
    read: Callable[[], Iterator[tuple[str, bytes]]]

    def __len__(self) -> int:
        return len(self.names)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yields path and content of each photo."""
        return self.read()

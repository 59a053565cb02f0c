"""MNIST reader: idx files of images and labels, gzipped or not.

LeCun, Cortes and Burges, "The MNIST database of handwritten digits". An idx file is two zero
bytes, one of type (8: unsigned bytes), one with the number of axes, the length of each axis as a
big-endian 32-bit number, and the data. Fashion-MNIST and other sets of that shape are read too.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.errors import CollectionError
from finetune.photos.collection import Part
from finetune.photos.datasets.image_sets import ImagePart, ImageSet

MAX_BYTES = 1_000_000_000
"""Limit of one file; MNIST's training images have 47 million."""

MAX_SIDE = 4096

_IDX = re.compile(
    r"(?P<stem>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?"
)
_PARTS: dict[str, Part] = {"train": "train", "t10k": "test", "test": "test"}


def is_idx_name(name: str) -> bool:
    """Returns whether a file of this name is one of MNIST's: ``train-images-idx3-ubyte.gz`` ..."""
    return _IDX.fullmatch(name) is not None


def read_folder(folder: Path, *, only: Path | None = None) -> ImageSet | None:
    """Returns the data set of the idx files in a folder; None where there is none.

    Args:
        folder: Holds images and labels of train, test or both.
        only: Read the part that this file belongs to, and no other.

    Raises:
        CollectionError: A file is missing, damaged or of another shape than its partner.
    """
    files: dict[tuple[str, Part], dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _IDX.fullmatch(path.name)
        if match and path.is_file():
            key = (match["stem"], _PARTS[match["part"]])
            # A file that exists packed and unpacked is read once.
            files.setdefault(key, {}).setdefault(match["what"], path)
    if only is not None:
        match = _IDX.fullmatch(only.name)
        expected = match and (match["stem"], _PARTS[match["part"]])
        files = {key: pair for key, pair in files.items() if key == expected}
    if not files:
        return None
    if len({stem for stem, _ in files}) > 1:
        raise CollectionError(
            f"{folder} holds several data sets. Name one of the files of the data set to import."
        )
    parts = tuple(_part(folder, part, pair) for (_, part), pair in sorted(files.items()))
    most = max(int(part.targets.max()) for part in parts)
    return ImageSet(
        format="MNIST (idx files)",
        labels=tuple(str(number) for number in range(most + 1)),
        # Training first, as everywhere.
        parts=tuple(sorted(parts, key=lambda part: part.part != "train")),
    )


def _part(folder: Path, part: Part, pair: dict[str, Path]) -> ImagePart:
    for what, other in (("images", "labels"), ("labels", "images")):
        if what not in pair:
            raise CollectionError(
                f"{folder} has {pair[other].name}, but not its {what}. Download them too."
            )
    images, targets = read_idx(pair["images"], axes=3), read_idx(pair["labels"], axes=1)
    if len(images) != len(targets):
        raise CollectionError(
            f"{pair['images']} has {len(images):,} images and {pair['labels'].name} "
            f"{len(targets):,} labels. Download them again."
        )
    return ImagePart(part=part, images=images, targets=targets.astype(np.int64))


def read_idx(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """Returns the array of unsigned bytes in an idx file, gzipped or not.

    Args:
        path: The file.
        axes: How many axes it must have.

    Raises:
        CollectionError: It is not such an idx file, or its size differs from the declared one.
    """
    try:
        with gzip.open(path) if _is_gzipped(path) else path.open("rb") as file:
            head = file.read(4 + 4 * axes)
            shape = _shape(path, head, axes)
            size = math.prod(shape)
            # One byte more than there should be: a packed file may hold any number of them.
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CollectionError(f"{path} cannot be read: {error}. Download it again.") from error
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data):,}"
        raise CollectionError(
            f"{path} declares {size:,} bytes of data but has {found}. Download it again."
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(path: Path, head: bytes, axes: int) -> tuple[int, ...]:
    expected = bytes((0, 0, 8, axes))
    if len(head) < 4 + 4 * axes or head[:4] != expected:
        raise CollectionError(
            f"{path} begins with {head[:4].hex(' ') or 'nothing'}, an idx file of its name with "
            f"{expected.hex(' ')}."
        )
    shape = struct.unpack(f">{axes}I", head[4:])
    if min(shape) == 0 or max(shape[1:], default=1) > MAX_SIDE or math.prod(shape) > MAX_BYTES:
        sides = " x ".join(f"{side:,}" for side in shape)
        raise CollectionError(f"{path} declares {sides} bytes, too many or too few for a data set.")
    return shape


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"

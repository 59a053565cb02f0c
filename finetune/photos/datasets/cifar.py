"""CIFAR-10 reader: Python pickles or binary records, in a folder or a tar file.

Krizhevsky, "Learning multiple layers of features from tiny images" (2009). 60,000 color images of
32x32 in ten labels. A binary record is one byte of label and 3,072 of pixels, red, green and blue
planes one after another; the pickles hold the same rows as an array.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import CollectionError
from finetune.files import safe_name
from finetune.photos.datasets.image_sets import ImagePart, ImageSet
from finetune.photos.datasets.safe_pickle import load_plain
from finetune.photos.labels import nfc

LABELS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIDE = 32
PIXELS = 3 * SIDE * SIDE
MAX_BYTES = 64_000_000
"""Limit of one file; a batch of 10,000 images has 31 million."""

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_NAMES = (*_TRAIN, "test_batch")
_META = ("batches.meta", "batches.meta.txt")
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")


def read_folder(folder: Path) -> ImageSet | None:
    """Returns CIFAR-10 from the folder of its batches, or its parent, or None.

    Raises:
        CollectionError: A batch is missing, damaged or unsafe.
    """
    for place in (folder, *(folder / name for name in _FOLDERS)):
        names = [*_NAMES, *(f"{name}.bin" for name in _NAMES), *_META]
        files = {name: place / name for name in names if (place / name).is_file()}
        if any(name.startswith("data_batch_") for name in files):
            return _assembled(place, {name: _bounded(path) for name, path in files.items()})
    return None


def read_archive(path: Path) -> ImageSet | None:
    """Returns CIFAR-10 from the tar file that it is downloaded as; None for any other archive.

    Nothing is unpacked: links, paths and devices in the archive have no effect.

    Raises:
        CollectionError: It is not a tar file, or a batch is missing, damaged or unsafe.
    """
    if not is_tar_name(path.name):
        return None
    wanted = {*_NAMES, *(f"{name}.bin" for name in _NAMES), *_META}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if not member.isreg() or name not in wanted or name in contents:
                    continue
                if member.size > MAX_BYTES:
                    raise _too_large(Path(name))
                file = archive.extractfile(member)
                contents[name] = b"" if file is None else file.read(MAX_BYTES + 1)
                if len(contents) == len(_NAMES) + 1:
                    break
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise CollectionError(f"{path} is not a tar file, or is damaged: {error}.") from error
    if not any(name.startswith("data_batch_") for name in contents):
        return None
    return _assembled(path, contents)


def is_tar_name(name: str) -> bool:
    """Returns whether a file name has the suffix of a tar file."""
    return name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))


def _assembled(source: Path, contents: Mapping[str, bytes]) -> ImageSet:
    binary = any(name.endswith(".bin") for name in contents)
    suffix = ".bin" if binary else ""
    missing = [f"{name}{suffix}" for name in _NAMES if f"{name}{suffix}" not in contents]
    if missing:
        raise CollectionError(
            f"{source} has no {' and no '.join(missing)}, so CIFAR-10 is incomplete. "
            "Download it again."
        )
    labels = _labels(source, contents)
    read = _binary_batch if binary else _pickled_batch
    batches = {
        name: read(f"{source}: {name}{suffix}", contents[f"{name}{suffix}"], len(labels))
        for name in _NAMES
    }
    train_images, train_targets = zip(*(batches[name] for name in _TRAIN), strict=True)
    test_images, test_targets = batches["test_batch"]
    return ImageSet(
        format="CIFAR-10, binary" if binary else "CIFAR-10, Python",
        labels=labels,
        parts=(
            ImagePart(
                part="train",
                images=np.concatenate(train_images),
                targets=np.concatenate(train_targets),
            ),
            ImagePart(part="test", images=test_images, targets=test_targets),
        ),
    )


def _binary_batch(
    name: str, content: bytes, labels: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    record = 1 + PIXELS
    if not content or len(content) % record:
        raise CollectionError(
            f"{name} has {len(content):,} bytes, not a whole number of records of "
            f"{record:,}. Download it again."
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return _images(rows[:, 1:]), _targets(name, rows[:, 0].astype(np.int64), labels)


def _pickled_batch(
    name: str, content: bytes, labels: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = _plain(name, content)
    rows = _entry(batch, "data")
    targets = _entry(batch, "labels")
    good = (
        isinstance(rows, np.ndarray)
        and rows.ndim == 2
        and rows.shape[1] == PIXELS
        and isinstance(targets, list)
        and len(targets) == len(rows) > 0
        and all(type(item) is int and abs(item) < 1000 for item in targets)
    )
    if not good:
        raise CollectionError(
            f"{name} is not a batch of CIFAR-10: it needs 'data' of N x {PIXELS:,} bytes and N "
            "'labels'. Download it again."
        )
    return _images(rows), _targets(name, np.array(targets, np.int64), labels)


def _labels(source: Path, contents: Mapping[str, bytes]) -> tuple[str, ...]:
    found: Any = LABELS
    if "batches.meta.txt" in contents:
        text = contents["batches.meta.txt"].decode("utf-8", "replace")
        found = [line.strip() for line in text.splitlines() if line.strip()]
    elif "batches.meta" in contents:
        meta = _plain(f"{source}: batches.meta", contents["batches.meta"])
        found = _entry(meta, "label_names")
    good = isinstance(found, list | tuple) and all(isinstance(item, str) for item in found)
    # Two names that become one folder would mix two labels.
    folders = {safe_name(item).casefold() for item in found} if good else set()
    if not 2 <= len(folders) == len(found) <= 1000:
        raise CollectionError(f"{source}: batches.meta names no labels. Download it again.")
    return tuple(nfc(item) for item in found)


def _plain(name: str, content: bytes) -> Any:
    try:
        return load_plain(content)
    except ValueError as error:
        raise CollectionError(f"{name} cannot be read: {error}.") from error


def _entry(batch: Any, key: str) -> Any:
    return batch.get(key) if isinstance(batch, dict) else None


def _images(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    planes = rows.reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _targets(name: str, targets: NDArray[np.int64], labels: int) -> NDArray[np.int64]:
    wrong = targets[(targets < 0) | (targets >= labels)]
    if len(wrong):
        raise CollectionError(
            f"{name} has the label {wrong[0]}; there are {labels}, from 0. Download it again."
        )
    return targets


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _too_large(path)
    return content


def _too_large(path: Path) -> CollectionError:
    return CollectionError(
        f"{path} has more than {MAX_BYTES:,} bytes, too many for a batch of CIFAR-10."
    )

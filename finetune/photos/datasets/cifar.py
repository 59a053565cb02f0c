"""CIFAR-10 reader: Python pickles or binary records, in a folder or a tar file.

Krizhevsky, "Learning multiple layers of features from tiny images" (2009). 60,000 color images of
32x32 in ten labels. A binary record is one byte of label and 3,072 of pixels, red, green and blue
planes one after another; the pickles hold the same rows as an array.

A pickle can call anything that it names. The unpickler here accepts only the five globals of a
pickled NumPy array, each replaced by a stub, so that no NumPy code runs on the file's content. It
derives from the pure-Python unpickler: the C one sizes its memo by a number in the file, which can
exhaust the memory.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import CollectionError
from finetune.files import safe_name
from finetune.photos.datasets.image_sets import ImagePart, ImageSet
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
    expected = {*_NAMES, *(f"{name}.bin" for name in _NAMES), *_META}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if not member.isreg() or name not in expected or name in contents:
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
            f"{name} has {len(content):,} bytes, not a multiple of the record size of "
            f"{record:,}. Download it again."
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return _images(rows[:, 1:]), _targets(name, rows[:, 0].astype(np.int64), labels)


def _pickled_batch(
    name: str, content: bytes, labels: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = _load_pickle(name, content)
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
        meta = _load_pickle(f"{source}: batches.meta", contents["batches.meta"])
        found = _entry(meta, "label_names")
    good = isinstance(found, list | tuple) and all(isinstance(item, str) for item in found)
    # Two names that become one folder would mix two labels.
    folders = {safe_name(item).casefold() for item in found} if good else set()
    if not 2 <= len(folders) == len(found) <= 1000:
        raise CollectionError(f"{source}: batches.meta names no labels. Download it again.")
    return tuple(nfc(item) for item in found)


def _load_pickle(name: str, content: bytes) -> Any:
    try:
        return load_restricted(content)
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


_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC_MODULES = ("numpy.core.numeric", "numpy._core.numeric")


def load_restricted(content: bytes) -> Any:
    """Returns the value in a pickle: numbers, text, bytes, lists, dicts, and arrays of bytes.

    Args:
        content: The pickle, of any protocol; text of Python 2 is read as latin-1.

    Returns:
        The value; an array is a read-only NumPy array of uint8.

    Raises:
        ValueError: It is damaged or names another global. None of it was run.
    """
    try:
        value = _Unpickler(io.BytesIO(content), encoding="latin-1").load()
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a hostile pickle can raise anything
        raise ValueError(f"it is no pickle, or a damaged one ({type(error).__name__})") from error
    return _with_arrays(value)


class _RefusedError(Exception):
    """Pickle with content other than simple values and arrays of bytes."""


class _Stub:
    """Immutable stub that replaces a global."""

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("it changes what it has no right to")


class _Type:
    """Stub of ``numpy.dtype``."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Ignores byte order and alignment, which uint8 does not have."""


class _Array:
    """Unchecked array of bytes."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __init__(self, shape: Any = (), kind: Any = None, fortran: Any = False, data: Any = b""):
        self.shape, self.kind, self.fortran, self.data = shape, kind, fortran, data

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.data = state

    def checked(self) -> NDArray[np.uint8]:
        """Returns the NumPy array; raises _RefusedError unless it is an array of bytes."""
        kind = self.kind.code if isinstance(self.kind, _Type) else None
        if kind not in ("u1", "|u1", "B", "uint8"):
            raise _RefusedError(f"it has an array of {kind!r:.20}, not of bytes")
        data = self.data.encode("latin-1") if isinstance(self.data, str) else self.data
        shape = self.shape
        valid = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
        if not valid or not isinstance(data, bytes | bytearray) or len(shape) > 4:
            raise _RefusedError("it has an array without data or shape")
        size = 1
        for side in shape:
            size *= side
        if size != len(data):
            raise _RefusedError(f"it has an array of {shape} with {len(data):,} bytes")
        array = np.frombuffer(bytes(data), np.uint8)
        return array.reshape(shape, order="F" if self.fortran else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    """Stub of ``_codecs.encode``, by which protocol 2 stores bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError("it encodes what is no bytes")
    return text.encode("latin-1")


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _Array(shape, kind, order == "F", data)


# Read as _pickle.Unpickler would be; see the module's docstring.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Returns the stub of a global that a pickled array uses."""
        if module in _ARRAY_MODULES and name == "_reconstruct":
            return _Stub(lambda *_: _Array())
        if module in _NUMERIC_MODULES and name == "_frombuffer":
            return _Stub(_from_buffer)
        if (module, name) == ("numpy", "ndarray"):
            return _Stub(lambda *_: _Array())
        if (module, name) == ("numpy", "dtype"):
            return _Stub(_Type)
        if (module, name) == ("_codecs", "encode"):
            return _Stub(_encode)
        raise _RefusedError(
            f"it asks for {module:.40}.{name:.40}, which is not part of an array; nothing was run"
        )


def _with_arrays(value: Any) -> Any:
    """Replaces the arrays in a dict; arrays nested deeper stay unchecked stubs."""
    try:
        if isinstance(value, _Array):
            return value.checked()
        if isinstance(value, dict):
            return {
                key: item.checked() if isinstance(item, _Array) else item
                for key, item in value.items()
            }
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    return value

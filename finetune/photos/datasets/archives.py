"""Reader of data sets: CIFAR-10, idx files, and image folders in a zip or tar file.

Nothing in such a file is executed, and file names cannot leave the new folder.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.errors import CollectionError
from finetune.files import safe_name
from finetune.photos.datasets import cifar, idx
from finetune.photos.datasets.image_sets import ArchivedFolders, ImageSet
from finetune.photos.decode.decoder import is_photo_name

MAX_BYTES = 200_000_000
"""Limit of one unpacked photo."""

_DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError)


def read_image_set(source: Path) -> ImageSet | ArchivedFolders | None:
    """Returns the data set in a file or folder; None for an unknown format.

    Args:
        source: ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz`` or the folder in it; an idx
            file of MNIST or the folder of the four, gzipped or not; a ``.zip`` or ``.tar.gz`` of
            image folders.

    Raises:
        CollectionError: The data set is damaged, incomplete or unsafe; names the file.
    """
    if source.is_dir():
        return cifar.read_folder(source) or idx.read_folder(source)
    if not source.is_file():
        return None
    if idx.is_idx_name(source.name):
        return idx.read_folder(source.parent, only=source)
    if is_archive_name(source.name):
        found = cifar.read_archive(source) or read_archive(source)
        if found is None:
            raise CollectionError(f"{source} holds neither CIFAR-10 nor photos in folders.")
        return found
    return None


def is_archive_name(name: str) -> bool:
    """Returns whether a file name has the suffix of an archive."""
    return name.lower().endswith(".zip") or cifar.is_tar_name(name)


def read_archive(path: Path) -> ArchivedFolders | None:
    """Returns the photos in an archive; None without a photo in a folder.

    Raises:
        CollectionError: The archive is damaged, or two of its photos have the same name.
    """
    try:
        members = _zip_members(path) if path.suffix.lower() == ".zip" else _tar_members(path)
    except (*_DAMAGED, ValueError) as error:
        raise CollectionError(f"{path} is not an archive, or is damaged: {error}.") from error
    names = _safe_names(path, members)
    if not any("/" in name for name in names.values()):
        return None
    read = _read_zip if path.suffix.lower() == ".zip" else _read_tar
    return ArchivedFolders(
        format="image folders",
        names=tuple(names.values()),
        read=lambda: _checked(path, names, read(path, names)),
    )


def _safe_names(path: Path, members: Sequence[str]) -> dict[str, str]:
    """Returns a safe relative path by member, without a folder common to all.

    Members with ``..`` and hidden files are left out.
    """
    safe = {}
    for member in members:
        parts = [part for part in member.replace("\\", "/").split("/") if part not in ("", ".")]
        if ".." in parts or any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        safe[member] = [safe_name(part) for part in parts]
    rows = list(safe.values())
    while rows and all(len(row) > 2 for row in rows) and len({row[0] for row in rows}) == 1:
        rows = [row[1:] for row in rows]
    names = {member: "/".join(row) for member, row in zip(safe, rows, strict=True)}
    if len({name.casefold() for name in names.values()}) < len(names):
        raise CollectionError(f"{path} has several photos with the same name. Unpack it by hand.")
    return names


def _zip_members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [
            item.filename
            for item in archive.infolist()
            if not item.is_dir() and is_photo_name(item.filename.rpartition("/")[2])
        ]


def _tar_members(path: Path) -> list[str]:
    with tarfile.open(path, "r|*") as archive:
        return [
            item.name
            for item in archive
            if item.isreg() and is_photo_name(item.name.rpartition("/")[2])
        ]


def _read_zip(path: Path, names: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member, name in names.items():
            with archive.open(member) as file:
                yield name, file.read(MAX_BYTES + 1)


def _read_tar(path: Path, names: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r|*") as archive:
        for item in archive:
            if item.isreg() and item.name in names:
                file = archive.extractfile(item)
                yield names[item.name], b"" if file is None else file.read(MAX_BYTES + 1)


def _checked(
    path: Path, names: dict[str, str], files: Iterator[tuple[str, bytes]]
) -> Iterator[tuple[str, bytes]]:
    try:
        for name, content in files:
            if len(content) > MAX_BYTES:
                raise CollectionError(
                    f"{path}: {name} unpacks to more than {MAX_BYTES:,} bytes, too many for a "
                    "photo."
                )
            yield name, content
    except _DAMAGED as error:
        raise CollectionError(f"{path} is damaged: {error}.") from error

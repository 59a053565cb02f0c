"""Image folders in a zip or tar file: photos only, under names that stay below the new folder."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.errors import CollectionError
from finetune.files import safe_name
from finetune.photos.datasets.cifar import tarfile_name
from finetune.photos.datasets.image_sets import ArchivedFolders
from finetune.photos.decode.decoder import is_photo_name

MOST_BYTES = 200_000_000
"""Of one photo, unpacked."""

_BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError)


def is_archive_name(name: str) -> bool:
    """Returns whether a file of this name is taken for an archive."""
    return name.lower().endswith(".zip") or tarfile_name(name)


def read_archive(path: Path) -> ArchivedFolders | None:
    """Returns the photos in an archive; None where it has no photo in a folder.

    Raises:
        CollectionError: The archive is damaged, or two of its photos would get one name.
    """
    try:
        members = _zip_members(path) if path.suffix.lower() == ".zip" else _tar_members(path)
    except (*_BROKEN, ValueError) as error:
        raise CollectionError(f"{path} is no archive, or a damaged one: {error}.") from error
    names = _names(path, members)
    if not any("/" in name for name in names.values()):
        return None
    read = _read_zip if path.suffix.lower() == ".zip" else _read_tar
    return ArchivedFolders(
        format="image folders",
        names=tuple(names.values()),
        read=lambda: _checked(path, names, read(path, names)),
    )


def _names(path: Path, members: Sequence[str]) -> dict[str, str]:
    """Returns what each member will be called: no way up, no root, no drive, no outer folder."""
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
        raise CollectionError(f"{path} has several photos of one name. Unpack it by hand.")
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
                yield name, file.read(MOST_BYTES + 1)


def _read_tar(path: Path, names: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r|*") as archive:
        for item in archive:
            if item.isreg() and item.name in names:
                file = archive.extractfile(item)
                yield names[item.name], b"" if file is None else file.read(MOST_BYTES + 1)


def _checked(
    path: Path, names: dict[str, str], files: Iterator[tuple[str, bytes]]
) -> Iterator[tuple[str, bytes]]:
    try:
        for name, content in files:
            if len(content) > MOST_BYTES:
                raise CollectionError(
                    f"{path}: {name} unpacks to more than {MOST_BYTES:,} bytes, which is no photo."
                )
            yield name, content
    except _BROKEN as error:
        raise CollectionError(f"{path} is damaged: {error}.") from error

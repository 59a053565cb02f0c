"""Reader of data sets: CIFAR-10, idx files, and image folders in a zip or tar file.

Nothing in such a file is executed, and file names cannot leave the new folder.
"""

from __future__ import annotations

import logging
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from finetune.errors import CollectionError
from finetune.files import numbered, safe_folders, safe_name
from finetune.formatting import count
from finetune.photos.datasets import cifar, idx
from finetune.photos.datasets.image_sets import ArchivedFolders, ImageSet
from finetune.photos.decode.decoder import is_photo_content
from finetune.photos.decode.photo_names import is_photo_name
from finetune.photos.labels import nfc

MAX_BYTES = 200_000_000
"""Limit of one unpacked photo."""

MAX_ENTRIES = 2_000_000
MAX_DEPTH = 32
MAX_RATIO = 20
"""Limit of the bytes of all unpacked photos, as a multiple of the archive's.

Photos are compressed already, so that an archive of them is hardly smaller; one that unpacks to
less than `FREE_BYTES` may be.
"""

FREE_BYTES = 500_000_000

logger = logging.getLogger(__name__)

_DAMAGED = (
    OSError,
    EOFError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    RuntimeError,
    UnicodeDecodeError,
)


def read_image_set(
    source: Path, *, encoding: str | None = None
) -> ImageSet | ArchivedFolders | None:
    """Returns the data set in a file or folder; None for an unknown format.

    Args:
        source: ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz`` or the folder in it; an idx
            file of MNIST or the folder of the four, gzipped or not; a ``.zip`` or ``.tar.gz`` of
            image folders.
        encoding: Of the file names in an archive; None: UTF-8.

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
        found = cifar.read_archive(source) or read_archive(source, encoding=encoding)
        if found is None:
            raise CollectionError(f"{source} holds neither CIFAR-10 nor photos in folders.")
        return found
    return None


def is_archive_name(name: str) -> bool:
    """Returns whether a file name has the suffix of an archive."""
    return name.lower().endswith(".zip") or cifar.is_tar_name(name)


def read_archive(path: Path, *, encoding: str | None = None) -> ArchivedFolders | None:
    """Returns the photos in an archive; None without a photo in a folder.

    Args:
        path: A zip or tar file.
        encoding: Of names that the archive does not mark as UTF-8; None: UTF-8.

    Raises:
        CollectionError: The archive is damaged, or its names have another encoding.
    """
    is_zip = path.suffix.lower() == ".zip"
    try:
        members = list(_zip_members(path) if is_zip else _tar_members(path))
    except (*_DAMAGED, ValueError) as error:
        raise CollectionError(f"{path} is not an archive, or is damaged: {error}.") from error
    written = [_decoded(path, name, encoding) for name in members]
    names, renamed = _safe_names(path, written)
    if not any("/" in name for name in names.values()):
        return None
    # An archive may hold a name several times; the last one counts, as when it is unpacked.
    place_of = {
        member: names[name] for member, name in zip(members, written, strict=True) if name in names
    }
    read = _read_zip if is_zip else _read_tar
    return ArchivedFolders(
        format="image folders",
        names=tuple(names.values()),
        read=lambda: _checked(path, read(path, place_of)),
        renamed=renamed,
    )


_Name = str | bytes
"""Name of a member: text if its encoding is known, else bytes."""


def _decoded(path: Path, name: _Name, encoding: str | None) -> str:
    if isinstance(name, str):
        return name
    try:
        return name.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        shown = ", ".join(
            f"{guess}: {name.decode(guess, errors='replace')}"
            for guess in ("cp932", "gb18030", "cp437", "cp1252")
        )
        raise CollectionError(
            f"{path}: its file names are not written in {encoding or 'UTF-8'}. Name their encoding "
            f"with --encoding; the first such name would be: {shown}."
        ) from error
    except LookupError as error:
        raise CollectionError(f"--encoding {encoding} is unknown. Try utf-8 or cp932.") from error


def _safe_names(
    path: Path, members: Sequence[str]
) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Returns a safe relative path by member, without a folder common to all.

    Members with ``..`` and hidden files are left out. Also returns what got another name.
    """
    rows: dict[str, list[str]] = {}
    for member in members:
        parts = [part for part in member.replace("\\", "/").split("/") if part not in ("", ".")]
        if len(parts) > MAX_DEPTH:
            raise CollectionError(f"{path} has folders in more than {MAX_DEPTH} others.")
        if ".." in parts or any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        rows[member] = parts
    while rows and all(len(row) > 2 for row in rows.values()):
        if len({row[0] for row in rows.values()}) > 1:
            break
        rows = {member: row[1:] for member, row in rows.items()}
    folders = safe_folders("/".join(row[:-1]) for row in rows.values() if len(row) > 1)
    renamed = {folder: place for folder, place in folders.items() if nfc(folder) != place}
    names: dict[str, str] = {}
    taken: set[str] = set()
    for member, row in rows.items():
        folder = "/".join(row[:-1])
        name = safe_name(row[-1])
        free, number = name, 2
        prefix = f"{folders[folder]}/" if folder else ""
        while (prefix + free).casefold() in taken:
            free = numbered(name, number)
            number += 1
        taken.add((prefix + free).casefold())
        names[member] = prefix + free
        if free != nfc(row[-1]):
            renamed["/".join(row)] = prefix + free
    return names, tuple(renamed.items())


def _zip_members(path: Path) -> Iterator[_Name]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        _check_entries(path, len(entries))
        for item in entries:
            if is_photo_name(item.filename.rpartition("/")[2]):  # a folder ends in a slash
                yield _zip_name(item)


def _zip_name(item: zipfile.ZipInfo) -> _Name:
    # Flag 0x800: UTF-8. Other names are decoded by zipfile as cp437, which loses nothing.
    is_text = item.flag_bits & 0x800 or item.orig_filename.isascii()
    return item.filename if is_text else item.filename.encode("cp437")


def _check_entries(path: Path, entries: int) -> None:
    if entries > MAX_ENTRIES:
        raise CollectionError(f"{path} has more than {MAX_ENTRIES:,} entries. Unpack it by hand.")


def _check_unpacked(path: Path, unpacked: int) -> None:
    if unpacked > max(FREE_BYTES, MAX_RATIO * path.stat().st_size):
        raise CollectionError(
            f"{path} unpacks to more than {MAX_RATIO} times its size: it is not an archive of "
            "photos."
        )


def _tar_members(path: Path) -> Iterator[_Name]:
    unpacked = 0
    with tarfile.open(path, "r|*") as archive:
        for number, item in enumerate(archive, start=1):
            _check_entries(path, number)
            # Skipping an entry unpacks it too.
            unpacked += item.size
            _check_unpacked(path, unpacked)
            if item.isreg() and is_photo_name(item.name.rpartition("/")[2]):
                yield _tar_name(item)


def _tar_name(item: tarfile.TarInfo) -> _Name:
    content = item.name.encode("utf-8", "surrogateescape")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _read_zip(path: Path, names: Mapping[_Name, str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for item in {_zip_name(item): item for item in archive.infolist()}.values():
            if _zip_name(item) in names:
                with archive.open(item) as file:
                    yield names[_zip_name(item)], file.read(MAX_BYTES + 1)


def _read_tar(path: Path, names: Mapping[_Name, str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r|*") as archive:
        for item in archive:
            name = names.get(_tar_name(item))
            if item.isreg() and name is not None:
                file = archive.extractfile(item)
                yield name, b"" if file is None else file.read(MAX_BYTES + 1)


def _checked(path: Path, files: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    unpacked = 0
    left_out: list[str] = []
    try:
        for name, content in files:
            unpacked += len(content)
            _check_unpacked(path, unpacked)
            if not is_photo_content(content):
                left_out.append(name)
                continue
            if len(content) > MAX_BYTES:
                raise CollectionError(
                    f"{path}: {name} unpacks to more than {MAX_BYTES:,} bytes, too many for a "
                    "photo."
                )
            yield name, content
    except _DAMAGED as error:
        raise CollectionError(f"{path} is damaged: {error}.") from error
    if left_out:
        logger.warning(
            "%s: left out %s that are not photos by their content, %s among them.",
            path,
            count(len(left_out), "file"),
            left_out[0],
        )

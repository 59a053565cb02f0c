"""Photos inside of WebDataset shards (tar files) and Parquet files, read without unpacking.

A photo has the path of its shard with its own name below it, as if the shard were a folder:
``train-000.tar/heron/0001.jpg``. Labels are those of WebDataset's ``.cls`` beside a photo, of the
column ``label`` of a Parquet file, or folders. Only tar files that are not compressed are read,
since others cannot be read at a place.
"""

from __future__ import annotations

import errno
import functools
import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import CollectionError, FinetuneError, MissingExtra
from finetune.photos.decode.photo_names import is_photo_name

SUFFIXES = (".tar", ".parquet")

MAX_BYTES = 200_000_000
"""Limit of a photo; a label has at most 1,000 characters."""

_OPEN_SHARDS = 8
_PART = re.compile(r"(train|trn|val|valid|validation|dev|test|eval)(?=[-_. ]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Member:
    """Place of a photo: the first byte in a tar file, or the row in a Parquet file."""

    place: int
    size: int


def is_shard_name(name: str) -> bool:
    """Returns whether a file may be a shard, by its name."""
    return name.lower().endswith(SUFFIXES)


def folders_of(path: str, *, with_parts: bool = False) -> list[str]:
    """Returns the folders of a photo's path, from which its label is found, without shards.

    Args:
        path: Path below the root, with ``/``.
        with_parts: Put the part that a shard's name begins with, if any, in the place of the shard.

    Example:
        >>> folders_of("train-0001.tar/heron/7.jpg")
        ['heron']
        >>> folders_of("train-0001.tar/heron/7.jpg", with_parts=True)
        ['train', 'heron']
    """
    folders = []
    for name in path.split("/")[:-1]:
        if not is_shard_name(name):
            folders.append(name)
        elif with_parts and (part := _PART.match(name)):
            folders.append(part[1].lower())
    return folders


def photos_in(shard: Path) -> dict[str, int]:
    """Returns the photos of a shard: their names below it, with their sizes in bytes.

    Raises:
        CollectionError: It is damaged, compressed, or has no column of images.
        MissingExtra: pyarrow, which reads Parquet, is not installed.
    """
    return {name: member.size for name, member in _index(shard).items()}


def read_member(path: Path) -> bytes | None:
    """Returns the bytes of a photo inside of a shard; None where no shard lies above the path.

    Raises:
        FileNotFoundError: The shard has no such photo.
        OSError: The shard cannot be read.
    """
    for above in path.parents:
        if is_shard_name(above.name) and above.is_file():
            name = path.relative_to(above).as_posix()
            try:
                member = _index(above).get(name)
            except FinetuneError as error:
                raise OSError(errno.EIO, str(error), str(path)) from error
            if member is None:
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            if above.suffix.lower() == ".tar":
                with above.open("rb") as file:
                    file.seek(member.place)
                    return file.read(member.size)
            return _row(above, member.place)
    return None


def read_bytes(path: Path) -> bytes:
    """Returns the bytes of a file, or of a photo inside of a shard; raises OSError."""
    try:
        return path.read_bytes()
    except (NotADirectoryError, FileNotFoundError):
        content = read_member(path)
        if content is None:
            raise
        return content


def _index(shard: Path) -> dict[str, Member]:
    status = shard.stat()
    read = _tar_index if shard.suffix.lower() == ".tar" else _parquet_index
    return read(str(shard), status.st_size, status.st_mtime_ns)


@functools.lru_cache(_OPEN_SHARDS)
def _tar_index(shard: str, size: int, mtime_ns: int) -> dict[str, Member]:
    photos: dict[str, Member] = {}
    labels: dict[str, str] = {}
    # A name in JSON beside a number in .cls says more.
    names: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for item in archive:
                name = item.name.removeprefix("./")
                if not item.isfile() or item.issparse() or not _is_safe(name):
                    continue
                if is_photo_name(name) and item.size <= MAX_BYTES:
                    photos[name] = Member(item.offset_data, item.size)
                elif name.endswith((".cls", ".json")) and item.size <= 1_000_000:
                    file = archive.extractfile(item)
                    label = _label_in(name, file.read() if file is not None else b"")
                    if label is not None:
                        (names if name.endswith(".json") else labels)[_key(name)] = label
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CollectionError(
            f"{shard} cannot be read as a tar file that is not compressed ({error}). Unpack it, or "
            "write it anew without compression."
        ) from error
    labels |= names
    return {
        f"{labels[_key(name)]}/{name}" if _key(name) in labels else name: member
        for name, member in photos.items()
    }


def _key(name: str) -> str:
    """Returns the key of WebDataset: the path up to the first point of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _label_in(name: str, content: bytes) -> str | None:
    """Returns the label in a file beside a photo; None without one."""
    text = content.decode("utf-8", "replace").strip()
    if name.endswith(".json"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        named = [found.get(key) for key in ("label_name", "label")] if type(found) is dict else []
        text = next((str(value) for value in named if type(value) in (str, int)), "")
    label = text.strip().replace("\\", "/").strip("/")
    return label if label and len(label) <= 1_000 and _is_safe(label) else None


def _is_safe(name: str) -> bool:
    """Returns whether a name leads nowhere else and shows no control characters."""
    parts = name.split("/")
    return name.isprintable() and all(part and part not in (".", "..") for part in parts)


@functools.lru_cache(_OPEN_SHARDS)
def _parquet_index(shard: str, size: int, mtime_ns: int) -> dict[str, Member]:
    file = _parquet(shard)
    names = _class_names(file)
    columns = _columns(file)
    # The sizes of the photos are known only once these are read.
    mean_size = max(1, size // max(1, file.metadata.num_rows))
    found: dict[str, Member] = {}
    for batch in file.iter_batches(columns=columns):
        for values in batch.to_pylist():
            image = values.get("image") or {}
            name = f"{len(found):08}{_suffix(image.get('path'))}"
            label = values.get("label")
            if label is not None:
                text = names[label] if type(label) is int and 0 <= label < len(names) else label
                text = str(text).replace("/", "_")
                name = f"{text}/{name}" if _is_safe(text) else name
            found[name] = Member(len(found), mean_size)
    return found


def _columns(file: Any) -> list[str]:
    known = {field.name: str(field.type) for field in file.schema_arrow}
    if "bytes: binary" not in known.get("image", ""):
        raise CollectionError(
            "A Parquet file of photos has a column 'image' with their bytes; this one has "
            f"{', '.join(list(known)[:8])}."
        )
    path = ["image.path"] if "path: string" in known["image"] else ["image.bytes"]
    return [*path, *(["label"] if "label" in known else [])]


def _suffix(path: object) -> str:
    suffix = Path(path).suffix.lower() if type(path) is str else ""
    return suffix if is_photo_name(f"x{suffix}") else ".jpg"


def _class_names(file: Any) -> list[str]:
    """Returns the names of class numbers that Hugging Face's datasets write into the schema."""
    metadata = file.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []


def _parquet(shard: str) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet", f"Reading {shard}") from error
    try:
        return parquet.ParquetFile(shard)
    except (ArrowException, OSError) as error:
        raise CollectionError(f"{shard} cannot be read as a Parquet file: {error}") from error


def _row(shard: Path, row: int) -> bytes:
    status = shard.stat()
    group, first = _group_of(str(shard), status.st_mtime_ns, row)
    content: bytes = _group(str(shard), status.st_mtime_ns, group)[row - first]
    return content


def _group_of(shard: str, mtime_ns: int, row: int) -> tuple[int, int]:
    first = 0
    for group, rows in enumerate(_group_sizes(shard, mtime_ns)):
        if row < first + rows:
            return group, first
        first += rows
    raise FileNotFoundError(errno.ENOENT, "no such row", shard)


@functools.lru_cache(_OPEN_SHARDS)
def _group_sizes(shard: str, mtime_ns: int) -> tuple[int, ...]:
    metadata = _parquet(shard).metadata
    return tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))


@functools.lru_cache(2)
def _group(shard: str, mtime_ns: int, group: int) -> list[bytes]:
    """Returns the photos of a row group: Parquet is not read row by row."""
    table = _parquet(shard).read_row_group(group, columns=["image.bytes"])
    return [value["bytes"] or b"" for value in table.column("image").to_pylist()]

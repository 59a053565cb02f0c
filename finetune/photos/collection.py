"""Collection of photos with their labels, and of the files that cannot be read."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.photos.crops import Crop
from finetune.photos.near_duplicates.hashing import PhotoHashes
from finetune.photos.quality import Quality

Part = Literal["train", "validation", "test"]
"""Part of a split."""

HASH_KINDS = ("perceptual", "average", "difference", "wavelet")
"""Kinds of hashes, in their packed order."""

_PACKED = struct.Struct("<8Q")


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """Readable photo file; takes about 1 kB of memory.

    Attributes:
        path: Path below the collection's root, with ``/``, spelled as on disk.
        digest: BLAKE2b-128 of the file's content, 32 hexadecimal digits; equal for exact copies.
        labels: In NFC: the assigned ones, else the folder's name; empty for an unlabeled photo
            directly in the root.
        part: From a folder ``train/``, ``val/`` or ``test/``, else None.
        width: In pixels, upright, at full size; so is `height`.
        taken_at: Local time of the exposure in ISO form, from EXIF.
        camera: Maker and model from EXIF.
        crop: Set by a person or proposed by a model.
        group: Assigned by a person.
        packed_hashes: 64 bytes, read by `hash_array`.
        file_bytes: Size of the file.
        confirmed: Whether a person assigned the labels, or marked that none fits.
        value_range: Range of the stored values in words, where it is not that of their type.
    """

    path: str
    digest: str
    labels: tuple[str, ...] = ()
    part: Part | None = None
    width: int
    height: int
    taken_at: str | None = None
    camera: str | None = None
    crop: Crop | None = None
    group: str | None = None
    packed_hashes: bytes | None = None
    quality: Quality | None = None
    file_bytes: int = 0
    confirmed: bool = False
    value_range: str | None = None

    @property
    def folder(self) -> str:
        """Path of the photo's folder below the root; empty for the root itself."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Unreadable file with the suffix of a photo.

    Attributes:
        path: Path below the collection's root, with ``/``.
        reason: A few words: ``truncated``, ``not a photo``, ``too many pixels`` ...
    """

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Photos found by a scan, and the files that cannot be read, both sorted by path.

    Attributes:
        root: The folder that paths are relative to.
        other_names: Further names of a photo's file (symbolic and hard links), each with the path
            of the name that counts. Such a name is among `photos` only where it adds a label or a
            part.
        other_kinds: Number of camera files of kinds that are not read, by suffix.
    """

    root: Path
    photos: tuple[Photo, ...]
    problems: tuple[Problem, ...] = ()
    other_names: Mapping[str, str] = field(default_factory=dict)
    other_kinds: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.photos)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels, sorted."""
        return tuple(sorted({label for photo in self.photos for label in photo.labels}))

    @cached_property
    def has_parts(self) -> bool:
        """Whether the photos lie in train, validation and test folders."""
        return any(photo.part is not None for photo in self.photos)

    def path_of(self, photo: Photo | Problem) -> Path:
        """Returns the path of a photo on disk."""
        return self.root / photo.path


def pack_hashes(hashes: PhotoHashes, mirrored: PhotoHashes) -> bytes:
    """Returns the hashes of a photo and of its mirror image as 64 bytes."""
    return _PACKED.pack(
        *(getattr(hashes, kind) for kind in HASH_KINDS),
        *(getattr(mirrored, kind) for kind in HASH_KINDS),
    )


def hash_array(
    photos: Sequence[Photo], kind: str = "perceptual", *, mirrored: bool = False
) -> NDArray[np.uint64]:
    """Returns one kind of hash of many photos as ``(N,) uint64``, in their order.

    Args:
        photos: Photos that all have hashes.
        kind: One of `HASH_KINDS`.
        mirrored: Return the hashes of the mirror images instead.

    Raises:
        ValueError: A photo has no hashes; the message names it.
    """
    packed = []
    for photo in photos:
        if photo.packed_hashes is None:
            raise ValueError(f"{photo.path} has no hashes")
        packed.append(photo.packed_hashes)
    numbers = np.frombuffer(b"".join(packed), dtype="<u8").reshape(-1, 8)
    return numbers[:, HASH_KINDS.index(kind) + 4 * mirrored].astype(np.uint64)


Status = Literal["ok", "bad", "unread"]
"""``bad``: the content is not a readable photo; ``unread``: the file could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoMetadata:
    """Measurements of a photo's content; the columns of the table ``photo``."""

    digest: str
    width: int
    height: int
    format: str
    taken_at: str | None
    camera: str | None
    hashes: bytes | None
    brightness: float | None
    contrast: float | None
    sharpness: float | None
    analysis: int
    value_range: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileMetadata:
    """Metadata of a file; the columns of the table ``file``.

    Attributes:
        path: Path below the root, with ``/``.
        size: Bytes.
        digest: Of the content; None if the file could not be read.
        reason: Set unless the status is ``ok``.
        reader: The `reader_version` that read it; a bad file is tried again with another version.
    """

    path: str
    size: int
    mtime_ns: int
    digest: str | None
    status: Status
    reason: str | None
    reader: str

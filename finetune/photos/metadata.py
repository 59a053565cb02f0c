"""The facts of files and photos, as workers find them and the catalog keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "bad", "unread"]
"""``bad``: the content is no photo that can be read; ``unread``: the file itself was not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoMetadata:
    """What was measured of one content; the columns of the table ``photo``."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class FileMetadata:
    """What was found at one path.

    Attributes:
        path: Path below the root, with ``/``.
        size: Bytes.
        mtime_ns: Time of the last change, in nanoseconds.
        digest: Of the content; None where the file could not be read.
        status: See `Status`.
        reason: Why the status is not ``ok``.
        reader: Version of the program's eyes; a bad file is tried again by other eyes.
    """

    path: str
    size: int
    mtime_ns: int
    digest: str | None
    status: Status
    reason: str | None
    reader: str

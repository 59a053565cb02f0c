"""Where the subject of each photo was found, kept from one session to the next."""

from __future__ import annotations

import contextlib
from pathlib import Path

from finetune.errors import PhotoError, StorageError
from finetune.files import read_json, write_json
from finetune.photos.crops import Crop


class Subjects:
    """Squares around subjects by the photos' digests: a cache that may be deleted.

    They are not proposals to a person, and no training sees them.

    Args:
        path: Its JSON file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._crops: dict[str, Crop] = {}
        self._saved = 0
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, PhotoError):
            self._crops = {
                str(digest): Crop(center_x=x, center_y=y, side=side)
                for digest, (x, y, side) in read_json(path).items()
            }
            self._saved = len(self._crops)

    def get(self, digest: str) -> Crop | None:
        """Returns the square of a photo, or None."""
        return self._crops.get(digest)

    def put(self, digest: str, crop: Crop) -> None:
        """Keeps the square of a photo."""
        self._crops[digest] = crop

    def save(self, *, least: int = 500) -> None:
        """Writes the file when there is much that is new, or with ``least=1`` anything."""
        if len(self._crops) - self._saved < least:
            return
        rows = {
            digest: [round(crop.center_x, 4), round(crop.center_y, 4), round(crop.side, 4)]
            for digest, crop in self._crops.items()
        }
        # A full disk or a read-only folder costs time at the next start, nothing more.
        with contextlib.suppress(StorageError):
            write_json(self._path, rows)
        self._saved = len(self._crops)

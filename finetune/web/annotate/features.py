"""What a backbone sees of the photos of a session, as far as it has looked."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finetune.errors import DecodeError, PhotoError, StorageError
from finetune.files import read_json, write_json
from finetune.photos.collection import Photo
from finetune.photos.crops import Crop
from finetune.web.annotate.photo_index import Entry
from finetune.web.annotate.session import Session

if TYPE_CHECKING:
    from finetune.curation.embedding import Embedder
    from finetune.curation.subject import SubjectFinder


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of the photos that are known so far.

    Attributes:
        ids: The photos.
        rows: ``(N, F) float32``, one row a photo.
    """

    ids: tuple[str, ...]
    rows: NDArray[np.float32]

    def nearest(self, photo_id: str) -> list[str]:
        """Returns all photos by their likeness to one, the likest first; [] if it is not there."""
        return [self.ids[place] for place in self.nearest_places(photo_id)]

    def nearest_places(self, photo_id: str) -> list[int]:
        """Returns the same as places in `ids`."""
        if photo_id not in self.ids:
            return []
        from finetune.curation.embedding import unit_rows

        rows = unit_rows(self.rows)
        likeness = rows @ rows[self.ids.index(photo_id)]
        places: list[int] = np.argsort(-likeness, kind="stable").tolist()
        return places


class FeatureReader:
    """Looks at the photos of a session, some at a time. What it found may be read from any thread.

    Args:
        session: The session.

    Attributes:
        subjects: The squares that it looked through.
    """

    def __init__(self, session: Session) -> None:
        self.subjects = Subjects(session.home / "subjects.json")
        self._session = session
        self._rows: dict[str, NDArray[np.float32]] = {}
        self._embedder: Embedder | None = None
        self._finder: SubjectFinder | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def open(self) -> Embedder:
        """Loads the backbone, which takes seconds; at once where that was done before."""
        if self._embedder is None:
            from finetune.curation.embedding import Embedder, load_backbone
            from finetune.curation.subject import SubjectFinder

            backbone = load_backbone()
            self._embedder = Embedder(backbone)
            self._finder = SubjectFinder(backbone)
        return self._embedder

    def fresh(self) -> list[Entry]:
        """Returns the photos that can be looked at and have not been."""
        return [
            entry
            for entry in self._session.board.entries()
            if entry.photo is not None and entry.problem is None and entry.id not in self._rows
        ]

    def read(self, entries: Sequence[Entry], go_on: Callable[..., None]) -> None:
        """Looks at photos.

        Args:
            entries: The photos.
            go_on: Called again and again; what it raises ends the looking.
        """
        embedder = self.open()
        photos = [self._framed(entry.photo, go_on) for entry in entries if entry.photo is not None]
        found = embedder.embed(
            self._session.root, photos, catalog=self._session.catalog_place, progress=go_on
        )
        for row, position in zip(found.features, found.positions.tolist(), strict=True):
            self.put(entries[position].id, row)
        # One that cannot be opened after all is not tried again and again.
        for entry in entries:
            self._rows.setdefault(entry.id, np.zeros(found.features.shape[1], np.float32))

    def put(self, photo_id: str, row: NDArray[np.float32]) -> None:
        """Takes the features ``(F,)`` of a photo."""
        self._rows[photo_id] = row

    def known(self) -> Features:
        """Returns the features of all photos that were looked at."""
        rows = dict(self._rows)
        stacked = np.stack(list(rows.values())) if rows else np.zeros((0, 1), np.float32)
        return Features(ids=tuple(rows), rows=stacked)

    def square(self, entry: Entry) -> Crop | None:
        """Returns the square around the subject of a photo; None where there is no backbone yet.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        finder = self._finder
        return None if finder is None else finder.crop_of(self._session.root / entry.path)

    def _framed(self, photo: Photo, go_on: Callable[..., None]) -> Photo:
        """Returns a photo with the square through which it is looked at.

        What surrounds a small subject says little about it: features of the square around it tell
        the labels apart far better than features of the whole photo.
        """
        go_on()
        if photo.crop is not None:
            return photo
        crop = self.subjects.get(photo.digest)
        if crop is None and self._finder is not None:
            try:
                crop = self._finder.crop_of(self._session.root / photo.path)
            except DecodeError:
                return photo
            self.subjects.put(photo.digest, crop)
        return dataclasses.replace(photo, crop=crop)


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

"""Backbone features of a session's photos, computed in steps."""

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
from finetune.web.annotate.photo_state import PhotoState
from finetune.web.annotate.session import Session

if TYPE_CHECKING:
    from finetune.curation.embedding import Embedder
    from finetune.curation.saliency import SubjectFinder


_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of the photos embedded so far: N ids and ``rows (N, F) float16``."""

    ids: tuple[str, ...]
    rows: NDArray[np.float16]

    def nearest(self, photo_id: str) -> list[int]:
        """Returns all positions in `ids`, the most similar to a photo first; [] without features.

        Similarity is the cosine.
        """
        if photo_id not in self.ids:
            return []
        from finetune.curation.embedding import unit_rows

        (own,) = unit_rows(self.rows[[self.ids.index(photo_id)]].astype(np.float32))
        similarity = np.concatenate(
            [
                unit_rows(self.rows[start : start + _CHUNK].astype(np.float32)) @ own
                for start in range(0, len(self.rows), _CHUNK)
            ]
        )
        positions: list[int] = np.argsort(-similarity, kind="stable").tolist()
        return positions


class FeatureExtractor:
    """Embeds the photos of a session step by step. Results may be read from any thread.

    Each photo is cropped to its subject: with the surroundings, labels separate far worse.

    Args:
        session: The session.
        model: Any timm model with pretrained weights; None: the default backbone.
        weights: A weights file; None: the model's own weights.
    """

    def __init__(
        self, session: Session, *, model: str | None = None, weights: str | None = None
    ) -> None:
        self._model = model
        self._weights = weights
        self.subjects = SubjectCache(session.cache_dir / "subjects.json")
        self._session = session
        # Half precision: 100,000 photos take 260 MB.
        self._rows = np.zeros((0, 1), np.float16)
        self._places: dict[str, int] = {}
        self._embedder: Embedder | None = None
        self._finder: SubjectFinder | None = None

    def __len__(self) -> int:
        return len(self._places)

    def load(self) -> Embedder:
        """Loads the backbone, which takes seconds the first time."""
        if self._embedder is None:
            from finetune.curation.embedding import DEFAULT_BACKBONE, Embedder, load_backbone
            from finetune.curation.saliency import SubjectFinder

            backbone = load_backbone(self._model or DEFAULT_BACKBONE, self._weights)
            self._embedder = Embedder(backbone)
            self._finder = SubjectFinder(backbone)
        return self._embedder

    def pending(self) -> list[PhotoState]:
        """Returns the readable photos without features."""
        return [
            state
            for state in self._session.index.states()
            if state.photo is not None and state.problem is None and state.id not in self._places
        ]

    def extract(self, states: Sequence[PhotoState], progress: Callable[..., None]) -> None:
        """Embeds photos; `progress` is called repeatedly and may raise to stop the work."""
        embedder = self.load()
        photos = [self._with_crop(s.photo, progress) for s in states if s.photo is not None]
        found = embedder.embed(
            self._session.root, photos, catalog=self._session.catalog_path, progress=progress
        )
        for row, position in zip(found.features, found.positions.tolist(), strict=True):
            self.put(states[position].id, row)
        # A photo that can no longer be opened is not tried again.
        for state in states:
            if state.id not in self._places:
                self.put(state.id, np.zeros(found.features.shape[1], np.float32))

    def put(self, photo_id: str, row: NDArray[np.float32]) -> None:
        """Sets the features ``(F,)`` of a photo."""
        place = self._places.get(photo_id, len(self._places))
        if place >= len(self._rows):
            grown = np.zeros((max(64, 2 * len(self._rows)), len(row)), np.float16)
            if place:
                grown[:place] = self._rows[:place]
            self._rows = grown
        self._rows[place] = row
        self._places[photo_id] = place

    def features(self) -> Features:
        """Returns the features of all photos embedded so far."""
        ids = tuple(self._places)
        return Features(ids=ids, rows=self._rows[: len(ids)])

    def subject_crop(self, state: PhotoState) -> Crop | None:
        """Returns a crop around the subject of a photo; None before the backbone is loaded.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        finder = self._finder
        return None if finder is None else finder.crop_of(self._session.root / state.path)

    def _with_crop(self, photo: Photo, progress: Callable[..., None]) -> Photo:
        progress()
        if photo.crop is not None:
            return photo
        crop = self.subjects.crops.get(photo.digest)
        if crop is None and self._finder is not None:
            try:
                crop = self._finder.crop_of(self._session.root / photo.path)
            except DecodeError:
                return photo
            self.subjects.crops[photo.digest] = crop
        return dataclasses.replace(photo, crop=crop)


class SubjectCache:
    """Subject crops by photo digest, cached in a JSON file. Training does not use them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.crops: dict[str, Crop] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, PhotoError):
            self.crops = {
                str(digest): Crop(center_x=x, center_y=y, side=side)
                for digest, (x, y, side) in read_json(path).items()
            }
        self._saved = len(self.crops)

    def save(self, *, min_new: int = 500) -> None:
        """Writes the file if at least `min_new` crops are new."""
        if len(self.crops) - self._saved < min_new:
            return
        rows = {
            digest: [round(crop.center_x, 4), round(crop.center_y, 4), round(crop.side, 4)]
            for digest, crop in self.crops.items()
        }
        # Without the file, the crops are computed again at the next start.
        with contextlib.suppress(StorageError):
            write_json(self._path, rows)
        self._saved = len(self.crops)

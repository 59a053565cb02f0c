"""Training photos most similar to a photo, by backbone features."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.data.dataset import PhotoDataset
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.errors import RunError
from finetune.files import collection_cache_dir
from finetune.models.features import FeatureCache
from finetune.photos.analyze import digest_of
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.split.split import SplitRow, read_split
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder

_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Similar:
    """Training photo with its label and the cosine similarity of features, in [-1, 1]."""

    photo: str
    label: str
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {"photo": self.photo, "label": self.label, "similarity": self.similarity}


class TrainingPhotos:
    """Features of the photos that a run was trained on.

    They are read from the collection's cache; missing ones are computed once.

    Args:
        run: The run.
        engine: Its network.
        progress: Called as ``progress(done, total)`` while features are computed.

    Raises:
        RunError: The photos have been moved or deleted.
    """

    def __init__(
        self,
        run: RunFolder,
        engine: TorchEngine,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        description = run.read(run.config_file)
        self.root = Path(description["photos"])
        settings = description["settings"]
        catalog = settings.get("collection", {}).get("catalog")
        rows = [row for row in read_split(run.split_file) if row.part == "train"]
        self._rows = [row for row in rows if (self.root / row.path).is_file()]
        if not self._rows:
            raise RunError(
                f"None of the {len(rows):,} training photos of {run.path} is in {self.root} any "
                "more, so similar ones cannot be found. Put the folder back, or leave out "
                "the similar photos."
            )
        catalog_file = Path(catalog) if catalog else None
        cache_dir = collection_cache_dir(self.root, catalog_file)
        preprocessing = engine.metadata.preprocessing
        crops = self._crops(catalog_file)
        limit_gb = settings.get("pixels", {}).get("cache_gb", 10.0)
        self._features = FeatureCache(cache_dir, engine.module, preprocessing)
        try:
            with contextlib.closing(
                PixelCache(cache_dir, preprocessing, limit_gb=limit_gb)
            ) as cache:
                samples = _samples(self._rows, crops, engine.metadata.labels)
                dataset = PhotoDataset(self.root, samples, cache)
                self._features.fill(dataset, progress=progress)
                self._keys = self._features.keys(dataset)
        except BaseException:
            self._features.close()
            raise

    def __enter__(self) -> TrainingPhotos:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._features.close()

    def like(
        self, image: NDArray[np.uint8], *, count: int = 4, photo: Path | None = None
    ) -> tuple[Similar, ...]:
        """Returns the training photos most like a working image ``(S, S, 3) uint8``.

        Args:
            image: The photo to compare.
            count: Number of photos.
            photo: Its file; left out of the result if it is a training photo itself.
        """
        own = digest_of(photo.read_bytes()) if photo is not None and photo.is_file() else None
        images = torch.from_numpy(np.ascontiguousarray(image[None])).permute(0, 3, 1, 2)
        query = _unit(self._features.compute(images))[0]
        cosines = np.concatenate(
            [
                _unit(self._features.read(self._keys[at : at + _CHUNK]).numpy()) @ query
                for at in range(0, len(self._keys), _CHUNK)
            ]
        )
        order = [i for i in np.argsort(-cosines, kind="stable") if self._rows[i].digest != own]
        return tuple(
            Similar(
                photo=str(self.root / self._rows[i].path),
                label=" + ".join(self._rows[i].labels),
                similarity=float(cosines[i]),
            )
            for i in order[:count]
        )

    def _crops(self, catalog: Path | None) -> dict[str, Any]:
        with open_catalog(self.root, catalog) as opened:
            return {photo.digest: photo.crop for photo in opened.collection(self.root).photos}


def _samples(
    rows: Sequence[SplitRow], crops: dict[str, Any], labels: Sequence[str]
) -> list[Sample]:
    index = {label: number for number, label in enumerate(labels)}
    return [
        Sample(
            path=row.path,
            digest=row.digest,
            crop=crops.get(row.digest),
            # Only its features are used.
            target=index.get(row.labels[0], 0) if row.labels else 0,
        )
        for row in rows
    ]


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    unit: NDArray[np.float32] = features / lengths
    return unit

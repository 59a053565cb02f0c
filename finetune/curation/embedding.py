"""Features of photos from a pretrained backbone, cached on disk.

Similarity search, label suggestions and label errors use them. The default backbone's weights come
with the installation, so that nothing is downloaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.config import Fit
from finetune.data.dataset import PhotoDataset
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.errors import DecodeError
from finetune.files import collection_cache_dir, user_cache_folder
from finetune.models.factory import LoadedModel, ModelRequest, create_model
from finetune.models.features import BATCH_SIZE, FeatureCache
from finetune.models.registry import DEFAULT_MODEL
from finetune.photos.collection import Photo, Problem
from finetune.photos.crops import Crop, load_image
from finetune.photos.decode.pool import usable_cores
from finetune.processes import ALONE, Team, own_batches

DEFAULT_BACKBONE = DEFAULT_MODEL

Progress = Callable[[int, int], None]

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Features of photos.

    Attributes:
        photos: The photos that could be opened, in the given order.
        features: ``(N, F) float32``, a row per photo of `photos`.
        positions: ``(N,) int64``, indices of `photos` among those given.
        problems: Photos that could not be opened.
    """

    photos: tuple[Photo, ...]
    features: NDArray[np.float32]
    positions: NDArray[np.int64]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FileFeatures:
    """Features of files outside of a collection.

    Attributes:
        paths: The files that could be opened, in the given order.
        features: ``(N, F) float32``, a row per file of `paths`.
        problems: Files that could not be opened.
    """

    paths: tuple[Path, ...]
    features: NDArray[np.float32]
    problems: tuple[Problem, ...] = ()


def embed(
    root: Path,
    photos: Sequence[Photo],
    *,
    catalog: Path | None = None,
    model: str = DEFAULT_BACKBONE,
    weights: str | None = None,
    progress: Progress | None = None,
) -> Embedding:
    """Returns the features of a collection's photos, from the cache where possible.

    Args:
        root: The collection's folder.
        photos: Photos of the collection; their crops are used.
        catalog: Catalog of the collection, as in `finetune.photos.scan.scan`.
        model: Any timm model with pretrained weights.
        weights: A weights file; None: the model's own weights.
        progress: Called as ``progress(done, total)`` for photos that are not cached.

    Raises:
        ModelError: Unknown model, or weights that do not fit.
        WeightsUnavailable: The weights are neither on disk nor can be downloaded.
    """
    return Embedder(load_backbone(model, weights)).embed(
        root, photos, catalog=catalog, progress=progress
    )


def load_backbone(
    model: str = DEFAULT_BACKBONE,
    weights: str | None = None,
    *,
    fit: Fit = "crop",
    download: bool = True,
) -> LoadedModel:
    """Returns a backbone on the CPU, in eval mode, without gradients.

    Raises:
        ModelError: Unknown model, or weights that do not fit.
        WeightsUnavailable: The weights are neither on disk nor can be downloaded.
    """
    loaded = create_model(ModelRequest(name=model, weights=weights, fit=fit, download=download))
    module = loaded.module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return LoadedModel(
        module, loaded.name, loaded.preprocessing, loaded.origin, loaded.head_from_file
    )


class Embedder:
    """Computes features of photos.

    Reads photos that a training decoded from its pixel cache, and adds none to it: features take a
    thirtieth of the space.

    Args:
        backbone: A loaded backbone; see `load_backbone`.
    """

    def __init__(self, backbone: LoadedModel) -> None:
        self.backbone = backbone

    def embed(
        self,
        root: Path,
        photos: Sequence[Photo],
        *,
        catalog: Path | None = None,
        progress: Progress | None = None,
        team: Team = ALONE,
    ) -> Embedding:
        """Returns the features of a collection's photos; see the function `embed`.

        Each process of a team computes its share of them, and returns all.
        """
        cache_dir = collection_cache_dir(root, catalog)
        with self._caches(cache_dir) as (pixels, features):
            samples = [
                Sample(path=photo.path, digest=photo.digest, crop=photo.crop, target=0)
                for photo in photos
            ]
            keys = features.keys(PhotoDataset(root, samples, pixels))
            features.records.drop_damaged(keys)
            # By key, so that copies of a photo are decoded once.
            mine = own_batches(team, len(keys), BATCH_SIZE).tolist()
            missing = {keys[i]: i for i in mine if keys[i] not in features.records}

            def image_of(key: bytes) -> NDArray[np.uint8]:
                sample = samples[missing[key]]
                known = pixels.key(sample.digest, sample.crop)
                image = np.empty((pixels.size, pixels.size, 3), np.uint8)
                if pixels.records.read_into(known, image[None]):
                    return image
                return self._load(root / sample.path, sample.crop)

            failed: dict[bytes, str] = {}
            for batch, reasons in self._compute(features, list(missing), image_of, progress):
                for key, feature in batch.items():
                    features.records.put(key, feature)
                failed |= reasons
            features.records.flush()
            for reasons in team.gather_objects(failed):
                failed |= reasons
            features.records.refresh()
            good = [i for i, key in enumerate(keys) if key not in failed]
            array = features.records.read([keys[i] for i in good])
        return Embedding(
            photos=tuple(photos[i] for i in good),
            features=array,
            positions=np.array(good, dtype=np.int64),
            problems=tuple(
                Problem(path=photo.path, reason=failed[key])
                for photo, key in zip(photos, keys, strict=True)
                if key in failed
            ),
        )

    def embed_files(
        self, paths: Sequence[Path], *, progress: Progress | None = None
    ) -> FileFeatures:
        """Returns the features of files outside of a collection, without caching them."""
        found: dict[Path, NDArray[np.float32]] = {}
        failed: dict[Path, str] = {}
        # Only the features' shape is read; this creates no file.
        with self._caches(user_cache_folder()) as (_, features):
            width = features.records.shape[0]
            steps = self._compute(
                features,
                list(dict.fromkeys(paths)),
                lambda path: self._load(path, None),
                progress,
            )
            for batch, reasons in steps:
                found |= batch
                failed |= reasons
        good = tuple(path for path in paths if path in found)
        return FileFeatures(
            paths=good,
            features=np.array([found[path] for path in good], np.float32).reshape(-1, width),
            problems=tuple(
                Problem(path=str(path), reason=reason) for path, reason in failed.items()
            ),
        )

    @contextlib.contextmanager
    def _caches(self, cache_dir: Path) -> Iterator[tuple[PixelCache, FeatureCache]]:
        preprocessing = self.backbone.preprocessing
        with (
            contextlib.closing(PixelCache(cache_dir, preprocessing, limit_gb=0)) as pixels,
            contextlib.closing(
                FeatureCache(cache_dir, self.backbone.module, preprocessing)
            ) as features,
        ):
            yield pixels, features

    def _load(self, path: Path, crop: Crop | None) -> NDArray[np.uint8]:
        preprocessing = self.backbone.preprocessing
        return load_image(
            path,
            size=preprocessing.working_size,
            fit=preprocessing.fit,
            crop=crop,
            interpolation=preprocessing.interpolation,
        )

    def _compute(
        self,
        features: FeatureCache,
        items: Sequence[Item],
        image_of: Callable[[Item], NDArray[np.uint8]],
        progress: Progress | None,
    ) -> Iterator[tuple[dict[Item, NDArray[np.float32]], dict[Item, str]]]:
        """Yields the features by item, and the reasons by failed item, of each batch."""
        for number, (images, failed) in enumerate(decoded_batches(items, image_of), start=1):
            rows: Sequence[NDArray[np.float32]] = ()
            if images:
                batch = torch.from_numpy(np.stack(list(images.values()))).permute(0, 3, 1, 2)
                rows = list(features.compute(batch))
            yield dict(zip(images, rows, strict=True)), failed
            if progress is not None:
                progress(min(number * BATCH_SIZE, len(items)), len(items))


def decoded_batches(
    items: Sequence[Item], pixels_of: Callable[[Item], NDArray[np.uint8]]
) -> Iterator[tuple[dict[Item, NDArray[np.uint8]], dict[Item, str]]]:
    """Yields the pixels by item, and the reasons by failed item, of each batch.

    Decodes the next batch while the caller works on this one.
    """
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode") as pool:

        def read(item: Item) -> NDArray[np.uint8] | str:
            try:
                return pixels_of(item)
            except DecodeError as error:
                return error.reason

        steps = [items[i : i + BATCH_SIZE] for i in range(0, len(items), BATCH_SIZE)]
        ahead = [pool.submit(read, item) for item in steps[0]] if steps else []
        for number, step in enumerate(steps):
            done = dict(zip(step, [future.result() for future in ahead], strict=True))
            following = steps[number + 1] if number + 1 < len(steps) else ()
            ahead = [pool.submit(read, item) for item in following]
            yield (
                {item: value for item, value in done.items() if not isinstance(value, str)},
                {item: value for item, value in done.items() if isinstance(value, str)},
            )


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns features scaled to length 1; zero rows stay zero."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)

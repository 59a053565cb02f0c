"""Features of a frozen backbone, computed once a photo and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.augmentation.center_crop import center
from finetune.data.dataset import PhotoDataset
from finetune.data.loaders import evaluation_batches, load_batches
from finetune.data.record_store import RecordStore, record_key
from finetune.models.feature_backends import Engine, features_of, quickest_engine
from finetune.models.heads import backbone_parameters
from finetune.models.malloc import release_memory
from finetune.photos.preprocessing import Preprocessing

BATCH_SIZE = 32

if TYPE_CHECKING:
    from finetune.augmentation.batch_augment import BatchAugment

Progress = Callable[[int, int], None]


def weights_digest(module: nn.Module) -> str:
    """Returns a short digest of a backbone's tensors, the head left out."""
    digest = hashlib.blake2b(digest_size=8)
    buffers = ((name, value) for name, value in module.named_buffers())
    for name, value in sorted([*backbone_parameters(module), *buffers], key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class View:
    """An augmented view of photos, the same each time.

    Attributes:
        augment: What is done to them.
        number: From 1; stands in the place of the epoch when chance is drawn.
    """

    augment: BatchAugment
    number: int


class FeatureCache:
    """Features of one backbone at one input size, on disk.

    Which engine computes them is no part of their keys: a feature is the same within
    `frozen.TOLERANCE` by any of them, and whoever looks for photos that are alike should find what
    a training has computed.

    Args:
        folder: Holds one store a backbone; may be deleted at any time.
        module: The backbone, in eval mode on its device.
        preprocessing: What it expects of its pixels.
        expected: How many photos (and views of them) it is to serve in all; a quicker engine than
            torch is made where they are many.
        say: Told which engine that is, or why it is not.
    """

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        preprocessing: Preprocessing,
        *,
        expected: int = 0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.module = module
        self.preprocessing = preprocessing
        self.expected = expected
        self._say = say
        self._engine: Engine | None = None
        self._device = next(module.parameters()).device
        with torch.inference_mode():
            probe = torch.zeros(
                1,
                preprocessing.channels,
                preprocessing.size,
                preprocessing.size,
                device=self._device,
            )
            width = features_of(module.eval(), probe).shape[1]
        name = f"features-{weights_digest(module)}-{preprocessing.size}"
        self._graph = folder / name / "backbone.onnx"
        self.records = RecordStore(
            folder / name, shape=(width,), dtype=np.float32, limit_bytes=float("inf")
        )
        self._spec_key = record_key(*sorted(preprocessing.to_dict().items()), self._device.type)

    def keys(self, dataset: PhotoDataset, view: View | None = None) -> list[bytes]:
        """Returns the keys of a dataset's features, in its order.

        Args:
            dataset: The photos.
            view: An augmented view of them; None is the photo as prediction sees it.
        """
        cache = dataset.cache
        seen = () if view is None else (view.augment.extra_repr(), view.number)
        return [
            record_key(
                self._spec_key.hex(),
                cache.key(sample.digest, sample.crop).hex(),
                # What is drawn for a photo depends on its place in the dataset.
                *((*seen, index) if seen else ()),
            )
            for index, sample in enumerate(dataset.samples)
        ]

    def fill(
        self,
        dataset: PhotoDataset,
        *,
        view: View | None = None,
        workers: int = 0,
        progress: Progress | None = None,
        share: Callable[[NDArray[Any]], NDArray[Any]] = lambda places: places,
    ) -> int:
        """Computes the features that are not there yet; returns how many that were.

        Args:
            dataset: The photos.
            view: As in `keys`.
            workers: Processes that decode what the cache does not hold.
            progress: Called as ``progress(done, total)``.
            share: Chooses among the photos' places, where several processes share them.
        """
        keys = self.keys(dataset, view)
        # Shared by place, not among what is missing: processes learn of each other's records at
        # different moments, and would share different lists.
        mine = share(np.arange(len(keys)))
        gaps = [place for place in mine.tolist() if keys[place] not in self.records]
        missing = np.array(gaps, dtype=int)
        done = 0
        steps = evaluation_batches(len(missing), BATCH_SIZE)
        batches = load_batches(dataset, [missing[step] for step in steps], workers=workers)
        for batch in batches:
            features = self.compute(batch.images, view, batch.indices)
            for index, feature in zip(batch.indices.tolist(), features, strict=True):
                self.records.put(keys[index], feature)
            done += len(features)
            if progress:
                progress(done, len(missing))
        self.records.flush()
        if done:
            # A labeling session goes on for hours after its backbone is done.
            release_memory()
        return done

    @torch.inference_mode()
    def compute(
        self, images: Tensor, view: View | None = None, indices: Tensor | None = None
    ) -> NDArray[np.float32]:
        """Returns features ``(B, F) float32`` of working squares ``(B, 3, S, S) uint8``."""
        preprocessing = self.preprocessing
        images = images.to(self._device, non_blocking=True)
        if view is None or indices is None:
            pixels = center(
                images,
                preprocessing.size,
                preprocessing.mean,
                preprocessing.std,
                whiten=preprocessing.whiten,
            )
        else:
            pixels = view.augment(images, indices, view.number)
        array: NDArray[np.float32] = self.engine.features(pixels).cpu().numpy()
        return array

    @property
    def engine(self) -> Engine:
        """What computes the features; made when the first are missing."""
        if self._engine is None:
            preprocessing = self.preprocessing
            self._engine = quickest_engine(
                self.module,
                shape=(preprocessing.channels, preprocessing.size, preprocessing.size),
                photos=self.expected,
                graph=self._graph,
            )
            if self._engine.note:
                self._say(self._engine.note)
        return self._engine

    def close(self) -> None:
        """Writes what is still in memory and lets go of the files."""
        self.records.close()

    def read(self, keys: Sequence[bytes]) -> Tensor:
        """Returns features ``(len(keys), F) float32``."""
        return torch.from_numpy(self.records.read(keys))


def standardization(
    read: Callable[[Sequence[bytes]], Tensor], keys: Sequence[bytes], chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """Returns mean ``(F,)`` and standard deviation ``(F,)`` of features, read in chunks."""
    total: Any = 0.0
    squares: Any = 0.0
    for start in range(0, len(keys), chunk):
        part = read(keys[start : start + chunk]).double()
        total = total + part.sum(0)
        squares = squares + part.square().sum(0)
    mean = total / len(keys)
    variance = (squares / len(keys) - mean.square()).clamp_min(0)
    return mean.float(), variance.sqrt().float()

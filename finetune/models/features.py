"""Features of a frozen backbone, computed once per photo and cached on disk."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.augmentation.center_crop import preprocess
from finetune.data.dataset import PhotoDataset
from finetune.data.loaders import evaluation_batches, load_batches
from finetune.data.record_store import RecordStore, record_key
from finetune.malloc import release_memory
from finetune.models.feature_backends import FeatureBackend, fastest_backend, features_of
from finetune.models.heads import backbone_parameters
from finetune.photos.preprocessing import Preprocessing

BATCH_SIZE = 32

if TYPE_CHECKING:
    from finetune.augmentation.batch_augment import BatchAugment

Progress = Callable[[int, int], None]


def weights_digest(module: nn.Module) -> str:
    """Returns a short digest of a backbone's tensors, without the head."""
    digest = hashlib.blake2b(digest_size=8)
    buffers = ((name, value) for name, value in module.named_buffers())
    for name, value in sorted([*backbone_parameters(module), *buffers], key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class AugmentedView:
    """Repeatable augmented view of photos; `number`, from 1, replaces the epoch."""

    augment: BatchAugment
    number: int


class FeatureCache:
    """Features of one backbone at one input size, on disk.

    The backend is not part of the keys: all agree within `feature_backends.TOLERANCE`, and a
    search for similar photos reuses what a training has computed.

    Args:
        folder: Holds one store per backbone; may be deleted at any time.
        module: The backbone, in eval mode on its device.
        preprocessing: Of its input.
        expected: Number of photos, counting each view, in all; decides the backend.
        note: Callback that receives the reason for the backend.
    """

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        preprocessing: Preprocessing,
        *,
        expected: int = 0,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.module = module
        self.preprocessing = preprocessing
        self.expected = expected
        self._note = note
        self._shape = (preprocessing.channels, preprocessing.size, preprocessing.size)
        self._device = next(module.parameters()).device
        with torch.inference_mode():
            probe = torch.zeros(1, *self._shape, device=self._device)
            width = features_of(module.eval(), probe).shape[1]
        name = f"features-{weights_digest(module)}-{preprocessing.size}"
        self._graph = folder / name / "backbone.onnx"
        self.records = RecordStore(
            folder / name, shape=(width,), dtype=np.float32, limit_bytes=float("inf")
        )
        self._preprocessing_key = record_key(
            *sorted(preprocessing.to_dict().items()), self._device.type
        )

    def keys(self, dataset: PhotoDataset, view: AugmentedView | None = None) -> list[bytes]:
        """Returns the keys of a dataset's features, in its order.

        Args:
            dataset: The photos.
            view: An augmented view of them; None: the center crop, as in prediction.
        """
        cache = dataset.cache
        seen = () if view is None else (view.augment.extra_repr(), view.number)
        return [
            record_key(
                self._preprocessing_key.hex(),
                cache.key(sample.digest, sample.crop).hex(),
                # A photo's random parameters depend on its index in the dataset.
                *((*seen, index) if seen else ()),
            )
            for index, sample in enumerate(dataset.samples)
        ]

    def of_drawn(
        self, name: str, count: int, draw: Callable[[], Sequence[NDArray[np.uint8]]]
    ) -> Tensor:
        """Returns features ``(N, F)`` of working images ``(S, S, 3) uint8`` that code draws.

        Args:
            name: Names the images in the cache.
            count: Number of images N.
            draw: Returns the images; called where features are missing.
        """
        keys = [record_key(self._preprocessing_key.hex(), name, number) for number in range(count)]
        self.records.drop_damaged(keys)
        if any(key not in self.records for key in keys):
            images = torch.from_numpy(np.stack(draw())).permute(0, 3, 1, 2)
            for key, feature in zip(keys, self.compute(images), strict=True):
                self.records.put(key, feature)
            self.records.flush()
        return self.read(keys)

    def fill(
        self,
        dataset: PhotoDataset,
        *,
        view: AugmentedView | None = None,
        workers: int = 0,
        progress: Progress | None = None,
        shard: Callable[[NDArray[Any]], NDArray[Any]] = lambda indices: indices,
        leave_out: bool = False,
    ) -> int:
        """Computes the features that are missing and returns their number.

        Args:
            dataset: The photos.
            view: As in `keys`.
            workers: Processes that decode photos missing from the pixel cache.
            progress: Called as ``progress(done, total)``.
            shard: Returns this process's part of the indices.
            leave_out: Leave out photos that have vanished or changed, and add them to
                `dataset.lost`.

        Raises:
            DecodeError: A photo has vanished or changed, and `leave_out` is False.
        """
        keys = self.keys(dataset, view)
        # All indices are sharded, not the missing ones: processes see each other's records at
        # different moments, and would shard different lists.
        mine = shard(np.arange(len(keys))).tolist()
        self.records.drop_damaged([keys[index] for index in mine])
        missing = np.array([index for index in mine if keys[index] not in self.records], dtype=int)
        done = 0
        steps = evaluation_batches(len(missing), BATCH_SIZE)
        plan = [missing[step] for step in steps]
        for batch in load_batches(dataset, plan, workers=workers, leave_out=leave_out):
            if not len(batch.indices):
                continue
            features = self.compute(batch.images, view, batch.indices)
            for index, feature in zip(batch.indices.tolist(), features, strict=True):
                self.records.put(keys[index], feature)
            done += len(features)
            if progress:
                progress(done, len(missing))
        self.records.flush()
        if done:
            # A labeling session runs for hours after its backbone has finished.
            release_memory()
        return done

    @torch.inference_mode()
    def compute(
        self, images: Tensor, view: AugmentedView | None = None, indices: Tensor | None = None
    ) -> NDArray[np.float32]:
        """Returns features ``(B, F) float32`` of working images ``(B, 3, S, S) uint8``."""
        images = images.to(self._device, non_blocking=True)
        if view is None or indices is None:
            pixels = preprocess(images, self.preprocessing)
        else:
            pixels = view.augment(images, indices, view.number)
        array: NDArray[np.float32] = self.backend.features(pixels).cpu().numpy()
        return array

    @functools.cached_property
    def backend(self) -> FeatureBackend:
        """Feature backend, chosen when the first features are missing."""
        backend = fastest_backend(
            self.module, shape=self._shape, photos=self.expected, graph=self._graph
        )
        if backend.note:
            self._note(backend.note)
        return backend

    def close(self) -> None:
        """Writes what is still in memory and closes the files."""
        self.records.close()

    def read(self, keys: Sequence[bytes]) -> Tensor:
        """Returns features ``(len(keys), F) float32``."""
        return torch.from_numpy(self.records.read(keys))

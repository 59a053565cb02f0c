"""Datasets of photos as working-size uint8 images with targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample, targets_of_samples
from finetune.errors import DecodeError
from finetune.photos.analyze import digest_of
from finetune.photos.crops import load_image
from finetune.photos.members import read_member


@dataclass(frozen=True)
class Batch:
    """Batch of photos.

    Attributes:
        images: ``(B, 3, S, S) uint8`` in channels_last memory.
        targets: ``(B,) int64``, or ``(B, labels) float32`` of 0 and 1 for several labels a photo.
        indices: ``(B,) int64`` positions in the dataset; augmentation is drawn from them.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory; torch's loader calls this by name."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory(), self.indices.pin_memory())


class PhotoDataset(torch.utils.data.Dataset[tuple[NDArray[np.uint8], Any, int]]):
    """Working-size images of photos from the cache, decoded where they are missing.

    Loaders fetch whole batches (``__getitems__``). It is pickled to loader workers without open
    files.

    Args:
        root: Folder that the samples' paths are relative to.
        samples: The photos.
        cache: Cache of the images, which defines size, fit and interpolation.
        labels: Number of labels where a photo may have several; None: each has one.

    Attributes:
        lost: Reasons by index of the photos that have vanished or changed since the scan.
    """

    def __init__(
        self,
        root: Path,
        samples: Sequence[Sample],
        cache: PixelCache,
        *,
        labels: int | None = None,
    ) -> None:
        self.root = root
        self.samples = tuple(samples)
        self.cache = cache
        self.targets = targets_of_samples(samples, labels)
        self.lost: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], Any, int]:
        """Returns ``(image (S, S, 3) uint8, target, index)``."""
        image = np.empty((1, self.cache.size, self.cache.size, 3), np.uint8)
        self._fill(image[0], self.samples[index])
        return image[0], self.targets[index], index

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Returns the photos at `indices` as one batch, without those that cannot be read now.

        Their reasons are added to `lost`.
        """
        size = self.cache.size
        images = np.empty((len(indices), size, size, 3), np.uint8)
        read: list[int] = []
        for index in indices:
            try:
                self._fill(images[len(read)], self.samples[index])
            except DecodeError as error:
                self.lost[index] = error.reason
            else:
                read.append(index)
        order = np.array(read, dtype=np.int64)
        return Batch(
            # (B, 3, S, S), channels_last for free
            torch.from_numpy(images[: len(read)]).permute(0, 3, 1, 2),
            torch.from_numpy(self.targets[order]),
            torch.from_numpy(order),
        )

    @property
    def cached(self) -> bool:
        """Whether all images are in the cache, so that no loader workers are needed."""
        records = self.cache.records
        return all(self.cache.key(s.digest, s.crop) in records for s in self.samples)

    def _fill(self, image: NDArray[np.uint8], sample: Sample) -> None:
        key = self.cache.key(sample.digest, sample.crop)
        if self.cache.records.read_into(key, image[None]):
            return
        path = self.root / sample.path
        image[:] = self._load(path, sample)
        self.cache.records.put(key, image)

    def _load(self, path: Path, sample: Sample) -> NDArray[np.uint8]:
        """Returns the working image of a photo whose content is the scanned one.

        Raises:
            DecodeError: The photo is gone, has other content, or cannot be decoded.
        """
        try:
            content = path.read_bytes() if path.is_file() else read_member(path)
        except (FileNotFoundError, NotADirectoryError):
            content = None
        except OSError as error:
            reason = (error.strerror or "cannot be read").lower()
            raise DecodeError(path, reason) from error
        if content is None:
            raise DecodeError(path, "is gone since the photos were scanned")
        if digest_of(content) != sample.digest:
            raise DecodeError(path, "has changed since the photos were scanned")
        try:
            return load_image(
                content,
                size=self.cache.size,
                fit=self.cache.fit,
                crop=sample.crop,
                interpolation=self.cache.interpolation,
            )
        except DecodeError as error:
            raise DecodeError(
                path, f"{error.reason}; it could be opened when the photos were scanned"
            ) from error


SHARE_OF_FREE = 0.25
"""Largest share of the free memory for the images; activations need the rest."""

CHUNK = 256
"""Number of images sent at once."""


class DeviceDataset(PhotoDataset):
    """Dataset whose images are on a device as one uint8 tensor ``(N, S, S, 3)``.

    Its batches are those of the original dataset, indexed on the device.

    Args:
        dataset: The original dataset.
        device: Device of the images.
    """

    def __init__(self, dataset: PhotoDataset, device: torch.device) -> None:
        # Not the base's __init__, which would compute the targets again.
        self.root, self.samples, self.cache = dataset.root, dataset.samples, dataset.cache
        self.targets, self.lost = dataset.targets, dataset.lost
        self.device = device
        self.images = _load_on_device(dataset, device)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Returns the photos at `indices` as one batch: images and targets on the device."""
        order = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        targets = torch.from_numpy(self.targets[order.numpy()])
        if self.device.type == "cuda":
            # From pinned memory, so that the host does not wait for the copy.
            order, targets = order.pin_memory(), targets.pin_memory()
        places = order.to(self.device, non_blocking=True)
        return Batch(
            self.images.index_select(0, places).permute(0, 3, 1, 2),  # channels_last for free
            targets.to(self.device, non_blocking=True),
            order,
        )

    @property
    def cached(self) -> bool:
        """True: no loader workers are needed."""
        return True


def load_to_device(dataset: PhotoDataset, device: torch.device) -> PhotoDataset:
    """Returns the dataset with its images in a GPU's memory where they fit well, else itself.

    Requires all images in the cache: decoding them would delay the first step.
    """
    if device.type != "cuda" or not len(dataset) or not dataset.cached:
        return dataset
    free, _ = torch.cuda.mem_get_info(device)
    if bytes_of(dataset) > SHARE_OF_FREE * free:
        return dataset
    return DeviceDataset(dataset, device)


def bytes_of(dataset: PhotoDataset) -> int:
    """Returns the size of a dataset's images in bytes."""
    return len(dataset) * dataset.cache.records.record_bytes


def _load_on_device(dataset: PhotoDataset, device: torch.device) -> Tensor:
    shape = (len(dataset), *dataset.cache.records.shape)
    result = torch.empty(shape, dtype=torch.uint8, device=device)
    for start in range(0, len(dataset), CHUNK):
        end = min(start + CHUNK, len(dataset))
        images = dataset.__getitems__(range(start, end)).images
        result[start:end] = images.permute(0, 2, 3, 1).to(device)
    return result

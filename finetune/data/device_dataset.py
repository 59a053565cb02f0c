"""All squares of a collection in the device's own memory, so that no step waits for the bus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from finetune.data.dataset import Batch, PhotoDataset

SHARE_OF_FREE = 0.25
"""Most of the free memory that the squares may take; activations want the rest."""

CHUNK = 256
"""Squares that are sent at once."""


class DeviceDataset(PhotoDataset):
    """A dataset whose squares lie on a device as one uint8 tensor ``(N, S, S, 3)``.

    Its batches are those of the dataset that it is made from, picked out where they lie.

    Args:
        dataset: Whose squares are all in its cache, or can be decoded.
        device: Where they are to be.
    """

    def __init__(self, dataset: PhotoDataset, device: torch.device) -> None:
        # Not the base's own: it would gather the targets anew.
        self.root, self.samples, self.cache = dataset.root, dataset.samples, dataset.cache
        self.targets = dataset.targets
        self.device = device
        self.squares = _squares(dataset, device)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Returns the photos at `indices` as one batch: images and targets on the device."""
        order = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        targets = torch.from_numpy(self.targets[order.numpy()])
        if self.device.type == "cuda":
            # From pinned memory, so that the host does not wait for the copy.
            order, targets = order.pin_memory(), targets.pin_memory()
        places = order.to(self.device, non_blocking=True)
        return Batch(
            self.squares.index_select(0, places).permute(0, 3, 1, 2),  # channels_last for free
            targets.to(self.device, non_blocking=True),
            order,
        )

    @property
    def cached(self) -> bool:
        """True: there is nothing for a loader's worker to do."""
        return True


def near_device(dataset: PhotoDataset, device: torch.device) -> PhotoDataset:
    """Returns the dataset with its squares in a GPU's memory where they fit well, else itself.

    Squares that are not in the cache stay out: reading them all would hold up the first step.
    """
    if device.type != "cuda" or not len(dataset) or not dataset.cached:
        return dataset
    free, _ = torch.cuda.mem_get_info(device)
    if bytes_of(dataset) > SHARE_OF_FREE * free:
        return dataset
    return DeviceDataset(dataset, device)


def bytes_of(dataset: PhotoDataset) -> int:
    """Returns how many bytes a dataset's squares take."""
    return len(dataset) * dataset.cache.records.record_bytes


def _squares(dataset: PhotoDataset, device: torch.device) -> Tensor:
    shape = (len(dataset), *dataset.cache.records.shape)
    whole = torch.empty(shape, dtype=torch.uint8, device=device)
    for start in range(0, len(dataset), CHUNK):
        end = min(start + CHUNK, len(dataset))
        images = dataset.__getitems__(range(start, end)).images
        whole[start:end] = images.permute(0, 2, 3, 1).to(device)
    return whole

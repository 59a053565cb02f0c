"""Loaders of batches, whose order depends on (seed, epoch) alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from finetune.data.balance import balanced_order
from finetune.data.dataset import Batch, DeviceDataset, PhotoDataset
from finetune.errors import DecodeError


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Returns the order of `count` photos in an epoch: a permutation drawn from (seed, epoch)."""
    return np.random.default_rng((seed, epoch, 0x0D0E)).permutation(count)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Returns the number of steps in an epoch of `count` photos."""
    return max(1, math.ceil(count / batch_size))


def epoch_batches(
    count: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    strata: list[np.ndarray[Any, np.dtype[np.int64]]] | None = None,
) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Returns the photos of each step of an epoch.

    Batch sizes differ by one photo at most, so that no step has a single photo, for which batch
    statistics are undefined.

    Args:
        count: Photos.
        batch_size: Most photos of a step.
        seed: Of the run.
        epoch: From 0.
        strata: Groups to sample equally (see `finetune.data.balance`); None: every photo once.
    """
    if strata is None:
        order = epoch_order(count, seed=seed, epoch=epoch)
    else:
        order = balanced_order(strata, count, seed=seed, epoch=epoch)
    return np.array_split(order, steps_per_epoch(count, batch_size))


def load_batches(
    dataset: PhotoDataset,
    batches: list[np.ndarray[Any, np.dtype[np.int64]]],
    *,
    workers: int = 0,
    pin: bool = False,
    leave_out: bool = False,
) -> Iterator[Batch]:
    """Yields the given batches of a dataset in order.

    Workers are started only if photos have to be decoded: reading images from the cache in this
    process is faster than receiving them from another.

    Args:
        dataset: The photos.
        batches: Indices of the photos of each batch.
        workers: Processes that decode photos missing from the cache.
        pin: Whether to copy the batches to page-locked memory.
        leave_out: Leave out photos that have vanished or changed, and add them to `dataset.lost`.

    Raises:
        DecodeError: A photo has vanished or changed, and `leave_out` is False.
    """
    if dataset.cached:
        workers = 0
    plan = [[int(index) for index in batch] for batch in batches]
    for indices, batch in zip(plan, _load(dataset, plan, workers, pin), strict=True):
        if len(batch.indices) < len(indices):
            for index in set(indices) - set(batch.indices.tolist()):
                # A worker process has a copy of the dataset.
                dataset.lost.setdefault(index, "has vanished or changed since the scan")
                if not leave_out:
                    path = dataset.root / dataset.samples[index].path
                    raise DecodeError(path, dataset.lost[index])
        yield batch


def _load(dataset: PhotoDataset, plan: list[list[int]], workers: int, pin: bool) -> Iterator[Batch]:
    # Tensors on the device cannot be pinned.
    if workers == 0 and (not pin or isinstance(dataset, DeviceDataset)):
        for indices in plan:
            yield dataset.__getitems__(indices)
        return
    yield from DataLoader(
        dataset,
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=pin,
        worker_init_fn=_start_worker,
        prefetch_factor=2 if workers else None,
    )


def evaluation_batches(count: int, batch_size: int) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Returns batches of all photos in dataset order."""
    return [
        np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)
    ]


def _identity(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    import cv2

    # Each worker uses one core; OpenCV's own threads would compete for the cores.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)

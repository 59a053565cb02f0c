"""Inference of a network: logits and features of photos."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.augmentation.center_crop import preprocess
from finetune.errors import DecodeError
from finetune.photos.preprocessing import Preprocessing

if TYPE_CHECKING:
    from finetune.data.dataset import PhotoDataset

BATCH_SIZE = 32

Progress = Callable[[int, int], None]


@torch.inference_mode()
def logits_of(
    module: nn.Module, preprocessing: Preprocessing, images: Tensor, *, tta: bool = False
) -> Tensor:
    """Returns logits ``(B, labels) float32`` of working images ``(B, 3, S, S) uint8``.

    Evaluation and prediction share it. The network must be in eval mode.

    Args:
        module: The network.
        preprocessing: Of its input.
        images: Working images, on any device.
        tta: Average the logits of each image and its mirror image (test-time augmentation).
    """
    device = next(module.parameters()).device
    images = images.to(device, non_blocking=True)
    pixels = preprocess(images, preprocessing)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    logits: Tensor = module(pixels).float()
    if tta:
        mirrored = pixels.flip(3).contiguous(memory_format=torch.channels_last)
        logits = (logits + module(mirrored).float()) / 2
    return logits


def logits_and_features_of(
    module: nn.Module, preprocessing: Preprocessing, images: Tensor, *, tta: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns the same logits, and the inputs of the linear head, ``(B, F) float32``.

    With `tta`, both are means over the two views.
    """
    seen: list[Tensor] = []
    thread = threading.get_ident()

    def look(_: nn.Module, taken: tuple[Tensor, ...]) -> None:
        # Other threads may run the same network.
        if threading.get_ident() == thread:
            seen.append(taken[0])

    handle = module.get_classifier().register_forward_pre_hook(look)  # type: ignore[operator]
    try:
        logits = logits_of(module, preprocessing, images, tta=tta)
    finally:
        handle.remove()
    return logits, torch.stack(seen).float().mean(dim=0)


def predict_dataset(
    module: nn.Module,
    preprocessing: Preprocessing,
    dataset: PhotoDataset,
    *,
    workers: int = 0,
    tta: bool = False,
    progress: Progress | None = None,
    places: NDArray[np.int64] | None = None,
    on_features: Callable[[NDArray[np.float32]], None] | None = None,
    leave_out: bool = False,
) -> NDArray[np.float32]:
    """Returns logits ``(N, labels) float32`` of a dataset, in its order.

    Args:
        module: The network, in eval mode.
        preprocessing: Of its input.
        dataset: The photos.
        workers: Processes that decode photos missing from the cache.
        tta: As in `logits_of`.
        progress: Called as ``progress(done, total)``.
        places: Only these photos of the dataset, at least one; None: all.
        on_features: Callback that receives the inputs of the linear head, ``(B, F)``, per batch.
        leave_out: Give photos that have vanished or changed NaN, and add them to `dataset.lost`.

    Raises:
        DecodeError: A photo has vanished or changed, and `leave_out` is False; or all have.
    """
    from finetune.data.loaders import evaluation_batches, load_batches

    chosen = np.arange(len(dataset)) if places is None else places
    rows = []
    done = 0
    steps = [chosen[step] for step in evaluation_batches(len(chosen), BATCH_SIZE)]
    for step, batch in zip(
        steps, load_batches(dataset, steps, workers=workers, leave_out=leave_out), strict=True
    ):
        done += len(step)
        if not len(batch.indices):
            rows.append(np.empty((len(step), 0), np.float32))
            continue
        if on_features is None:
            logits = logits_of(module, preprocessing, batch.images, tta=tta)
        else:
            logits, features = logits_and_features_of(module, preprocessing, batch.images, tta=tta)
            on_features(features.cpu().numpy())
        found = logits.cpu().numpy()
        if len(found) < len(step):
            complete = np.full((len(step), found.shape[1]), np.nan, np.float32)
            complete[np.isin(step, batch.indices.numpy())] = found
            found = complete
        rows.append(found)
        if progress:
            progress(done, len(chosen))
    width = max(row.shape[1] for row in rows)
    if width == 0:
        first = min(dataset.lost)
        raise DecodeError(dataset.root / dataset.samples[first].path, dataset.lost[first])
    return np.concatenate(
        [row if row.shape[1] else np.full((len(row), width), np.nan, np.float32) for row in rows]
    )

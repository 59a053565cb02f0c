"""Center crop and normalization, the preprocessing of evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.errors import AugmentError
from finetune.photos.decode.color import LUMA, LUMA_HALF, LUMA_SCALE, to_gray
from finetune.photos.preprocessing import Preprocessing


def center_crop(
    images: Tensor,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    whiten: bool = False,
) -> Tensor:
    """Returns the exact center crop, normalized: evaluation's counterpart of `BatchAugment`.

    No pixel is resampled, and the result does not depend on the batch. With an odd margin, the crop
    lies half a pixel up and to the left.

    Args:
        images: `(B, 3, H, W)` uint8, H and W at least `size`.
        size: Side of the crop in pixels.
        mean: Mean of each channel, pixels in 0..1; one for a gray network.
        std: Standard deviation of each channel.
        whiten: Standardize each photo, as `Recipe.whiten` does.

    Returns:
        `(B, C, size, size)` float32 in channels_last memory, C being the number of means.

    Raises:
        AugmentError: The photos are smaller than the crop.

    Example:
        >>> photos = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
        >>> center_crop(photos, 2, (0.5,) * 3, (0.5,) * 3)[0, 0].tolist()
        [[-1.0, -1.0], [-1.0, -1.0]]
    """
    sides = sides_of(images)
    if min(sides.values()) < size:
        raise AugmentError(
            f"A center crop of {size} pixels does not fit into photos of "
            f"{sides['width']} x {sides['height']}; cache them at {size} or larger."
        )
    top, left = ((sides[side] - size) // 2 for side in ("height", "width"))
    cropped = images[:, :, top : top + size, left : left + size]
    if images.device.type == "cpu":
        return _normalized_on_cpu(cropped, mean, std, whiten=whiten)
    result = normalize_batch(cropped, mean, std)
    if whiten:
        result = whiten_batch(result)
    return result.contiguous(memory_format=torch.channels_last)


def preprocess(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Returns network inputs ``(B, C, size, size)`` of working images ``(B, 3, S, S)`` uint8."""
    return center_crop(
        images,
        preprocessing.size,
        preprocessing.mean,
        preprocessing.std,
        whiten=preprocessing.whiten,
    )


def _normalized_on_cpu(
    images: Tensor, mean: Sequence[float], std: Sequence[float], *, whiten: bool
) -> Tensor:
    matrix = normalization(mean, std)
    result = torch.empty((len(images), *images.shape[2:], len(mean)), dtype=torch.float32)
    sources, target = images.permute(0, 2, 3, 1).numpy(), result.numpy()

    def one(row: int) -> None:
        normalize_photo(sources[row], matrix, target[row])
        if whiten:
            whiten_photo(target[row])

    for_each_photo(len(images), one)
    return result.permute(0, 3, 1, 2)


def normalization(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Returns the `(C, C + 1)` matrix of (pixel / 255 - mean) / std for `normalize_photo`."""
    channels = len(mean)
    matrix = np.zeros((channels, channels + 1), np.float32)
    np.fill_diagonal(matrix, 1 / (255 * np.asarray(std)))
    matrix[:, channels] = -np.asarray(mean) / np.asarray(std)
    return matrix


def normalize_photo(
    image: NDArray[np.uint8], matrix: NDArray[np.float32], target: NDArray[np.float32]
) -> None:
    """Writes `matrix @ (R, G, B, 1)` of `(H, W, 3)` uint8 into `(H, W, 3)` float32.

    With a matrix of one channel, `matrix @ (L, 1)` into `(H, W, 1)`, L being the luma.
    """
    if len(matrix) == 1:
        np.multiply(to_gray(image), matrix[0, 0], out=target)
        target += matrix[0, 1]
    else:
        cv2.transform(image.astype(np.float32), matrix, dst=target)


def whiten_photo(target: NDArray[np.float32]) -> None:
    """Standardizes one photo in place to mean 0 and deviation 1; a uniform photo to 0."""
    target -= target.mean(dtype=np.float64)
    deviation = np.sqrt(np.mean(np.square(target), dtype=np.float64))
    target /= max(float(deviation), 1 / target.size**0.5)


def for_each_photo(count: int, work: Callable[[int], None]) -> None:
    """Calls `work(row)` for each row, in as many threads as torch may use.

    One photo per thread is faster than OpenCV's threads within a photo. A loader worker has one
    torch thread and starts none.
    """
    threads = min(torch.get_num_threads(), count)
    with _one_cv2_thread():
        if threads <= 1:
            for row in range(count):
                work(row)
            return
        rows = [range(start, count, threads) for start in range(threads)]
        with ThreadPoolExecutor(threads - 1) as pool:
            others = [pool.submit(_work_on, part, work) for part in rows[1:]]
            _work_on(rows[0], work)
            for other in others:
                other.result()


def _work_on(rows: range, work: Callable[[int], None]) -> None:
    for row in rows:
        work(row)


@contextmanager
def _one_cv2_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def normalize_batch(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns `(pixels / 255 - mean) / std` as `(B, C, H, W)` float32, on the images' device.

    Args:
        images: `(B, 3, H, W)` uint8; with one mean, their luma is used.
        mean: Of each channel, pixels in 0..1.
        std: Of each channel.
    """
    # Two roundings, as on other devices; a fused multiply-add would differ.
    scale, shift = (
        torch.tensor(values, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
        for values in (
            [1 / (255 * s) for s in std],
            [-m / s for m, s in zip(mean, std, strict=True)],
        )
    )
    return (luma(images) if len(mean) == 1 else images) * scale + shift


def luma(images: Tensor) -> Tensor:
    """Returns the luma of `(B, 3, H, W)` levels as `(B, 1, H, W)` float32, as `to_gray` does."""
    red, green, blue = (images[:, channel, None].float() for channel in range(3))
    levels = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + LUMA_HALF
    return (levels / LUMA_SCALE).floor()


def whiten_batch(images: Tensor) -> Tensor:
    """Returns photos standardized to mean 0 and deviation 1; uniform photos become 0."""
    # In float64 the order of summation, which a GPU chooses by batch size, does not change the
    # float32 result. MPS has no float64.
    wide = images if images.device.type == "mps" else images.double()
    dims, count = (1, 2, 3), images[0].numel()
    centered = wide - wide.mean(dims, keepdim=True)
    deviation = centered.square().mean(dims, keepdim=True).sqrt()
    return (centered / deviation.clamp_min(count**-0.5)).float()


def sides_of(images: Tensor) -> dict[str, int]:
    """Returns `height` and `width` of a batch."""
    return {"height": images.shape[2], "width": images.shape[3]}

"""The exact center crop: what evaluation and prediction see in the place of a random warp.

Apart from `gpu`, whose `torch.compile` support takes a second or two to import: a prediction has no
need of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.augmentation import cpu_rendering, sampling
from finetune.augmentation.sampling import Frame, SampledParams
from finetune.errors import AugmentError
from finetune.photos.decode.color import LUMA, LUMA_HALF, LUMA_SCALE
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

    No pixel is resampled, and a photo gives the same bits in whatever batch it comes. Where the
    margin is odd, the crop lies half a pixel up and to the left.

    Args:
        images: `(B, 3, H, W)` uint8, H and W at least `size`.
        size: Side of the crop in pixels.
        mean: The network's mean of each channel, pixels in 0..1; one for a network that sees gray.
        std: The network's deviation of each channel.
        whiten: Bring each photo to mean 0 and deviation 1, as `Recipe.whiten` does.

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
    if images.device.type == "cpu":
        frame = Frame(size=size, **sides)
        params = sampling.center_params(frame, len(images))
        return normalize_on_cpu(images, params, size=size, mean=mean, std=std, whiten=whiten)
    top, left = ((sides[side] - size) // 2 for side in ("height", "width"))
    result = normalize_batch(images[:, :, top : top + size, left : left + size], mean, std)
    if whiten:
        result = whiten_batch(result)
    return result.contiguous(memory_format=torch.channels_last)


def preprocess(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Returns network inputs ``(B, C, size, size)`` of working squares ``(B, 3, S, S)`` uint8."""
    return center_crop(
        images,
        preprocessing.size,
        preprocessing.mean,
        preprocessing.std,
        whiten=preprocessing.whiten,
    )


def normalize_on_cpu(
    images: Tensor,
    params: SampledParams,
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    whiten: bool,
) -> Tensor:
    """Returns `(B, C, size, size)` float32: photos augmented and normalized one by one by OpenCV.

    Args:
        images: `(B, 3, H, W)` uint8 on the CPU.
        params: What is done to each.
        size: Side of the result in pixels.
        mean: Of each channel, pixels in 0..1.
        std: Of each channel.
        whiten: Bring each photo to mean 0 and deviation 1 at the end.
    """
    rendering = cpu_rendering.prepare(params, Frame(size=size, **sides_of(images)))
    matrix = cpu_rendering.normalization(mean, std)
    result = torch.empty((len(images), size, size, len(mean)), dtype=torch.float32)
    sources, target = images.permute(0, 2, 3, 1).numpy(), result.numpy()

    def one(row: int) -> None:
        cpu_rendering.normalize(
            cpu_rendering.render(sources[row], rendering, row), matrix, target[row]
        )
        top, left, bottom, right = params.erase[row]
        target[row, top:bottom, left:right] = 0
        if whiten:
            cpu_rendering.whiten(target[row])

    cpu_rendering.for_each_photo(len(images), one)
    return result.permute(0, 3, 1, 2)


def normalize_batch(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns `(pixels / 255 - mean) / std` as `(B, C, H, W)` float32, on the images' device.

    Args:
        images: `(B, 3, H, W)` uint8; only their luma counts where there is one mean.
        mean: Of each channel, pixels in 0..1.
        std: Of each channel.
    """
    # Two roundings, as any other device does them; a fused multiply-add would differ.
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
    whole = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + LUMA_HALF
    return (whole / LUMA_SCALE).floor()


def whiten_batch(images: Tensor) -> Tensor:
    """Brings each photo to mean 0 and deviation 1; a photo of one color to 0."""
    # In float64 the order of the sum, which a GPU chooses by the batch's size, stays below what
    # float32 shows. MPS has no float64.
    wide = images if images.device.type == "mps" else images.double()
    dims, count = (1, 2, 3), images[0].numel()
    centered = wide - wide.mean(dims, keepdim=True)
    deviation = centered.square().mean(dims, keepdim=True).sqrt()
    return (centered / deviation.clamp_min(count**-0.5)).float()


def sides_of(images: Tensor) -> dict[str, int]:
    """Returns height and width of a batch, by these names."""
    return {"height": images.shape[2], "width": images.shape[3]}

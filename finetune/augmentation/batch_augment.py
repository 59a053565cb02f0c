"""Augmentation of batches on any device: uint8 photos to normalized floats.

Parameters are sampled on the host in one vectorized pass and sent to the device as one small array,
without a synchronization. A GPU takes one `grid_sample` and a few fused passes per batch; the CPU
augments photo by photo with OpenCV (`remap`), by the same parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.augmentation import cpu_rendering, sampling, warp
from finetune.augmentation.center_crop import (
    for_each_photo,
    luma,
    normalization,
    normalize_batch,
    normalize_photo,
    sides_of,
    whiten_batch,
    whiten_photo,
)
from finetune.augmentation.recipes import Recipe
from finetune.augmentation.sampling import Frame, SampledParams
from finetune.augmentation.warp import blur_batch, blur_levels


class BatchAugment(nn.Module):
    """Augments batches by a recipe; stateless, a photo always gets the same parameters.

    They depend on (seed, epoch, index of the photo) alone: not on the batch, the number of workers
    or processes, or the device.

    Args:
        recipe: Probabilities and strengths.
        size: Side of the network's input in pixels.
        mean: Mean of each channel, pixels in 0..1; one for a gray network.
        std: Standard deviation of each channel.
        seed: Of the run.
        region: Side of the center crop in the working photos' pixels; None: `size`.

    Example:
        >>> from finetune.augmentation.recipes import named
        >>> augment = BatchAugment(
        ...     named("mobius"), size=32, mean=(0.5,) * 3, std=(0.5,) * 3, seed=0
        ... )
        >>> photos = torch.zeros(4, 3, 40, 40, dtype=torch.uint8)
        >>> augment(photos, torch.arange(4), epoch=0).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        region: int | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.size, self.seed = recipe, size, seed
        self.mean, self.std = tuple(mean), tuple(std)
        self.region = region or size

    def at_size(self, size: int) -> BatchAugment:
        """Returns the same augmentation of the same region with another output size.

        The size is part of the single interpolation.
        """
        return BatchAugment(
            self.recipe,
            size=size,
            mean=self.mean,
            std=self.std,
            seed=self.seed,
            region=self.region,
        )

    def forward(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Returns `(B, C, size, size)` float32, normalized, in channels_last memory.

        Args:
            images: `(B, 3, H, W)` uint8, working photos.
            indices: `(B,)` int64, positions of the photos in the dataset; on the CPU, as reading
                them from a GPU would synchronize.
            epoch: Counted from 0.
        """
        if images.device.type == "cpu":
            on_cpu: Tensor = self._on_cpu(images, indices, epoch)
            return on_cpu
        return self.as_batch(images, indices, epoch)

    def as_batch(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Returns the result of `forward` by `grid_sample`, as on GPUs, on any device."""
        plan, blur = self._plan(images, indices, epoch)
        result: Tensor = render(_blurred(images, blur), plan, self.size)
        if self.is_gray:
            result = normalize_batch(result.round(), self.mean, self.std)
        if self.recipe.whiten:
            result = whiten_batch(result)
        return result.contiguous(memory_format=torch.channels_last)

    @property
    def is_gray(self) -> bool:
        """Whether the network has one input channel, the luma of the augmented photo."""
        return len(self.mean) == 1

    def sample(self, indices: Tensor, epoch: int, *, height: int, width: int) -> SampledParams:
        """Returns the parameters of `forward` for photos of `height` x `width`."""
        frame = Frame(height=height, width=width, size=self.size, region=self.region)
        numbers = indices.cpu().numpy()
        return sampling.sample_params(
            self.recipe, frame, seed=self.seed, epoch=epoch, indices=numbers
        )

    def pixels(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Returns the augmented photos of `forward` as `(B, 3, size, size)` uint8, for display."""
        return self.replay(images, self.sample(indices, epoch, **sides_of(images)))

    def replay(self, images: Tensor, params: SampledParams) -> Tensor:
        """Returns `(B, 3, size, size)` uint8 photos augmented by given parameters."""
        shown = self._replay(images, params)
        return luma(shown).to(torch.uint8).expand(-1, 3, -1, -1) if self.is_gray else shown

    def _replay(self, images: Tensor, params: SampledParams) -> Tensor:
        frame = Frame(size=self.size, **sides_of(images))
        fill = np.rint(255 * np.broadcast_to(self.mean, 3)).astype(np.uint8)
        if images.device.type != "cpu":
            host, blur = _pack(params, frame, scale=np.ones(3), shift=np.zeros(3), fill=fill)
            plan = torch.from_numpy(host).to(images.device)
            return render(_blurred(images, blur), plan, self.size).round().to(torch.uint8)
        rendering = cpu_rendering.prepare(params, frame)
        sources = images.permute(0, 2, 3, 1).numpy()
        target = np.empty((len(images), self.size, self.size, 3), np.uint8)

        def one(row: int) -> None:
            target[row] = cpu_rendering.render(sources[row], rendering, row)
            top, left, bottom, right = params.erase[row]
            target[row, top:bottom, left:right] = fill

        for_each_photo(len(images), one)
        return torch.from_numpy(target).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Returns the settings for `repr`."""
        return f"{self.recipe}, size={self.size}, seed={self.seed}"

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _plan(
        self, images: Tensor, indices: Tensor, epoch: int
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Returns the parameters on the images' device, and the blur level of each photo."""
        sides = sides_of(images)
        # A luma has whole levels, so normalization follows it instead of being part of the color
        # matrix.
        mean, std = (np.zeros(3), np.full(3, 1 / 255)) if self.is_gray else (self.mean, self.std)
        host, blur = _pack(
            self.sample(indices, epoch, **sides),
            Frame(size=self.size, **sides),
            scale=1 / (255 * np.asarray(std)),
            shift=-np.asarray(mean) / np.asarray(std),
            fill=255 * np.broadcast_to(self.mean, 3) if self.is_gray else np.zeros(3),
        )
        plan = torch.from_numpy(host)
        if images.device.type == "cuda":
            plan = plan.pin_memory()
        return plan.to(images.device, non_blocking=True), blur

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _on_cpu(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        sides = sides_of(images)
        params = self.sample(indices, epoch, **sides)
        rendering = cpu_rendering.prepare(params, Frame(size=self.size, **sides))
        matrix = normalization(self.mean, self.std)
        result = torch.empty(
            (len(images), self.size, self.size, len(self.mean)), dtype=torch.float32
        )
        sources, target = images.permute(0, 2, 3, 1).numpy(), result.numpy()

        def one(row: int) -> None:
            normalize_photo(cpu_rendering.render(sources[row], rendering, row), matrix, target[row])
            top, left, bottom, right = params.erase[row]
            target[row, top:bottom, left:right] = 0
            if self.recipe.whiten:
                whiten_photo(target[row])

        for_each_photo(len(images), one)
        return result.permute(0, 3, 1, 2)


def render(images: Tensor, plan: Tensor, size: int) -> Tensor:
    """Returns warped, colored, erased photos; tensors in, tensors out, for `torch.compile`.

    Args:
        images: `(B, 3, H, W)`, any dtype, values 0..255.
        plan: `(B, 37)` float32 of `_pack`.
        size: Side of the output in pixels.

    Returns:
        `(B, 3, size, size)` float32.
    """
    maps, color, erase, low, high, fill = torch.split(plan, [12, 12, 4, 3, 3, 3], dim=1)
    grid = warp.sampling_grid(maps.view(-1, 3, 4), size)  # (B, H, W, 2)
    pixels = nn.functional.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    # Written out: a matrix product would run in TF32 where that is allowed.
    matrix = color.view(-1, 3, 4, 1, 1)
    result = matrix[:, :, 3] + sum(
        matrix[:, :, channel] * pixels[:, channel, None] for channel in range(3)
    )
    result = torch.minimum(torch.maximum(result, low[:, :, None, None]), high[:, :, None, None])
    axis = torch.arange(size, device=plan.device)
    top, left, bottom, right = (part[:, None] for part in erase.unbind(1))
    rows, columns = (axis >= top) & (axis < bottom), (axis >= left) & (axis < right)
    erased = (rows[:, :, None] & columns[:, None, :])[:, None]  # (B, 1, H, W)
    return torch.where(erased, fill[:, :, None, None], result)


def _pack(
    params: SampledParams,
    frame: Frame,
    *,
    scale: NDArray[np.float64],
    shift: NDArray[np.float64],
    fill: NDArray[np.generic],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Packs maps, colors with normalization, erased boxes, bounds and fill into one array."""
    count = len(params)
    polynomials = warp.rational(params.mobius, params.affine)
    color = params.color * [1, 1, 1, 255] * scale[:, None]
    color[:, :, 3] += shift
    bounds = np.concatenate([shift, 255 * scale + shift, fill])
    parts = [polynomials.reshape(count, 12), color.reshape(count, 12), params.erase]
    host = np.concatenate([*parts, np.tile(bounds, (count, 1))], axis=1).astype(np.float32)
    return host, blur_levels(polynomials, frame.height, frame.width, frame.size)


def _blurred(images: Tensor, levels: NDArray[np.int64]) -> Tensor:
    if not levels.any():
        return images
    result = images.float()
    for level in np.unique(levels[levels > 0]):
        rows = torch.from_numpy(np.flatnonzero(levels == level))
        if images.device.type == "cuda":
            # From pageable memory the copy would block the host.
            rows = rows.pin_memory()
        rows = rows.to(images.device, non_blocking=True)
        result = result.index_copy(0, rows, blur_batch(result[rows], int(level)))
    return result

"""A person's own pipeline file in the place of a recipe, and the choice between the two."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.augmentation import cpu_rendering
from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.recipes import RECIPES, named
from finetune.augmentation.rng import splitmix64, uniforms
from finetune.errors import AugmentError
from finetune.photos.preprocessing import Preprocessing


def augmentation(
    augment: str,
    preprocessing: Preprocessing,
    *,
    seed: int,
    overrides: Mapping[str, Any] | None = None,
) -> BatchAugment | PipelineAugment:
    """Returns what `--augment` names: a recipe on batches, or a person's pipeline file.

    Args:
        augment: A name in `RECIPES`, or a path that ends in .yaml, .yml or .json.
        preprocessing: Size, mean and deviation that the network takes.
        seed: Of the run.
        overrides: `{field of Recipe: value}`; a pipeline file has none.

    Raises:
        AugmentError: No such recipe, a wrong number, or a file that does not work.

    Example:
        >>> augmentation("light", InputSpec(size=64), seed=0).size
        64
    """
    if is_pipeline_file(augment):
        if overrides:
            names = ", ".join(sorted(overrides))
            raise AugmentError(f"--augment {augment} is a pipeline file; it does not take {names}.")
        return PipelineAugment(Path(augment), preprocessing, seed=seed)
    recipe = named(augment, overrides)
    return BatchAugment(
        recipe, size=preprocessing.size, mean=preprocessing.mean, std=preprocessing.std, seed=seed
    )


def is_pipeline_file(augment: str) -> bool:
    """Returns whether `--augment` names a pipeline file, and no recipe."""
    return augment not in RECIPES and Path(augment).suffix.lower() in (".yaml", ".yml", ".json")


class PipelineAugment(nn.Module):
    """Applies an albumentations pipeline photo by photo; called as `BatchAugment` is.

    Albumentations runs on the CPU, so a batch on a GPU comes down and goes back up. Each photo's
    chance is set from (seed, epoch, index), as in `BatchAugment`.

    Args:
        path: The pipeline file.
        preprocessing: Size, mean and deviation that the network takes.
        seed: Of the run.

    Raises:
        AugmentError: The file does not work.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing, *, seed: int) -> None:
        super().__init__()
        from finetune.augmentation.pipelines import read_pipeline

        self.path, self.preprocessing, self.seed = path, preprocessing, seed
        self.size = preprocessing.size
        self.pipeline = read_pipeline(path)

    def forward(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Returns `(B, C, size, size)` float32, normalized; see `BatchAugment.forward`.

        Raises:
            AugmentError: The pipeline gives something other than uint8 RGB of at least `size`.
        """
        pixels = self.pixels(images.cpu(), indices, epoch).permute(0, 2, 3, 1).numpy()
        result = torch.empty((*pixels.shape[:3], self.preprocessing.channels), dtype=torch.float32)
        matrix = cpu_rendering.normalization(self.preprocessing.mean, self.preprocessing.std)
        for source, target in zip(pixels, result.numpy(), strict=True):
            cpu_rendering.normalize(source, matrix, target)
            if self.preprocessing.whiten:
                cpu_rendering.whiten(target)
        return result.permute(0, 3, 1, 2).to(images.device)

    def pixels(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Returns `(B, 3, size, size)` uint8: what `forward` shows the network, to look at."""
        sources = images.permute(0, 2, 3, 1).cpu().numpy()
        numbers = indices.cpu().numpy()
        # 53 bits of the same hash that recipes draw from.
        seeds = (uniforms(self.seed, epoch, numbers, 1)[:, 0] * 2**53).astype(np.uint64)
        results = [
            self._one(np.ascontiguousarray(source), int(number))
            for source, number in zip(sources, splitmix64(seeds), strict=True)
        ]
        return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2)

    def _one(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        rng = np.random.Generator(np.random.Philox(key=seed))
        self.pipeline.set_random_state(rng, random.Random(seed))
        try:
            result = self.pipeline(image=image)["image"]
        except Exception as error:
            raise AugmentError(f"--augment {self.path}: {error}") from error
        shape, kind = getattr(result, "shape", None), getattr(result, "dtype", type(result))
        if not isinstance(result, np.ndarray) or kind != np.uint8:
            raise AugmentError(
                f"--augment {self.path} gives {kind} pixels; leave out Normalize, ToFloat and "
                "ToTensorV2: the network's own normalization follows."
            )
        if result.ndim != 3 or result.shape[2] != 3 or min(result.shape[:2]) < self.size:
            raise AugmentError(
                f"--augment {self.path} gives images of shape {shape}; the network takes "
                f"{self.size} x {self.size} x 3. End it with a crop or resize to that size."
            )
        top, left = ((side - self.size) // 2 for side in result.shape[:2])
        return result[top : top + self.size, left : left + self.size]

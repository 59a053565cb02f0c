"""Augmentation by name: a recipe, or a user's albumentations pipeline file.

albumentations takes a second to import, so the functions that need it import it themselves.
"""

from __future__ import annotations

import random
import reprlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.center_crop import normalization, normalize_photo, whiten_photo
from finetune.augmentation.recipes import RECIPES, Recipe, named
from finetune.augmentation.sampling import splitmix64, uniforms
from finetune.errors import AugmentError
from finetune.photos.preprocessing import Preprocessing

MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_VALUES = 5_000
MAX_VALUE = 100_000


def create_augmentation(
    augment: str,
    preprocessing: Preprocessing,
    *,
    seed: int,
    overrides: Mapping[str, Any] | None = None,
) -> BatchAugment | PipelineAugment:
    """Returns the augmentation that `--augment` names: a recipe or a pipeline file.

    Args:
        augment: A name in `RECIPES`, or a path that ends in .yaml, .yml or .json.
        preprocessing: Of the network.
        seed: Of the run.
        overrides: `{field of Recipe: value}`; a pipeline file has none.

    Raises:
        AugmentError: No such recipe, a wrong value, or an invalid file.

    Example:
        >>> create_augmentation("light", Preprocessing(size=64), seed=0).size
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
    """Returns whether `--augment` names a pipeline file rather than a recipe."""
    return augment not in RECIPES and Path(augment).suffix.lower() in (".yaml", ".yml", ".json")


class PipelineAugment(nn.Module):
    """Applies an albumentations pipeline photo by photo; called as `BatchAugment` is.

    Albumentations runs on the CPU, so a batch on a GPU is copied to the host and back. Each photo
    is seeded by (seed, epoch, index), as in `BatchAugment`.

    Args:
        path: The pipeline file.
        preprocessing: Of the network.
        seed: Of the run.

    Raises:
        AugmentError: The file is invalid.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing, *, seed: int) -> None:
        super().__init__()
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
        matrix = normalization(self.preprocessing.mean, self.preprocessing.std)
        for source, target in zip(pixels, result.numpy(), strict=True):
            normalize_photo(source, matrix, target)
            if self.preprocessing.whiten:
                whiten_photo(target)
        return result.permute(0, 3, 1, 2).to(images.device)

    def pixels(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Returns the augmented photos of `forward` as `(B, 3, size, size)` uint8, for display."""
        sources = images.permute(0, 2, 3, 1).cpu().numpy()
        numbers = indices.cpu().numpy()
        # 53 bits of the hash that recipes sample from.
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


def compose(recipe: Recipe, *, size: int) -> Any:
    """Returns a recipe as an `A.Compose`, which can be saved and edited.

    It takes `(H, W, 3)` uint8 and gives `(size, size, 3)` uint8. The steps and strengths are those
    of the recipe; each step resamples by itself, and mixing and whitening are not part of it.

    Args:
        recipe: The recipe.
        size: Side of the output in pixels.
    """
    from finetune.augmentation.random_mobius import A, RandomMobius

    ratio, erase = recipe.crop_ratio_max, recipe.erase_ratio_max
    steps: list[Any] = []
    if recipe.shift_pixels:
        reach = int(recipe.shift_pixels)
        steps.append(A.Affine(translate_px=(-reach, reach), border_mode=cv2.BORDER_REFLECT, p=1.0))
    if recipe.crop_probability:
        crop = A.RandomResizedCrop(
            size=(size, size),
            scale=(recipe.crop_area_min, recipe.crop_area_max),
            ratio=(1 / ratio, ratio),
            p=1.0,
        )
        center = A.CenterCrop(height=size, width=size, p=1.0)
        probability = recipe.crop_probability
        steps.append(
            crop
            if probability == 1
            else A.Sequential(
                [
                    A.OneOf(
                        [_weighted(crop, probability), _weighted(center, 1 - probability)], p=1.0
                    )
                ],
                p=1.0,
            )
        )
    else:
        steps.append(A.CenterCrop(height=size, width=size, p=1.0))
    if recipe.flip_probability:
        steps.append(A.HorizontalFlip(p=recipe.flip_probability))
    if recipe.vertical_flip_probability:
        steps.append(A.VerticalFlip(p=recipe.vertical_flip_probability))
    if recipe.rotation_degrees or recipe.zoom > 1:
        angle = recipe.rotation_degrees
        steps.append(
            A.Affine(
                rotate=(-angle, angle),
                scale=(1 / recipe.zoom, recipe.zoom),
                border_mode=cv2.BORDER_REFLECT,
                p=1.0,
            )
        )
    if recipe.mobius_probability:
        steps.append(
            RandomMobius(
                bound=recipe.mobius_bound,
                max_rotation_degrees=recipe.mobius_rotation_degrees,
                max_shift=recipe.mobius_shift,
                p=recipe.mobius_probability,
            )
        )
    if recipe.color_probability:
        strengths = (recipe.brightness, recipe.contrast, recipe.saturation)
        ranges = [(1 - strength, 1 + strength) for strength in strengths]
        steps.append(
            A.ColorJitter(*ranges, hue=(-recipe.hue, recipe.hue), p=recipe.color_probability)
        )
    if recipe.gray_probability:
        steps.append(A.ToGray(p=recipe.gray_probability))
    if recipe.erase_probability:
        steps.append(
            A.Erasing(
                scale=(recipe.erase_area_min, recipe.erase_area_max),
                ratio=(1 / erase, erase),
                fill=(124, 116, 104),  # ImageNet's mean, which normalization turns into about 0
                p=recipe.erase_probability,
            )
        )
    return A.Compose(steps)


def _weighted(step: Any, probability: float) -> Any:
    """Returns the step with its weight as p, as `OneOf` reads it."""
    step.p = probability
    return step


def write_pipeline(pipeline: Any, path: Path) -> Path:
    """Writes a pipeline in albumentations' format, YAML or JSON by the suffix."""
    from finetune.augmentation.random_mobius import A

    A.save(pipeline, path, data_format=_format(path))
    return path


def read_pipeline(path: Path) -> Any:
    """Returns the `A.Compose` of a file in albumentations' format.

    Steps are named by class, such as `RandomMobius`.

    Raises:
        AugmentError: The file is missing, or not YAML or JSON, or names a step or a setting that
            albumentations does not have.
    """
    from finetune.augmentation.random_mobius import A

    form = _format(path)
    try:
        content = _load(path)
    except OSError as error:
        raise AugmentError(f"--augment {path}: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f" (line {line + 1})" if line is not None else ""
        raise AugmentError(f"--augment {path} is not {form.upper()}{where}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("transform"), dict):
        raise AugmentError(
            f"--augment {path} has no 'transform'. Write one with "
            f"'finetune preview PHOTOS --augment standard --save-pipeline {path.name}' and edit it."
        )
    _check_size(content, path)
    pipeline = _built(_checked(content["transform"], path), path)
    return pipeline if isinstance(pipeline, A.BaseCompose) else A.Compose([pipeline])


def _load(path: Path) -> Any:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("it is too large")
    text = path.read_text(encoding="utf-8")
    depth = 0
    for number, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        # An alias of aliases of aliases stands for more steps than memory has room for.
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases (*name)")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or number > 4 * MAX_VALUES:
            raise ValueError("it is nested too deeply, or has too many values")
    return yaml.safe_load(text)


def _check_size(content: Any, path: Path) -> None:
    """Raises AugmentError for a file of too many values, or of numbers that make huge images."""
    left, values = [content], 0
    while left:
        value = left.pop()
        values += 1
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, int | float) and abs(value) > MAX_VALUE:
            shown = f"{value:g}" if abs(value) < 10**300 else "a huge number"
            raise AugmentError(f"--augment {path}: {shown} is beyond {MAX_VALUE:,}.")
        if values > MAX_VALUES:
            raise AugmentError(f"--augment {path} has more than {MAX_VALUES:,} values.")


def _checked(step: Any, path: Path) -> dict[str, Any]:
    """Returns the step with registered names; raises for unknown steps and settings."""
    from finetune.augmentation.random_mobius import A, RandomMobius

    registry = A.core.serialization.SERIALIZABLE_REGISTRY
    if not isinstance(step, dict) or not isinstance(step.get("__class_fullname__"), str):
        raise AugmentError(
            f"--augment {path}: a step has no '__class_fullname__': {reprlib.repr(step)}."
        )
    given = step["__class_fullname__"]
    full = RandomMobius.get_class_fullname() if given == "RandomMobius" else given
    if A.core.serialization.shorten_class_name(full) not in registry:
        raise AugmentError(f"--augment {path}: albumentations has no step '{given}'.")
    result = {**step, "__class_fullname__": full}
    if "transforms" in step and not isinstance(step["transforms"], list):
        raise AugmentError(f"--augment {path}: the 'transforms' of '{given}' are no list of steps.")
    if isinstance(step.get("transforms"), list):
        result["transforms"] = [_checked(inner, path) for inner in step["transforms"]]
        return result
    if "p" not in step:
        raise AugmentError(f"--augment {path}: the step '{given}' has no p, its probability.")
    # Built once by itself, so that an error names the step.
    _built(result, path)
    return result


def _built(step: dict[str, Any], path: Path) -> Any:
    from finetune.augmentation.random_mobius import A

    try:
        with warnings.catch_warnings():
            # albumentations warns of unknown settings and ignores them.
            warnings.simplefilter("error")
            return A.from_dict({"transform": step})
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, UserWarning) as error:
        # "Argument(s) 'q' are not valid for transform BasicTransform": it names a parent.
        text = str(error).replace(" for transform BasicTransform", "")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        name = step["__class_fullname__"].rpartition(".")[2]
        raise AugmentError(f"--augment {path}: {name}: {' '.join(lines[:4])}") from error


def _format(path: Path) -> str:
    formats = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
    if path.suffix.lower() not in formats:
        raise AugmentError(f"{path}: a pipeline file ends in .yaml, .yml or .json.")
    return formats[path.suffix.lower()]

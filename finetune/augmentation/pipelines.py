"""Recipes as albumentations pipelines, and pipelines in files to edit and hand back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cv2
import yaml  # type: ignore[import-untyped]

from finetune.augmentation.random_mobius import A, RandomMobius
from finetune.augmentation.recipes import Recipe
from finetune.errors import AugmentError


def compose(recipe: Recipe, *, size: int) -> Any:
    """Returns a recipe as an `A.Compose`, to save, edit and hand back as a file.

    It takes `(H, W, 3)` uint8 and gives `(size, size, 3)` uint8. The steps and strengths are those
    of the recipe; each step resamples by itself, and mixing and whitening are not part of it.

    Args:
        recipe: What to write down.
        size: Side of the output in pixels.
    """
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
        chance = recipe.crop_probability
        steps.append(
            crop
            if chance == 1
            else A.Sequential(
                [A.OneOf([_weighted(crop, chance), _weighted(center, 1 - chance)], p=1.0)], p=1.0
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


def _weighted(step: Any, chance: float) -> Any:
    """`OneOf` reads a step's p as its weight."""
    step.p = chance
    return step


def write_pipeline(pipeline: Any, path: Path) -> Path:
    """Writes a pipeline in albumentations' own format, YAML or JSON by the file's ending."""
    A.save(pipeline, path, data_format=_format(path))
    return path


def read_pipeline(path: Path) -> Any:
    """Returns the `A.Compose` of a file in albumentations' own format.

    A step may be called by its bare name, `RandomMobius` too.

    Raises:
        AugmentError: The file is missing, or not YAML or JSON, or names a step or a setting that
            albumentations does not have.
    """
    form = _format(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AugmentError(f"--augment {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f" (line {line + 1})" if line is not None else ""
        raise AugmentError(f"--augment {path} is not {form.upper()}{where}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("transform"), dict):
        raise AugmentError(
            f"--augment {path} has no 'transform'. Write one with "
            f"'finetune preview PHOTOS --augment standard --save-pipeline {path.name}' and edit it."
        )
    pipeline = _built(_checked(content["transform"], path), path)
    return pipeline if isinstance(pipeline, A.BaseCompose) else A.Compose([pipeline])


def _checked(step: Any, path: Path) -> dict[str, Any]:
    """The step with names as albumentations registers them; refuses what it would not take."""
    registry = A.core.serialization.SERIALIZABLE_REGISTRY
    if not isinstance(step, dict) or not isinstance(step.get("__class_fullname__"), str):
        raise AugmentError(f"--augment {path}: a step has no '__class_fullname__': {step!r:.80}.")
    given = step["__class_fullname__"]
    full = RandomMobius.get_class_fullname() if given == "RandomMobius" else given
    if A.core.serialization.shorten_class_name(full) not in registry:
        raise AugmentError(f"--augment {path}: albumentations has no step '{given}'.")
    result = {**step, "__class_fullname__": full}
    if isinstance(step.get("transforms"), list):
        result["transforms"] = [_checked(inner, path) for inner in step["transforms"]]
        return result
    if "p" not in step:
        raise AugmentError(f"--augment {path}: the step '{given}' has no p, its probability.")
    # Built once by itself, so that an error names the step.
    _built(result, path)
    return result


def _built(step: dict[str, Any], path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # albumentations warns of settings that it does not know, and goes on without them.
            warnings.simplefilter("error")
            return A.from_dict({"transform": step})
    except (TypeError, ValueError, KeyError, UserWarning) as error:
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

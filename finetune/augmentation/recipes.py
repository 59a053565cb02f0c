"""Augmentation recipes: probabilities and strengths.

`named` returns one of `RECIPES` with overrides. Imports no torch, cv2 or albumentations, as the
options of the command line are generated from `Recipe`.

Example:
    >>> named("mobius", {"mobius_bound": 1.5}).mobius_bound
    1.5
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_type_hints

from finetune.config import option
from finetune.config_io import choices
from finetune.errors import AugmentError

MobiusMode = Literal["replace", "on_top"]
RecipeName = Literal["none", "light", "standard", "mobius", "strong", "cifar", "tutorial", "digits"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Probabilities and strengths of an augmentation; the defaults only take the center crop."""

    crop_probability: float = option(
        0.0, "Probability of a random crop instead of the center crop.", minimum=0, maximum=1
    )
    crop_area_min: float = option(
        0.3, "Smallest area of the random crop, as a share of the photo's.", above=0, maximum=1
    )
    crop_area_max: float = option(
        1.0, "Largest area of the random crop, as a share of the photo's.", above=0, maximum=1
    )
    crop_ratio_max: float = option(
        4 / 3, "Largest width / height of the crop, and largest height / width.", minimum=1
    )
    shift_pixels: int = option(
        0,
        "Largest shift of the crop in pixels: 4 is padding by 4 and a random crop.",
        minimum=0,
        maximum=64,
    )
    flip_probability: float = option(0.0, "Probability of a horizontal flip.", minimum=0, maximum=1)
    vertical_flip_probability: float = option(
        0.0, "Probability of a vertical flip.", minimum=0, maximum=1
    )
    rotation_degrees: float = option(
        0.0, "Largest rotation in either direction.", minimum=0, maximum=180
    )
    zoom: float = option(1.0, "Largest factor of enlarging or shrinking.", minimum=1, maximum=4)
    mobius_probability: float = option(
        0.0, "Probability of a random Möbius map.", minimum=0, maximum=1
    )
    mobius_bound: float = option(
        2.0,
        "M: a Möbius map magnifies each point by more than 1/M and less than M.",
        minimum=1,
        maximum=8,
    )
    mobius_rotation_degrees: float = option(
        15.0, "Largest rotation of the center by a Möbius map.", minimum=0, maximum=180
    )
    mobius_shift: float = option(
        0.1, "Largest shift of the center by a Möbius map, in half sides.", minimum=0, maximum=1
    )
    mobius_mode: MobiusMode = option(
        "replace",
        "Whether a Möbius map replaces crop, flip, rotation and zoom, or is added to them.",
    )
    color_probability: float = option(
        0.0,
        "Probability of changing brightness, contrast, saturation and hue.",
        minimum=0,
        maximum=1,
    )
    brightness: float = option(
        0.0, "Largest change of brightness: a factor of 1 ± this.", minimum=0, maximum=1
    )
    contrast: float = option(
        0.0, "Largest change of contrast: a factor of 1 ± this.", minimum=0, maximum=1
    )
    saturation: float = option(
        0.0, "Largest change of saturation: a factor of 1 ± this.", minimum=0, maximum=1
    )
    hue: float = option(
        0.0, "Largest shift of the hue, as a share of the color circle.", minimum=0, maximum=0.5
    )
    gray_probability: float = option(
        0.0, "Probability of converting to gray.", minimum=0, maximum=1
    )
    erase_probability: float = option(
        0.0,
        "Probability of erasing a rectangle (filled with the mean color).",
        minimum=0,
        maximum=1,
    )
    erase_area_min: float = option(
        0.02,
        "Smallest area of the erased rectangle, as a share of the photo's.",
        above=0,
        maximum=1,
    )
    erase_area_max: float = option(
        0.2, "Largest area of the erased rectangle, as a share of the photo's.", above=0, maximum=1
    )
    erase_ratio_max: float = option(
        3.0, "Largest width / height of the erased rectangle, and the inverse.", minimum=1
    )
    mix_probability: float = option(
        0.0, "Probability of mixing the photos of a step in pairs.", minimum=0, maximum=1
    )
    cutmix_share: float = option(
        0.5, "Share of the mixed steps that use cutmix; the others use mixup.", minimum=0, maximum=1
    )
    mixup_alpha: float = option(0.2, "Mixup weight: Beta(alpha, alpha).", above=0)
    cutmix_alpha: float = option(1.0, "Cutmix area: Beta(alpha, alpha).", above=0)
    whiten: bool = option(
        False, "Standardize each photo to mean 0 and standard deviation 1, in prediction too."
    )


_STANDARD: dict[str, Any] = {
    "crop_probability": 1.0,
    "crop_area_min": 0.3,
    "flip_probability": 0.5,
    "color_probability": 0.8,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
}

RECIPES: dict[str, Recipe] = {
    "none": Recipe(),
    "light": Recipe(crop_probability=1.0, crop_area_min=0.7, flip_probability=0.5),
    "standard": Recipe(**_STANDARD),
    "mobius": Recipe(**_STANDARD, mobius_probability=0.2),
    "strong": Recipe(
        **{
            **_STANDARD,
            "crop_area_min": 0.25,
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.4,
        },
        hue=0.03,
        gray_probability=0.05,
        rotation_degrees=15.0,
        mobius_probability=0.3,
        mobius_mode="on_top",
        mobius_bound=1.5,
        erase_probability=0.25,
        mix_probability=0.5,
    ),
    "cifar": Recipe(shift_pixels=4, flip_probability=0.5),
    "tutorial": Recipe(
        shift_pixels=4,
        flip_probability=0.5,
        color_probability=1.0,
        brightness=0.25,
        contrast=0.8,
        whiten=True,
    ),
    "digits": Recipe(shift_pixels=2, rotation_degrees=10.0, zoom=1.1),
}
"""Named recipes; the table in docs/augmentation.md is generated from them."""


def named(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Returns a named recipe with overrides, validated.

    Args:
        name: One of `RECIPES`.
        overrides: `{field: value}`, as a TOML table has it; None means not set.

    Raises:
        AugmentError: An unknown recipe or field, or a value out of its bounds; names all of them.
    """
    if name not in RECIPES:
        raise AugmentError(
            f"--augment {name}: no such recipe{_nearest(name, RECIPES)} "
            f"There are {', '.join(RECIPES)}, or a pipeline file ending in .yaml or .json."
        )
    known = {item.name for item in fields(Recipe)}
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    found = [
        f"unknown setting '{key}' in [recipe]{_nearest(key, known).rstrip('.')}"
        for key in given
        if key not in known
    ]
    chosen = {key: value for key, value in given.items() if key in known}
    recipe = dataclasses.replace(RECIPES[name], **chosen)
    found.extend(problems(recipe))
    if found:
        text = "; ".join(found)
        raise AugmentError(text if text.endswith("?") else text + ".")
    return recipe


def problems(recipe: Recipe) -> list[str]:
    """Returns one sentence for each invalid field of a recipe."""
    hints = get_type_hints(Recipe)
    found = []
    for item in fields(Recipe):
        value, bounds = getattr(recipe, item.name), item.metadata
        where = f"[recipe] {item.name}"
        allowed = choices(hints[item.name])
        if allowed is not None:
            if value not in allowed:
                found.append(f"{where} {value} is not one of {', '.join(allowed)}")
        elif hints[item.name] is bool:
            if not isinstance(value, bool):
                found.append(f"{where} {value!r} is not true or false")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            found.append(f"{where} {value!r} is not a number")
        elif not math.isfinite(value):
            found.append(f"{where} {value} is not a finite number")
        elif hints[item.name] is int and value != int(value):
            found.append(f"{where} {value} is not a whole number")
        elif bounds["above"] is not None and not value > bounds["above"]:
            found.append(f"{where} {value} must be greater than {bounds['above']:g}")
        elif bounds["minimum"] is not None and value < bounds["minimum"]:
            found.append(f"{where} {value} must be at least {bounds['minimum']:g}")
        elif bounds["maximum"] is not None and value > bounds["maximum"]:
            found.append(f"{where} {value} must be at most {bounds['maximum']:g}")
    for low, high in (("crop_area_min", "crop_area_max"), ("erase_area_min", "erase_area_max")):
        if not found and getattr(recipe, low) > getattr(recipe, high):
            found.append(
                f"[recipe] {low} {getattr(recipe, low)} is greater than "
                f"{high} {getattr(recipe, high)}"
            )
    return found


def table() -> str:
    """Returns all recipes as a Markdown table with one row per field, for docs/augmentation.md."""
    lines = [
        "| field | meaning | " + " | ".join(RECIPES) + " |",
        "|---|---|" + "---:|" * len(RECIPES),
    ]
    for item in fields(Recipe):
        values = [_shown(getattr(recipe, item.name)) for recipe in RECIPES.values()]
        lines.append(f"| `{item.name}` | {item.metadata['help']} | {' | '.join(values)} |")
    return "\n".join(lines)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Returns a recipe as JSON values; `Recipe(**to_dict(recipe))` is its inverse."""
    return dataclasses.asdict(recipe)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else "."

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from finetune.augmentation.recipes import RECIPES, Recipe, named, problems, table, to_dict
from finetune.errors import AugmentError


def test_there_are_eight_recipes_and_all_of_them_work() -> None:
    for_photos, for_small_images = list(RECIPES)[:5], list(RECIPES)[5:]
    assert for_photos == ["none", "light", "standard", "mobius", "strong"]
    assert for_small_images == ["cifar", "tutorial", "digits"]
    assert [problems(recipe) for recipe in RECIPES.values()] == [[]] * 8


def test_digits_are_never_mirrored() -> None:
    recipe = RECIPES["digits"]
    assert (recipe.flip_probability, recipe.vertical_flip_probability) == (0, 0)


def test_mobius_is_standard_with_a_mobius_map_instead_of_crop_and_flip_in_a_fifth() -> None:
    recipe = RECIPES["mobius"]
    assert (recipe.mobius_probability, recipe.mobius_mode) == (0.2, "replace")
    assert dataclasses.replace(recipe, mobius_probability=0.0) == RECIPES["standard"]


def test_every_number_has_a_help_sentence_and_goes_through_json() -> None:
    for item in dataclasses.fields(Recipe):
        assert item.metadata["help"].endswith("."), item.name
    for recipe in RECIPES.values():
        assert Recipe(**json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_a_toml_table_overrides_any_number() -> None:
    content = tomllib.loads('[recipe]\nmobius_bound = 3\nmobius_mode = "on_top"\nwhiten = true')
    recipe = named("mobius", content["recipe"])
    assert (recipe.mobius_bound, recipe.mobius_mode, recipe.whiten) == (3, "on_top", True)


def test_none_counts_as_not_given() -> None:
    assert named("light", {"hue": None}) == RECIPES["light"]


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        (
            "standart",
            {},
            "--augment standart: no such recipe; did you mean 'standard'? There are none, light, "
            "standard, mobius, strong, cifar, tutorial, digits, or a pipeline file ending in .yaml "
            "or .json.",
        ),
        (
            "none",
            {"mobius_bond": 2},
            "unknown setting 'mobius_bond' in [recipe]; did you mean 'mobius_bound'?",
        ),
        ("none", {"mobius_bound": 0.5}, "[recipe] mobius_bound 0.5 must be at least 1."),
        ("cifar", {"shift_pixels": 2.5}, "[recipe] shift_pixels 2.5 is not a whole number."),
        ("none", {"hue": 2.0}, "[recipe] hue 2.0 must be at most 0.5."),
        ("none", {"mixup_alpha": 0}, "[recipe] mixup_alpha 0 must be greater than 0."),
        ("none", {"hue": float("nan")}, "[recipe] hue nan is not a finite number."),
        ("none", {"hue": "much"}, "[recipe] hue 'much' is not a number."),
        ("none", {"hue": True}, "[recipe] hue True is not a number."),
        ("none", {"whiten": 1}, "[recipe] whiten 1 is not true or false."),
        (
            "none",
            {"mobius_mode": "under"},
            "[recipe] mobius_mode under is not one of replace, on_top.",
        ),
        (
            "none",
            {"crop_area_min": 0.9, "crop_area_max": 0.5},
            "[recipe] crop_area_min 0.9 is greater than crop_area_max 0.5.",
        ),
        (
            "none",
            {"hue": 2.0, "zoom": 0.5},
            "[recipe] zoom 0.5 must be at least 1; [recipe] hue 2.0 must be at most 0.5.",
        ),
    ],
)
def test_what_cannot_work_is_named(name: str, numbers: dict[str, object], message: str) -> None:
    with pytest.raises(AugmentError) as error:
        named(name, numbers)
    assert str(error.value) == message


def test_the_docs_have_the_table_of_all_numbers() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs" / "augmentation.md"
    assert table() in docs.read_text(encoding="utf-8")


def test_recipes_load_no_torch_and_no_cv2() -> None:
    code = (
        "import sys, finetune.augmentation.recipes;"
        "print([n for n in ('torch', 'cv2', 'albumentations', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

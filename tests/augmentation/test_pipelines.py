from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from finetune.augmentation.pipelines import compose, read_pipeline, write_pipeline
from finetune.augmentation.random_mobius import A, RandomMobius
from finetune.augmentation.recipes import RECIPES
from finetune.errors import AugmentError


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("ending", [".yaml", ".json"])
def test_every_recipe_can_be_written_down_and_read_back(
    tmp_path: Path, name: str, ending: str
) -> None:
    pipeline = compose(RECIPES[name], size=64)
    path = write_pipeline(pipeline, tmp_path / f"{name}{ending}")
    loaded = read_pipeline(path)
    assert A.to_dict(loaded) == A.to_dict(pipeline)
    image = np.zeros((80, 80, 3), np.uint8)
    result = loaded(image=image)["image"]
    assert result.shape == (64, 64, 3)
    assert result.dtype == np.uint8


def test_without_the_random_crop_the_center_crop_is_used() -> None:
    recipe = dataclasses.replace(RECIPES["none"], crop_probability=0.25)
    pipeline = compose(recipe, size=64)
    pipeline.set_random_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    plain = [(pipeline(image=image)["image"] == image[8:72, 8:72]).all() for _ in range(400)]
    assert abs(np.mean(plain) - 0.75) < 0.09


HEAD = "transform:\n  __class_fullname__: Compose\n  p: 1.0\n  transforms:\n"


def test_a_step_may_be_called_by_its_bare_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "  - {__class_fullname__: RandomMobius, bound: 1.5, p: 0.5}\n")
    assert isinstance(read_pipeline(path).transforms[0], RandomMobius)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--augment {path}: No such file or directory."),
        ("a: [", "--augment {path} is not YAML (line 1)."),
        (
            "steps: []",
            "--augment {path} has no 'transform'. Write one with 'finetune preview PHOTOS "
            "--augment standard --save-pipeline mine.yaml' and edit it.",
        ),
        (
            HEAD + "  - {__class_fullname__: Wiggle, p: 1}\n",
            "--augment {path}: albumentations has no step 'Wiggle'.",
        ),
        (
            HEAD + "  - {p: 1}\n",
            "--augment {path}: a step has no '__class_fullname__': {{'p': 1}}.",
        ),
        (
            HEAD + "  - {__class_fullname__: HorizontalFlip, q: 1, p: 1}\n",
            "--augment {path}: HorizontalFlip: Argument(s) 'q' are not valid",
        ),
        (
            HEAD + "  - {__class_fullname__: HorizontalFlip}\n",
            "--augment {path}: the step 'HorizontalFlip' has no p, its probability.",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AugmentError) as error:
        read_pipeline(path)
    assert str(error.value) == message.format(path=path)


def test_a_value_out_of_bounds_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "  - {__class_fullname__: RandomMobius, bound: 0.5, p: 1}\n")
    with pytest.raises(
        AugmentError, match=r"mine\.yaml: RandomMobius: 1 validation error .* bound"
    ):
        read_pipeline(path)


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AugmentError) as error:
        read_pipeline(tmp_path / "mine.toml")
    assert (
        str(error.value) == f"{tmp_path}/mine.toml: a pipeline file ends in .yaml, .yml or .json."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1, 1]\ntransform: {__class_fullname__: Compose, transforms: [*a, *a]}", "is not"),
        ("transform: " + "[" * 20_000, "is not YAML"),
        ("transform: {x: [" + "1, " * 6000 + "1]}", "has more than 5,000 values"),
        (
            "transform: {__class_fullname__: Resize, height: 1000000, width: 9, p: 1}",
            "1e+06 is beyond 100,000",
        ),
        ("transform: {x: " + "9" * 4000 + "}", "a huge number is beyond 100,000"),
        (
            "transform: {__class_fullname__: Compose, p: 1, transforms: {a: 1}}",
            "the 'transforms' of 'Compose' are no list of steps",
        ),
        ("# " + "x" * (1 << 20), "is not YAML"),
    ],
)
def test_pipelines_that_stand_for_too_much_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "large.yaml"
    path.write_text(text)
    with pytest.raises(AugmentError) as caught:
        read_pipeline(path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400

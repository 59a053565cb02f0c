from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.center_crop import center_crop
from finetune.augmentation.pipelines import (
    PipelineAugment,
    compose,
    create_augmentation,
    write_pipeline,
)
from finetune.augmentation.random_mobius import A
from finetune.augmentation.recipes import RECIPES
from finetune.errors import AugmentError
from finetune.photos.preprocessing import Preprocessing

SPEC = Preprocessing(size=64)


@pytest.fixture
def strong(tmp_path: Path) -> Path:
    return write_pipeline(compose(RECIPES["strong"], size=64), tmp_path / "mine.yaml")


def test_a_name_is_a_recipe_and_an_ending_is_a_file(strong: Path) -> None:
    recipe = create_augmentation("mobius", SPEC, seed=3, overrides={"mobius_bound": 1.5})
    assert isinstance(recipe, BatchAugment)
    assert (recipe.recipe.mobius_bound, recipe.seed, recipe.size) == (1.5, 3, 64)
    assert isinstance(create_augmentation(str(strong), SPEC, seed=3), PipelineAugment)


def test_a_file_takes_no_numbers_of_a_recipe(strong: Path) -> None:
    with pytest.raises(AugmentError) as error:
        create_augmentation(str(strong), SPEC, seed=0, overrides={"hue": 0.1, "zoom": 2})
    assert str(error.value) == f"--augment {strong} is a pipeline file; it does not take hue, zoom."


def test_a_photo_gets_the_same_pixels_in_any_batch(photos: Tensor, strong: Path) -> None:
    augment, indices = PipelineAugment(strong, SPEC, seed=1), torch.arange(20, 28)
    whole = augment(photos, indices, 2)
    assert whole.shape == (8, 3, 64, 64)
    assert whole.is_contiguous(memory_format=torch.channels_last)
    again = PipelineAugment(strong, SPEC, seed=1)
    assert torch.equal(again(photos.flip(0), indices.flip(0), 2).flip(0), whole)
    assert torch.equal(again(photos[5:6], indices[5:6], 2)[0], whole[5])
    assert not torch.equal(again(photos, indices, 3), whole)
    assert not torch.equal(PipelineAugment(strong, SPEC, seed=2)(photos, indices, 2), whole)


def test_an_empty_pipeline_is_the_center_crop(photos: Tensor, tmp_path: Path) -> None:
    path = write_pipeline(A.Compose([]), tmp_path / "nothing.json")
    result = PipelineAugment(path, SPEC, seed=0)(photos, torch.arange(8), 0)
    assert torch.equal(result, center_crop(photos, 64, SPEC.mean, SPEC.std))
    whitening = PipelineAugment(path, Preprocessing(size=64, whiten=True), seed=0)
    expected = center_crop(photos, 64, SPEC.mean, SPEC.std, whiten=True)
    assert torch.equal(whitening(photos, torch.arange(8), 0), expected)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            A.CenterCrop(height=32, width=40, p=1.0),
            "gives images of shape (32, 40, 3); the network takes 64 x 64 x 3. End it with a crop "
            "or resize to that size.",
        ),
        (
            A.Normalize(p=1.0),
            "gives float32 pixels; leave out Normalize, ToFloat and ToTensorV2: the network's own "
            "normalization follows.",
        ),
    ],
)
def test_wrong_output_of_a_pipeline_is_an_error(
    photos: Tensor, tmp_path: Path, step: object, message: str
) -> None:
    path = write_pipeline(A.Compose([step]), tmp_path / "mine.yaml")
    with pytest.raises(AugmentError) as error:
        PipelineAugment(path, SPEC, seed=0)(photos, torch.arange(8), 0)
    assert str(error.value) == f"--augment {path} {message}"


def test_a_step_that_fails_on_a_photo_is_named_with_its_file(
    photos: Tensor, tmp_path: Path
) -> None:
    path = write_pipeline(A.Compose([A.RandomCrop(99, 99, p=1.0)]), tmp_path / "mine.yaml")
    with pytest.raises(AugmentError, match=r"^--augment .*mine\.yaml: .*99"):
        PipelineAugment(path, SPEC, seed=0)(photos, torch.arange(8), 0)


def test_the_global_random_state_is_left_alone(photos: Tensor, strong: Path) -> None:
    np.random.seed(7)  # noqa: NPY002 - the state that must not be touched
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    PipelineAugment(strong, SPEC, seed=0)(photos, torch.arange(8), 0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]  # noqa: NPY002

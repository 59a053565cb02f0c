from __future__ import annotations

from typing import Any

import pytest
import torch

from finetune.augmentation.recipes import named
from finetune.config import TrainConfig
from finetune.config_io import resolve
from finetune.errors import ConfigError, ModelError
from finetune.training import defaults
from finetune.training.defaults import DatasetSize, on_features, recipe_of, with_defaults, with_mode

MANY, FEW = DatasetSize(312, 4), DatasetSize(312, 40)


def settled(
    dataset_size: DatasetSize = MANY, *, weights: str | None = "w.safetensors", **flags: Any
) -> tuple[TrainConfig, list[str]]:
    base = {"model": "test_resnet", "weights": weights, "device": "cpu"}
    config, notes = with_defaults(resolve({}, {**base, **flags}))
    config, more = with_mode(config, dataset_size)
    return config, notes + more


def test_on_the_cpu_the_head_trains_on_cached_features() -> None:
    config, notes = settled()
    assert notes == [
        "CPU, 312 photos: head on cached features. Add --mode full for the full network."
    ]
    assert (config.training.mode, config.training.epochs) == ("head", 25)
    assert on_features(config, linear_head=True)
    assert not on_features(config, linear_head=False)


def test_with_augmentation_the_features_are_not_cached_and_it_is_not_said() -> None:
    config, notes = settled(augment="light")
    assert notes == ["CPU, 312 photos: head. Add --mode full for the full network."]
    assert not on_features(config, linear_head=True)
    config, notes = settled(views=3)
    assert notes == [
        "CPU, 312 photos: head on cached features. Add --mode full for the full network."
    ]
    assert config.augmentation.augment == "light"


def test_on_a_gpu_the_photos_of_a_label_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "choose_device", lambda asked: torch.device("cuda"))
    config, notes = settled(MANY)
    assert config.training.mode == "full"
    assert notes == ["CUDA, 312 photos of 4 labels, 30 each or more: the full network trains."]
    config, notes = settled(FEW)
    assert config.training.mode == "head"
    assert notes == [
        "CUDA, 312 photos of 40 labels, fewer than 30 each: head on cached features. Add --mode "
        "full for the full network."
    ]


def test_without_pretrained_weights_the_full_network_trains() -> None:
    config, notes = settled(weights="none")
    assert config.training.mode == "full"
    assert notes == ["No pretrained weights, 312 photos: the full network trains."]


def test_settings_of_the_backbone_ask_for_it_to_train() -> None:
    config, notes = settled(layer_decay=0.75, freeze_norm=True)
    assert config.training.mode == "full"
    assert config.training.backbone_lr_scale == 0.03
    assert notes == ["--layer-decay and --freeze-norm, 312 photos: the full network trains."]
    assert settled(mode="gradual")[0].training.backbone_lr_scale == 0.03
    with pytest.raises(ConfigError) as error:
        settled(mode="head", drop_path=0.1, progressive_size=32, layer_decay=0.5)
    assert str(error.value) == (
        "--mode head leaves the backbone as it is, so that --layer-decay, --drop-path and "
        "--progressive-size can do nothing; use --mode full, or leave it out."
    )


def test_a_mode_that_was_asked_for_is_not_explained() -> None:
    config, notes = settled(mode="gradual")
    assert notes == []
    assert (config.training.epochs, config.training.lr) == (12, 0.001)
    assert config.augmentation.augment == "standard"


@pytest.mark.parametrize("mode", ["head", "gradual"])
def test_modes_that_need_a_backbone_refuse_one_from_scratch(mode: str) -> None:
    with pytest.raises(ConfigError, match=f"--mode {mode} with --weights none"):
        settled(mode=mode, weights="none")


def test_the_rate_goes_with_the_optimizer_and_is_said() -> None:
    config, notes = settled(mode="full", optimizer="sgd", schedule="one_cycle")
    assert config.training.lr == 0.01
    assert config.training.warmup == 0.3
    assert notes == ["Learning rate 0.01, as is usual for sgd."]
    assert settled(mode="full", optimizer="sgd", lr=0.5)[1] == []
    with pytest.raises(ConfigError, match="--optimizer adamm: timm has no such optimizer"):
        settled(optimizer="adamm")


@pytest.mark.parametrize(
    ("flags", "smoothing"),
    [
        ({"mode": "head"}, 0.0),
        ({"mode": "head", "views": 3}, 0.0),
        ({"mode": "head", "augment": "light"}, 0.1),
        ({"mode": "full"}, 0.0),
        ({"mode": "gradual"}, 0.0),
        ({"mode": "full", "head_epochs": 2}, 0.1),
        ({"weights": "none"}, 0.1),
        ({"mode": "full", "label_smoothing": 0.2}, 0.2),
    ],
    ids=str,
)
def test_targets_are_smoothed_where_a_head_begins_from_nothing(
    flags: dict[str, Any], smoothing: float
) -> None:
    assert settled(**flags)[0].training.label_smoothing == smoothing


def test_mixup_and_cutmix_are_numbers_of_the_recipe() -> None:
    config, _ = settled(mode="full", mixup=0.3, cutmix=0.1)
    recipe = recipe_of(config)
    assert recipe is not None
    assert recipe.mix_probability == pytest.approx(0.4)
    assert recipe.cutmix_share == pytest.approx(0.25)
    assert recipe.crop_area_min == named("standard").crop_area_min
    # Settled twice, as a run's config.json is when it becomes the next run's settings.
    assert with_defaults(config)[0].recipe == config.recipe
    strong, _ = settled(mode="full", augment="strong", mixup=0.0)
    found = recipe_of(strong)
    assert found is not None
    assert found.mix_probability == 0
    with pytest.raises(ConfigError) as error:
        settled(mixup=0.7, cutmix=0.5)
    assert str(error.value) == (
        "--mixup 0.7 and --cutmix 0.5: a step is mixed in one way, so that their chances must not "
        "be more than 1 together."
    )


def test_drop_path_is_an_argument_of_the_network_where_it_has_one() -> None:
    config, _ = settled(mode="full", drop_path=0.2)
    assert config.model_args == {"drop_path_rate": 0.2}
    with pytest.raises(ModelError) as error:
        settled(mode="full", model="vgg11", drop_path=0.2)
    assert str(error.value) == (
        "--drop-path 0.2: vgg11 has no blocks that can be skipped (stochastic depth). Leave "
        "--drop-path out, or use a ResNet, ConvNeXt or ViT."
    )


def test_growing_photos_need_a_recipe() -> None:
    with pytest.raises(ConfigError) as error:
        settled(mode="full", progressive_size=32, augment="mine.yaml")
    assert str(error.value) == (
        "--progressive-size needs a recipe: the pipeline file mine.yaml gives photos of one size."
    )

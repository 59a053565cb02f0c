from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from finetune.augmentation.recipes import named
from finetune.config_io import resolve
from finetune.errors import ConfigError, ModelError
from finetune.photos.preprocessing import Preprocessing
from finetune.training import resolve as resolving
from finetune.training.resolve import (
    DatasetSize,
    ResolvedConfig,
    resolve_network,
    resolve_training,
    uses_cached_features,
)

SPEC = Preprocessing(size=32)
MANY, FEW = DatasetSize(312, 4), DatasetSize(312, 40)


def resolved(
    dataset_size: DatasetSize = MANY, *, weights: str | None = "w.safetensors", **flags: Any
) -> tuple[ResolvedConfig, list[str]]:
    base = {"model": "test_resnet", "weights": weights, "device": "cpu"}
    network, decisions = resolve_network(resolve({}, {**base, **flags}))
    module = timm.create_model("test_resnet", num_classes=dataset_size.labels)
    config, more = resolve_training(network, dataset_size, module, SPEC)
    return config, [decision.reason for decision in decisions + more]


def test_on_the_cpu_the_head_trains_on_cached_features() -> None:
    config, notes = resolved()
    assert notes == [
        "CPU, 312 photos: head on cached features. Add --mode full for the full network."
    ]
    assert (config.training.mode, config.training.epochs) == ("head", 1)
    assert uses_cached_features(config, linear_head=True)
    assert not uses_cached_features(config, linear_head=False)


def test_settings_of_steps_are_named_where_a_head_makes_none() -> None:
    config, notes = resolved(epochs=9, optimizer="sgd", soup=2)
    assert config.training.epochs == 1
    assert (
        "A head is fitted without steps: --epochs, --optimizer and --soup have no effect." in notes
    )
    _, notes = resolved(lr=0.1)
    assert "A head is fitted without steps: --lr has no effect." in notes
    _, notes = resolved(mode="full", lr=0.1, epochs=2)
    assert not any("no effect" in note for note in notes)


def test_with_augmentation_the_features_are_not_cached_and_it_is_not_said() -> None:
    config, notes = resolved(augment="light")
    assert notes == ["CPU, 312 photos: head. Add --mode full for the full network."]
    assert not uses_cached_features(config, linear_head=True)
    config, notes = resolved(views=3)
    assert notes == [
        "CPU, 312 photos: head on cached features. Add --mode full for the full network."
    ]
    assert config.augmentation.augment == "light"


def test_on_a_gpu_the_photos_of_a_label_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "choose_device", lambda asked: torch.device("cuda"))
    monkeypatch.setattr(resolving, "try_batch_sizes", lambda *args, **options: 32)
    config, notes = resolved(MANY)
    assert config.training.mode == "full"
    assert notes == ["CUDA, 312 photos of 4 labels, 30 each or more: the full network trains."]
    config, notes = resolved(FEW)
    assert config.training.mode == "head"
    assert notes == [
        "CUDA, 312 photos of 40 labels, fewer than 30 each: head on cached features. Add --mode "
        "full for the full network."
    ]


def test_without_pretrained_weights_the_full_network_trains() -> None:
    config, notes = resolved(weights="none")
    assert config.training.mode == "full"
    assert notes == ["No pretrained weights, 312 photos: the full network trains."]


def test_settings_of_the_backbone_ask_for_it_to_train() -> None:
    config, notes = resolved(layer_decay=0.75, freeze_norm=True)
    assert config.training.mode == "full"
    assert config.training.backbone_lr_scale == 0.1
    assert notes == ["--layer-decay and --freeze-norm, 312 photos: the full network trains."]
    assert resolved(mode="gradual")[0].training.backbone_lr_scale == 0.1
    with pytest.raises(ConfigError) as error:
        resolved(mode="head", drop_path=0.1, progressive_size=32, layer_decay=0.5)
    assert str(error.value) == (
        "--mode head does not train the backbone; use --mode full, or leave out --layer-decay, "
        "--drop-path and --progressive-size."
    )


def test_a_mode_that_was_asked_for_is_not_explained() -> None:
    config, notes = resolved(mode="gradual")
    assert notes == []
    assert (config.training.epochs, config.training.lr) == (12, 0.001)
    assert config.augmentation.augment == "standard"


@pytest.mark.parametrize("mode", ["head", "gradual"])
def test_modes_that_need_a_backbone_refuse_one_from_scratch(mode: str) -> None:
    with pytest.raises(ConfigError, match=f"--mode {mode} with --weights none"):
        resolved(mode=mode, weights="none")


def test_the_rate_goes_with_the_optimizer_and_is_said() -> None:
    config, notes = resolved(mode="full", optimizer="sgd", schedule="one_cycle")
    assert config.training.lr == 0.01
    assert config.training.warmup == 0.3
    assert notes == ["Learning rate 0.01, the default for sgd."]
    assert resolved(mode="full", optimizer="sgd", lr=0.5)[1] == []
    with pytest.raises(ConfigError, match="--optimizer adamm: timm has no such optimizer"):
        resolved(optimizer="adamm")


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
    assert resolved(**flags)[0].training.label_smoothing == smoothing


def test_mixup_and_cutmix_are_numbers_of_the_recipe() -> None:
    config, _ = resolved(mode="full", mixup=0.3, cutmix=0.1)
    recipe = config.recipe_or_none
    assert recipe is not None
    assert recipe.mix_probability == pytest.approx(0.4)
    assert recipe.cutmix_share == pytest.approx(0.25)
    assert recipe.crop_area_min == named("standard").crop_area_min
    # Settled twice, as a run's config.json is when it becomes the next run's settings.
    assert resolve_network(config)[0].recipe == config.recipe
    strong, _ = resolved(mode="full", augment="strong", mixup=0.0)
    found = strong.recipe_or_none
    assert found is not None
    assert found.mix_probability == 0
    with pytest.raises(ConfigError) as error:
        resolved(mixup=0.7, cutmix=0.5)
    assert str(error.value) == (
        "--mixup 0.7 and --cutmix 0.5: each step uses one of them, so their probabilities must "
        "add up to at most 1."
    )


def test_drop_path_is_an_argument_of_the_network_where_it_has_one() -> None:
    config, _ = resolved(mode="full", drop_path=0.2)
    assert config.model_args == {"drop_path_rate": 0.2}
    with pytest.raises(ModelError) as error:
        resolved(mode="full", model="vgg11", drop_path=0.2)
    assert str(error.value) == (
        "--drop-path 0.2: vgg11 has no blocks that can be skipped (stochastic depth). Leave "
        "--drop-path out, or use a ResNet, ConvNeXt or ViT."
    )


def test_growing_photos_need_a_recipe() -> None:
    with pytest.raises(ConfigError) as error:
        resolved(mode="full", progressive_size=32, augment="mine.yaml")
    assert str(error.value) == (
        "--progressive-size needs a recipe: the pipeline file mine.yaml gives photos of one size."
    )


def batched(**flags: Any) -> tuple[ResolvedConfig, list[str]]:
    return resolved(DatasetSize(photos=4000, labels=3), mode="full", **flags)


def test_on_the_cpu_it_is_the_reference() -> None:
    config, notes = batched()
    assert (config.training.batch_size, config.training.lr) == (32, 0.001)
    assert notes == []


@pytest.mark.parametrize(
    ("flags", "lr", "note"),
    [
        (
            {"batch_size": 8},
            0.0005,
            "Learning rate 0.0005 for 8 photos a step: 0.001 is for 32, and is scaled by the "
            "square root.",
        ),
        (
            {"batch_size": 32, "accumulate": 4},
            0.002,
            "Learning rate 0.002 for 128 photos a step: 0.001 is for 32, and is scaled by the "
            "square root.",
        ),
    ],
)
def test_a_batch_that_a_person_gives_moves_the_learning_rate(
    flags: dict[str, object], lr: float, note: str
) -> None:
    config, notes = batched(**flags)
    assert config.training.lr == pytest.approx(lr)
    assert notes == [note]


def test_sgds_learning_rate_goes_in_proportion() -> None:
    usual, _ = batched(optimizer="sgd")
    config, notes = batched(optimizer="sgd", batch_size=64)
    assert config.training.lr == pytest.approx(2 * (usual.training.lr))
    assert notes[-1].endswith("is for 32, and is scaled in proportion.")


def test_a_learning_rate_that_a_person_gives_stays() -> None:
    config, notes = batched(batch_size=8, lr=0.01)
    assert (config.training.lr, notes) == (0.01, [])


def test_on_a_gpu_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "choose_device", lambda asked: torch.device("cuda"))
    tried: list[int] = []

    def attempt(*args: object, frozen: bool, most: int) -> int:
        tried.append(most)
        return min(most, 64)

    monkeypatch.setattr(resolving, "try_batch_sizes", attempt)
    config, notes = batched()
    assert tried == [128], "4,000 photos are worth 20 steps of 128, and no more"
    assert config.training.batch_size == 64
    assert notes[0] == "Batch size 64: the most that memory holds."
    assert notes[1].startswith("Learning rate 0.00141 for 64 photos a step")
    monkeypatch.setattr(resolving, "try_batch_sizes", lambda *args, frozen, most: most)
    _, notes = batched()
    assert notes[0] == "Batch size 128: enough for 4,000 photos, and memory holds them."

from __future__ import annotations

import pytest

from finetune.models.registry import DEFAULT_MODEL, default_recipe


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("mini_alexnet", "cifar"),
        ("cifar_resnet20", "cifar"),
        ("resnet18_small", "cifar"),
        ("cifar10_tutorial_cnn", "tutorial"),
        ("vgg19_mnist", "digits"),
        ("mnist_experts_cnn", "digits"),
        ("alexnet", None),
        ("resnet50", None),
        ("resnet50.a1_in1k", None),
    ],
)
def test_historic_nets_come_with_their_recipes(name: str, recipe: str | None) -> None:
    assert default_recipe(name) == recipe


def test_the_default_model_is_packaged() -> None:
    assert DEFAULT_MODEL == "tf_efficientnet_lite2"

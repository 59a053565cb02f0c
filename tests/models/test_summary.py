from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from finetune.errors import ModelError
from finetune.models.summary import LayerRow, NetworkSummary, is_activation, summarize

VGG19_AT_28 = [
    # Layer by layer: weights without biases, and the side of the map that comes out.
    (576, 28),
    (36_864, 28),
    (73_728, 14),
    (147_456, 14),
    (294_912, 7),
    (589_824, 7),
    (589_824, 7),
    (589_824, 7),
    (1_179_648, 4),
    (2_359_296, 4),
    (2_359_296, 4),
    (2_359_296, 4),
    (2_359_296, 2),
    (2_359_296, 2),
    (2_359_296, 2),
    (2_359_296, 2),
]


def convolutions(summary: NetworkSummary) -> list[LayerRow]:
    return [row for row in summary.rows if row.kind == "Conv2d"]


def test_vgg19_at_28x28_is_the_published_table() -> None:
    summary = summarize("vgg19_mnist", size=28, channels=1)
    assert [(row.weights, row.output[-1]) for row in convolutions(summary)] == VGG19_AT_28
    linear = [row.weights for row in summary.rows if row.kind == "Linear"]
    assert linear == [512 * 4096, 4096 * 4096, 4096 * 1000, 1000 * 10]
    assert summary.weights_before_head == 42_988_096
    assert summary.weights == 42_988_096 + 10_000


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1),
        ("resnet50", torchvision.models.ResNet50_Weights.IMAGENET1K_V1),
        ("alexnet", torchvision.models.AlexNet_Weights.IMAGENET1K_V1),
    ],
)
def test_totals_are_those_that_torchvision_states(name: str, theirs: Any) -> None:
    """torchvision counts a multiply-add as one operation and states billions, rounded."""
    summary = summarize(name, size=224)
    assert summary.parameters == theirs.meta["num_params"]
    assert summary.multiply_adds / 1e9 == pytest.approx(theirs.meta["_ops"], abs=6e-4)


@pytest.mark.parametrize("name", ["resnet18_small", "mobilenetv2_100", "cifar_resnet20"])
def test_layers_add_up_to_the_totals(name: str) -> None:
    summary = summarize(name)
    assert sum(row.parameters for row in summary.rows) == summary.parameters
    assert sum(row.weights for row in summary.rows) == summary.weights
    assert sum(row.multiply_adds or 0 for row in summary.rows) == summary.multiply_adds
    with torch.device("meta"):
        network = timm.create_model(name)
    assert summary.parameters == sum(p.numel() for p in network.parameters())


def test_attention_products_are_in_the_total_and_in_no_layer() -> None:
    summary = summarize("vit_tiny_patch16_224")
    layers = sum(row.multiply_adds or 0 for row in summary.rows)
    # Twelve blocks, each with queries times keys and weights times values: 197 x 197 x 192.
    assert summary.multiply_adds - layers == 12 * 2 * 197 * 197 * 192
    assert sum(row.parameters for row in summary.rows) == summary.parameters


def test_a_row_has_kernel_stride_channels_and_size() -> None:
    rows = {row.name: row for row in summarize("alexnet").rows}
    assert rows["features.0"] == LayerRow(
        name="features.0",
        kind="Conv2d",
        kernel="11x11/4",
        in_channels=3,
        out_channels=64,
        output=(64, 55, 55),
        parameters=11 * 11 * 3 * 64 + 64,
        weights=11 * 11 * 3 * 64,
        multiply_adds=11 * 11 * 3 * 64 * 55 * 55,
    )
    assert rows["classifier.6"] == LayerRow(
        name="classifier.6",
        kind="Linear",
        kernel=None,
        in_channels=4096,
        out_channels=1000,
        output=(1000,),
        parameters=4_097_000,
        weights=4_096_000,
        multiply_adds=4_096_000,
    )
    pool = rows["features.2"]
    assert (pool.kernel, pool.output, pool.parameters, pool.multiply_adds) == (
        "3x3/2",
        (64, 27, 27),
        0,
        None,
    )


def test_grouped_kernels_count_the_channels_of_their_group() -> None:
    rows = {row.name: row for row in summarize("mobilenetv2_100", size=224).rows}
    depthwise = rows["blocks.0.0.conv_dw"]
    assert depthwise.weights == 9 * 32
    assert depthwise.multiply_adds == 9 * 32 * 112 * 112


def test_size_channels_and_labels_change_what_they_should() -> None:
    summary = summarize("resnet18", size=64, channels=1, labels=5)
    assert summary.input == (1, 64, 64)
    assert summary.labels == 5
    first = summary.rows[0]
    assert (first.in_channels, first.output) == (1, (64, 32, 32))
    assert summary.rows[-1].weights == 512 * 5


def test_parameters_that_no_layer_of_their_own_applies_are_listed() -> None:
    """BEiT's attention applies its query, key and value matrix itself."""
    summary = summarize("beit_base_patch16_224")
    qkv = next(row for row in summary.rows if row.name == "blocks.0.attn.qkv")
    assert (qkv.weights, qkv.output, qkv.multiply_adds) == (768 * 3 * 768, (), None)
    assert sum(row.parameters for row in summary.rows) == summary.parameters


def test_an_unknown_model_is_refused_with_near_names() -> None:
    with pytest.raises(ModelError) as error:
        summarize("vgg19_minst")
    assert "vgg19_minst" in str(error.value)
    assert "vgg19_mnist" in str(error.value)


def test_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError) as error:
        summarize("mini_alexnet", size=4)
    assert str(error.value) == (
        "mini_alexnet needs images of at least 8x8 pixels; --size 4 is too small."
    )


def test_a_size_that_makes_a_network_fail_is_refused_with_its_reason() -> None:
    with pytest.raises(ModelError) as error:
        summarize("levit_128", size=100)
    assert str(error.value).startswith(
        "levit_128 cannot take images of 100x100 pixels and 3 channels: "
    )
    assert str(error.value).endswith(". Choose another --size or --channels.")


def test_activation_layers_of_torch_and_timm_are_known() -> None:
    from timm.layers import HardSwish

    assert all(is_activation(layer) for layer in (nn.ReLU(), nn.GELU(), nn.SiLU(), HardSwish()))
    assert not any(is_activation(layer) for layer in (nn.Linear(1, 1), nn.MultiheadAttention(4, 1)))

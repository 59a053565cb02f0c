from __future__ import annotations

import json
from collections.abc import Callable

from typer.testing import Result


def test_the_table_has_a_line_a_layer_and_the_totals(run: Callable[..., Result]) -> None:
    result = run("summary", "vgg19_mnist", "--size", "28", "--channels", "1")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["vgg19_mnist,", "input", "1x28x28,", "10", "labels"]
    assert ["features.0", "Conv2d", "3x3", "1", "64", "64x28x28", "576", "64", "451,584"] in lines
    assert ["features.1", "(conv1_1)", "ReLU", "64", "64", "64x28x28"] in lines
    assert ["features.4", "MaxPool2d", "2x2/2", "64", "64", "64x14x14"] in lines
    linear = ["neck.1", "Linear", "512", "4,096", "4096", "2,097,152", "4,096", "2,097,152"]
    assert linear in lines
    assert ["neck.3", "Dropout", "4,096", "4,096", "4096"] in lines
    assert lines[-2][:3] == ["total", "42,998,096", "14,706"]
    assert result.stdout.splitlines()[-1] == (
        "43,012,802 parameters: 42,998,096 weights and 14,706 biases and norms; 42,988,096 weights "
        "before the last layer."
    )


def test_attention_is_named_where_it_is_counted(run: Callable[..., Result]) -> None:
    result = run("summary", "vit_tiny_patch16_224", "--labels", "4")
    assert result.stdout.splitlines()[-1] == (
        f"{12 * 2 * 197 * 197 * 192:,} of the multiply-adds are products of feature maps, "
        "as in attention."
    )


def test_json_is_one_document(run: Callable[..., Result]) -> None:
    result = run("summary", "mnist_experts_cnn", "--channels", "1", "--json")
    value = json.loads(result.stdout)
    assert value["model"] == "mnist_experts_cnn"
    assert value["input"] == [1, 28, 28]
    assert value["parameters"] == 3_274_634
    assert value["rows"][0]["kernel"] == "5x5"


def test_an_unknown_model_is_one_line_and_exit_code_1(run: Callable[..., Result]) -> None:
    result = run("summary", "resnet19", code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: --model resnet19: there is no such model; did you mean")
    assert len(result.stderr.splitlines()) == 1


def test_a_size_of_zero_is_wrong_usage(run: Callable[..., Result]) -> None:
    run("summary", "resnet18", "--size", 0, code=2)

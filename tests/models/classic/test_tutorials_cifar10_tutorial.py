from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import nn

import finetune.models.classic  # noqa: F401 - registers the nets


def response_norm(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """TensorFlow's formula, channel by channel: ``(B, C, H, W) float64``."""
    out = np.empty_like(maps)
    for i in range(maps.shape[1]):
        low, high = max(0, i - 4), min(maps.shape[1], i + 5)
        squares = (maps[:, low:high] ** 2).sum(axis=1)
        out[:, i] = maps[:, i] / (1.0 + 0.001 / 9 * squares) ** 0.75
    return out


def same_pool(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """TensorFlow's 3x3 max pooling of stride 2 with "same" padding, window by window."""
    height, width = maps.shape[2:]
    rows, columns = -(-height // 2), -(-width // 2)
    above = max((rows - 1) * 2 + 3 - height, 0) // 2
    left = max((columns - 1) * 2 + 3 - width, 0) // 2
    out = np.empty((*maps.shape[:2], rows, columns))
    for y in range(rows):
        for x in range(columns):
            top, start = max(0, 2 * y - above), max(0, 2 * x - left)
            window = maps[:, :, top : 2 * y - above + 3, start : 2 * x - left + 3]
            out[:, :, y, x] = window.max(axis=(2, 3))
    return out


def convolve(maps: NDArray[np.float64], layer: nn.Conv2d) -> NDArray[np.float64]:
    kernel = layer.weight.detach().numpy().astype(np.float64)
    padded = np.pad(maps, ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    out = np.einsum("bchwij,ocij->bohw", windows, kernel, optimize=True)
    assert layer.bias is not None
    biased: NDArray[np.float64] = out + layer.bias.detach().numpy()[None, :, None, None]
    return biased


def multiply(values: NDArray[np.float64], layer: nn.Linear) -> NDArray[np.float64]:
    weight = layer.weight.detach().numpy().astype(np.float64)
    product: NDArray[np.float64] = values @ weight.T + layer.bias.detach().numpy()
    return product


def relu(values: NDArray[np.float64]) -> NDArray[np.float64]:
    positive: NDArray[np.float64] = np.maximum(values, 0)
    return positive


@pytest.mark.parametrize("size", [24, 15])
def test_the_whole_net_equals_numpy_in_float64(size: int) -> None:
    torch.manual_seed(3)
    net = timm.create_model("cifar10_tutorial_cnn", img_size=size).eval()
    images = torch.randn(2, 3, size, size) * 3
    maps = relu(convolve(images.numpy().astype(np.float64), net.features[0]))
    maps = response_norm(same_pool(maps))
    maps = same_pool(response_norm(relu(convolve(maps, net.features[4]))))
    hidden = relu(multiply(maps.reshape(2, -1), net.neck[2]))
    hidden = relu(multiply(hidden, net.neck[5]))
    expected = multiply(hidden, net.head)
    with torch.inference_mode():
        actual = net(images).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_large_activations_are_normalized_by_their_neighbors() -> None:
    layer = timm.create_model("cifar10_tutorial_cnn").features[3]
    maps = np.random.default_rng(0).normal(0, 100, (1, 64, 3, 3))
    actual = layer(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(actual, response_norm(maps), rtol=1e-9)
    assert np.abs(actual).max() < 0.5 * np.abs(maps).max()


def test_it_has_the_tutorials_number_of_parameters() -> None:
    expected = (5 * 5 * 3 * 64 + 64) + (5 * 5 * 64 * 64 + 64)
    expected += (6 * 6 * 64 * 384 + 384) + (384 * 192 + 192) + (192 * 10 + 10)
    net = timm.create_model("cifar10_tutorial_cnn")
    assert sum(p.numel() for p in net.parameters()) == expected == 1_068_298


def test_it_starts_from_the_tutorials_distributions() -> None:
    torch.manual_seed(0)
    net = timm.create_model("cifar10_tutorial_cnn")
    # A normal distribution cut at two deviations keeps 0.8796 of its deviation.
    for layer, deviation, bias in (
        (net.features[0], 0.05, 0.0),
        (net.features[4], 0.05, 0.1),
        (net.neck[2], 0.04, 0.1),
        (net.neck[5], 0.04, 0.1),
        (net.head, 1 / 192, 0.0),
    ):
        assert layer.weight.std().item() == pytest.approx(0.8796 * deviation, rel=0.05)
        assert layer.weight.abs().max().item() <= 2 * deviation
        assert layer.bias.eq(bias).all()


def test_photos_are_cropped_from_32_to_24() -> None:
    config = timm.get_pretrained_cfg("cifar10_tutorial_cnn")
    assert config.input_size == (3, 24, 24)
    assert round(24 / config.crop_pct) == 32

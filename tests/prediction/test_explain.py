from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from finetune.augmentation.center_crop import center_crop
from finetune.errors import ConfigError, ModelError
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction.explain import explain_photo, grad_cam, heat_map, overlay, write_png
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import open_run

SPEC = Preprocessing(size=64, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)


class Trained(Protocol):
    run: Path
    photos: Path


def images(count: int = 2, side: int = 64) -> torch.Tensor:
    rng = np.random.default_rng(3)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, side, side), np.uint8))


def test_before_a_mean_and_a_linear_head_it_is_the_heads_weights_on_the_map() -> None:
    # For such a network dy/dA is the weight over h*w everywhere (Selvaraju et al., section 3.1).
    torch.manual_seed(1)
    module = timm.create_model("test_resnet", num_classes=3).eval()
    torch.nn.init.normal_(module.get_classifier().weight)
    pixels = center_crop(images(), 64, SPEC.mean, SPEC.std)
    with torch.inference_mode():
        maps = module.forward_features(pixels).numpy().astype(np.float64)
    weights = module.get_classifier().weight.detach().numpy().astype(np.float64)
    expected = np.maximum(np.einsum("k,bkhw->bhw", weights[1], maps), 0)
    assert expected.max((1, 2)).min() > 0
    expected /= expected.max((1, 2), keepdims=True)
    found = grad_cam(module, SPEC, images(), 1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size"),
    [("test_vit", 160), ("test_efficientnet", 64), ("test_convnext", 64), ("test_byobnet", 64)],
)
def test_every_kind_of_network_has_a_map_for_each_photo(name: str, size: int) -> None:
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=3).eval()
    preprocessing = Preprocessing(size=size, crop_pct=1.0)
    heat = grad_cam(module, preprocessing, images(2, size), 0)
    assert heat.shape[0] == 2
    assert heat.shape[1] == heat.shape[2] > 1
    assert 0 <= float(heat.min()) <= float(heat.max()) <= 1
    # A photo's map does not depend on its neighbors in the batch.
    alone = grad_cam(module, preprocessing, images(2, size)[:1], 0)
    torch.testing.assert_close(alone[0], heat[0], atol=1e-4, rtol=0)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_transformers_tokens_follow_the_formula() -> None:
    torch.manual_seed(0)
    module = timm.create_model("test_vit", num_classes=3).eval()
    preprocessing = Preprocessing(size=160, crop_pct=1.0)
    kept = []
    handle = module.blocks[-1].norm1.register_forward_hook(lambda _, __, out: kept.append(out))
    pixels = center_crop(images(1, 160), 160, preprocessing.mean, preprocessing.std)
    logits = module(pixels)
    handle.remove()
    (slope,) = torch.autograd.grad(logits[0, 2], kept[0])
    tokens, slopes = (part.detach().numpy()[0, 1:].astype(np.float64) for part in (kept[0], slope))
    side = int(len(tokens) ** 0.5)
    expected = np.maximum(tokens @ slopes.mean(0), 0).reshape(side, side)
    expected /= expected.max() or 1
    np.testing.assert_allclose(
        grad_cam(module, preprocessing, images(1, 160), 2)[0], expected, atol=1e-4
    )


def test_a_network_without_a_map_is_refused() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)).eval()
    with pytest.raises(ModelError, match=r"^Sequential has no feature map to explain\.$"):
        grad_cam(module, SPEC, images(), 0)


def test_what_is_hot_keeps_its_colors_and_the_rest_is_gray() -> None:
    image = np.full((40, 40, 3), (200, 100, 20), np.uint8)
    heat = np.zeros((8, 8), np.float32)
    heat[3:5, 3:5] = 1
    drawn = overlay(image, heat)
    assert drawn.dtype == np.uint8
    assert tuple(drawn[20, 20]) == (200, 100, 20)
    corner = drawn[0, 0].astype(int)
    assert np.ptp(corner) <= 1
    assert corner[0] < 100


def test_a_photo_and_its_heat_show_the_same_place(trained: Trained, tmp_path: Path) -> None:
    engine = TorchEngine.load(open_run(trained.run))
    photo = trained.photos / "bee" / "0.png"
    image = explain_photo(engine, photo, "bee", size=96)
    assert image.shape == (96, 96, 3)
    path = write_png(tmp_path / "heat.png", image)
    with Image.open(path) as written:
        np.testing.assert_array_equal(np.asarray(written), image)
    with pytest.raises(ConfigError, match=r"^The run tiny does not have the label 'owl'\.$"):
        heat_map(engine, np.zeros((1, 55, 55, 3), np.uint8), "owl")

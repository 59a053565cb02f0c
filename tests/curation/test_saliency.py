from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from finetune.curation.saliency import GRID, RIDGE, anomaly, feature_maps, saliency_map
from finetune.errors import ModelError
from finetune.models.factory import LoadedModel


def mahalanobis(features: np.ndarray) -> np.ndarray:
    """The formula with the inverse written out, in float64."""
    count, height, width = features.shape
    cells = features.reshape(count, -1).T.astype(np.float64)
    mean = cells.mean(axis=0)
    covariance = np.cov(cells.T, bias=True)
    a = RIDGE * np.trace(covariance) / min(len(cells), count)
    inverse = np.linalg.inv(covariance + a * np.eye(count))
    return np.sqrt([(x - mean) @ inverse @ (x - mean) for x in cells]).reshape(height, width)


@pytest.mark.parametrize("shape", [(8, 6, 7), (90, 5, 6), (30, 5, 6)])
def test_anomaly_is_the_mahalanobis_distance(shape: tuple[int, int, int]) -> None:
    features = np.random.default_rng(1).gamma(1.0, size=shape).astype(np.float32)
    assert np.allclose(anomaly(features), mahalanobis(features), rtol=1e-8)


def test_a_plain_photo_has_no_anomaly() -> None:
    assert np.array_equal(anomaly(np.full((9, 4, 5), 2.5, np.float32)), np.zeros((4, 5)))
    assert np.array_equal(
        saliency_map(np.ones((3, 8, 8), np.float32), np.ones((5, 4, 4), np.float32)),
        np.zeros((GRID, GRID)),
    )


def test_what_differs_stands_out_at_its_place() -> None:
    rng = np.random.default_rng(2)
    fine, coarse = rng.normal(size=(20, 24, 24)), rng.normal(size=(40, 12, 12))
    fine[:, 4:10, 14:20] += rng.normal(size=(20, 1, 1)) * 4
    coarse[:, 2:5, 7:10] += rng.normal(size=(40, 1, 1)) * 4
    found = saliency_map(fine.astype(np.float32), coarse.astype(np.float32))
    assert found.shape == (GRID, GRID)
    inside = np.zeros((GRID, GRID), bool)
    inside[4:10, 14:20] = True
    assert found[inside].mean() > 5 * found[~inside].mean()


def test_maps_of_the_embedded_backbone_are_fine_and_coarse(backbone: LoadedModel) -> None:
    before, last = feature_maps(backbone.module, torch.zeros(1, 3, 128, 96))
    assert before.shape[0] == last.shape[0] == 1
    assert last.shape[1:] == (1280, 4, 3)
    assert before.shape[2] >= 4


def test_the_last_map_is_what_the_head_pools(backbone: LoadedModel) -> None:
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    _, last = feature_maps(backbone.module, images)
    with torch.inference_mode():
        assert torch.allclose(last, backbone.module.forward_features(images))


def test_tokens_are_laid_out_as_maps() -> None:
    module = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    size = module.pretrained_cfg["input_size"][-1]
    before, last = feature_maps(module, torch.rand(1, 3, size, size))
    assert before.ndim == last.ndim == 4
    assert last.shape[1] == module.num_features


def test_a_network_without_maps_is_refused() -> None:
    class Flat(torch.nn.Module):
        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    with pytest.raises(ModelError) as caught:
        feature_maps(Flat(), torch.zeros(1, 3, 8, 8))
    assert str(caught.value) == (
        "Flat has no feature maps to find subjects with; use --method center, or another --model."
    )

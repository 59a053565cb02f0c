from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import timm
import torch

from finetune.curation.saliency import (
    GRID,
    MARGIN,
    MIN_SIDE,
    RIDGE,
    SubjectFinder,
    anomaly,
    crop_around,
    feature_maps,
    saliency_map,
    salient_box,
)
from finetune.demo_data import DemoCollection
from finetune.errors import ModelError
from finetune.models.factory import LoadedModel
from finetune.photos.crops import Crop
from finetune.photos.decode.decoder import decode_photo


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


def test_maps_of_the_packaged_backbone_are_fine_and_coarse(backbone: LoadedModel) -> None:
    before, last = feature_maps(backbone.module, torch.zeros(1, 3, 128, 96))
    assert before.shape[0] == last.shape[0] == 1
    assert last.shape[1:] == (1280, 4, 3)
    assert before.shape[2] >= 4


def test_the_last_map_is_what_the_head_pools(backbone: LoadedModel) -> None:
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    _, last = feature_maps(backbone.module, images)
    with torch.inference_mode():
        forward: Any = backbone.module.forward_features
        assert torch.allclose(last, forward(images))


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


def slow_box(saliency: np.ndarray, level: float) -> tuple[float, float, float, float]:
    rows, columns = saliency.shape
    best, found = -np.inf, (0, 0, 0, 0)
    for top, bottom in itertools.combinations(range(rows + 1), 2):
        for left, right in itertools.combinations(range(columns + 1), 2):
            total = (saliency[top:bottom, left:right] - level).sum()
            if total > best + 1e-12:
                best, found = total, (left, top, right, bottom)
    left, top, right, bottom = found
    return left / columns, top / rows, right / columns, bottom / rows


@pytest.mark.parametrize("seed", range(5))
def test_the_box_is_the_rectangle_of_the_largest_sum(seed: int) -> None:
    saliency = np.random.default_rng(seed).gamma(0.4, size=(6, 9))
    assert salient_box(saliency, level=0.5) == pytest.approx(slow_box(saliency, 0.5))


def test_a_speck_far_off_is_left_out() -> None:
    saliency = np.zeros((24, 24))
    saliency[10:16, 3:9] = 1
    saliency[1, 22] = 1
    assert salient_box(saliency) == (3 / 24, 10 / 24, 9 / 24, 16 / 24)


def test_the_square_holds_the_box_with_a_margin() -> None:
    crop = crop_around((0.25, 0.5, 0.5, 0.75), 600, 400)
    assert crop.center_x == pytest.approx(0.375)
    assert crop.center_y == pytest.approx(0.625)
    assert crop.side == pytest.approx(MARGIN * 150 / 400)


def test_the_square_stays_inside_and_is_no_speck() -> None:
    corner = crop_around((0.9, 0.9, 1.0, 1.0), 600, 400)
    assert corner.box(600, 400)[2:] == pytest.approx((600, 400))
    assert corner.side == pytest.approx(MIN_SIDE)
    whole = crop_around((0.0, 0.0, 1.0, 1.0), 600, 400)
    assert whole.side == 1


def test_a_plain_photo_keeps_its_middle(backbone: LoadedModel) -> None:
    assert crop_around(salient_box(np.zeros((24, 24))), 90, 60) == Crop()
    assert SubjectFinder(backbone).crop_of_image(np.zeros((60, 90, 3), np.uint8)).side > 0


def share_inside(crop: Crop, box: tuple[float, ...], width: int, height: int) -> float:
    left, top, right, bottom = crop.box(width, height)
    wide = max(0.0, min(right, box[2]) - max(left, box[0]))
    high = max(0.0, min(bottom, box[3]) - max(top, box[1]))
    return wide * high / ((box[2] - box[0]) * (box[3] - box[1]))


def test_squares_hold_the_birds_that_center_crops_cut(
    demo_collection: DemoCollection, backbone: LoadedModel
) -> None:
    finder = SubjectFinder(backbone)
    found: list[bool] = []
    middle: list[bool] = []
    sides: list[float] = []
    for photo in demo_collection.photos:
        crop = finder.crop_of(demo_collection.folder / photo.path)
        sides.append(crop.side)
        for crops, square in ((found, crop), (middle, Crop())):
            crops.append(share_inside(square, photo.box, photo.width, photo.height) >= 0.9)
    assert np.mean(middle) < 0.6
    assert np.mean(found) >= 0.85
    assert np.mean(sides) < 0.85


def test_a_file_and_its_pixels_have_the_same_square(
    demo_collection: DemoCollection, backbone: LoadedModel
) -> None:
    finder = SubjectFinder(backbone)
    path = demo_collection.folder / demo_collection.photos[0].path
    from_file, from_bytes = finder.crop_of(path), finder.crop_of(path.read_bytes())
    from_pixels = finder.crop_of_image(decode_photo(path))
    assert from_file == from_bytes == from_pixels

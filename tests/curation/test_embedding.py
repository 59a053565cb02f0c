from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.curation.embedding import Embedder, decoded_batches, embed, load_backbone, unit_rows
from finetune.errors import DecodeError
from finetune.models.factory import LoadedModel
from finetune.photos.crops import Crop, load_image
from finetune.photos.scan import scan


@pytest.fixture
def few(birds: Path, tmp_path: Path) -> Path:
    root = tmp_path / "few"
    for label in ("mallard", "カワセミ"):
        (root / label).mkdir(parents=True)
        for path in sorted((birds / label).iterdir())[:2]:
            shutil.copy(path, root / label)
    return root


def reference(backbone: LoadedModel, path: Path, crop: Crop | None = None) -> np.ndarray:
    """Features by plain timm, with no finetune code but the decoder."""
    preprocessing = backbone.preprocessing
    image = load_image(path, size=preprocessing.working_size, crop=crop)
    start = (preprocessing.working_size - preprocessing.size) // 2
    image = image[start : start + preprocessing.size, start : start + preprocessing.size]
    pixels = (image.astype(np.float64) / 255 - preprocessing.mean) / preprocessing.std
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        forward: Any = backbone.module.forward_features
        maps: torch.Tensor = forward(tensor)
        return maps.double().mean(dim=(2, 3))[0].numpy()


def test_features_are_the_pooled_maps_of_the_backbone(few: Path, backbone: LoadedModel) -> None:
    photos = scan(few).photos
    found = Embedder(backbone).embed(few, photos)
    assert found.features.shape == (4, 1280)
    assert found.features.dtype == np.float32
    for photo, row in zip(photos, found.features, strict=True):
        assert np.allclose(row, reference(backbone, few / photo.path), atol=2e-4)


def test_a_crop_decides_what_the_backbone_sees(few: Path, backbone: LoadedModel) -> None:
    import dataclasses

    crop = Crop(center_x=0.3, center_y=0.4, side=0.5)
    photo = dataclasses.replace(scan(few).photos[0], crop=crop)
    found = Embedder(backbone).embed(few, [photo])
    assert np.allclose(found.features[0], reference(backbone, few / photo.path, crop), atol=2e-4)


def test_second_time_no_photo_is_opened(few: Path, backbone: LoadedModel) -> None:
    photos = scan(few).photos
    calls: list[tuple[int, int]] = []
    first = Embedder(backbone).embed(few, photos, progress=lambda *done: calls.append(done))
    assert calls[-1] == (4, 4)
    for photo in photos:
        (few / photo.path).unlink()
    again = Embedder(backbone).embed(few, photos, progress=lambda *done: calls.append(done))
    assert np.array_equal(first.features, again.features)
    assert len(calls) == 1


def test_photos_that_have_become_unreadable_are_named_and_left_out(
    few: Path, backbone: LoadedModel
) -> None:
    photos = scan(few).photos
    (few / photos[1].path).write_bytes(b"\xff\xd8\xff broken")
    (few / photos[2].path).unlink()
    found = Embedder(backbone).embed(few, photos)
    assert [photo.path for photo in found.photos] == [photos[0].path, photos[3].path]
    assert found.positions.tolist() == [0, 3]
    assert found.features.shape == (2, 1280)
    assert [problem.path for problem in found.problems] == [photos[1].path, photos[2].path]
    assert found.problems[1].reason == "no such file"


def test_no_photos_have_no_features(few: Path, backbone: LoadedModel) -> None:
    found = Embedder(backbone).embed(few, [])
    assert found.features.shape == (0, 1280)
    assert Embedder(backbone).embed_files([]).features.shape == (0, 1280)


def test_files_outside_of_a_collection_have_the_same_features(
    few: Path, backbone: LoadedModel
) -> None:
    photos = scan(few).photos
    paths = [few / photo.path for photo in photos]
    missing = few / "gone.jpg"
    files = Embedder(backbone).embed_files([paths[0], missing, paths[1], paths[0]])
    assert files.paths == (paths[0], paths[1], paths[0])
    assert [(p.path, p.reason) for p in files.problems] == [(str(missing), "no such file")]
    whole = Embedder(backbone).embed(few, photos)
    assert np.allclose(files.features, whole.features[[0, 1, 0]], atol=1e-4)


def test_pixels_are_not_kept(few: Path, backbone: LoadedModel) -> None:
    Embedder(backbone).embed(few, scan(few).photos)
    folders = sorted(path.name for path in (few / ".finetune").iterdir() if path.is_dir())
    assert [name.split("-")[0] for name in folders] == ["features"]


def test_any_model_and_weights_file_will_do(few: Path, tiny_weights: Path) -> None:
    found = embed(few, scan(few).photos, model="test_resnet", weights=str(tiny_weights))
    width = load_backbone("test_resnet", str(tiny_weights)).module.num_features
    assert found.features.shape == (4, width)


def test_batches_hand_on_what_cannot_be_opened_with_its_reason() -> None:
    def pixels(item: int) -> np.ndarray:
        if item % 10 == 3:
            raise DecodeError(None, f"bad {item}")
        return np.full((1, 1, 3), item, np.uint8)

    batches = list(decoded_batches(range(70), pixels))
    assert [len(good) + len(bad) for good, bad in batches] == [32, 32, 6]
    assert {k: v for _, bad in batches for k, v in bad.items()} == {
        item: f"bad {item}" for item in (3, 13, 23, 33, 43, 53, 63)
    }
    assert all(value[0, 0, 0] == item for good, _ in batches for item, value in good.items())


def test_unit_rows_have_length_one_or_none() -> None:
    rows = unit_rows(np.array([[3, 4], [0, 0], [0, -2]], np.float32))
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0], [0, -1]]

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune import Predictor, train
from finetune.config_io import resolve
from finetune.curation.crop_policy import CropPolicyConfig, load_policy
from finetune.curation.crop_proposals import propose_crops
from finetune.errors import DecodeError
from finetune.photos.crops import Crop, load_image
from finetune.photos.scan import scan
from finetune.prediction.predictor import PredictConfig
from finetune.runs.folder import RunFolder


@pytest.fixture(scope="module")
def on_crops(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, draw: Callable[..., Image.Image]
) -> tuple[Path, RunFolder]:
    """Photos with proposed crops, and a run trained on these crops."""
    folder = tmp_path_factory.mktemp("crops")
    photos = folder / "photos"
    for index, label in enumerate("ab"):
        (photos / label).mkdir(parents=True)
        for number in range(6):
            draw(index, number).save(photos / label / f"{number:03d}.jpg", quality=92)
    propose_crops(photos, CropPolicyConfig(method="saliency"))
    settings = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48, "device": "cpu"}
    flags = {**settings, "mode": "head", "epochs": 1}
    return photos, train(photos, resolve({}, flags), runs=folder / "runs").run


def test_a_run_trained_on_squares_predicts_on_squares(on_crops: tuple[Path, RunFolder]) -> None:
    photos, run = on_crops
    crops = [photo.crop for photo in scan(photos).photos]
    assert sum(crop is not None for crop in crops) > len(crops) / 2
    content = json.loads(run.preprocessing_file.read_text())
    policy, _ = load_policy(CropPolicyConfig.from_dict(content["crop_policy"]))
    predictor = Predictor.load(run.path)
    path = photos / "a" / "000.jpg"
    crop = policy(path)
    assert crop is not None
    preprocessing = predictor.preprocessing
    how: dict[str, Any] = {
        "size": preprocessing.working_size,
        "fit": preprocessing.fit,
        "interpolation": preprocessing.interpolation,
    }
    expected = load_image(path, crop=crop, **how)
    for photo in (path, str(path), path.read_bytes()):
        assert np.array_equal(predictor.pixels_of(photo), expected)
    assert not np.array_equal(expected, load_image(path, **how))
    # A square that is given wins over the one that would be found.
    given = Crop(center_x=0.4, side=0.6)
    assert np.array_equal(
        predictor.working_images(path, crop=given)[0], load_image(path, crop=given, **how)
    )


def test_the_bound_on_pixels_holds_before_a_square_is_looked_for(
    on_crops: tuple[Path, RunFolder],
) -> None:
    photos, run = on_crops
    predictor = Predictor.load(run.path, config=PredictConfig(max_pixels=100))
    asked: list[object] = []
    predictor._policy = lambda photo: asked.append(photo)
    with pytest.raises(DecodeError, match="too many pixels"):
        predictor((photos / "a" / "000.jpg").read_bytes())
    assert asked == []


def test_a_run_of_whole_photos_looks_for_no_square(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    photos = make_photos({"a": 6, "b": 6})
    flags = {**tiny_settings, "mode": "head", "epochs": 1}
    run = train(photos, resolve({}, flags), runs=tmp_path / "runs").run
    assert json.loads(run.preprocessing_file.read_text())["crop_policy"] is None
    predictor = Predictor.load(run.path)
    preprocessing = predictor.preprocessing
    path = photos / "a" / "000.jpg"
    how: dict[str, Any] = {
        "size": preprocessing.working_size,
        "fit": preprocessing.fit,
        "interpolation": preprocessing.interpolation,
    }
    assert np.array_equal(predictor.pixels_of(path), load_image(path, **how))

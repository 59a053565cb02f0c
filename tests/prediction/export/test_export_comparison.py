from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from finetune.photos.decode.decoder import decode_photo
from finetune.prediction.export.export import LoadedPhoto, compare, load_sample
from finetune.prediction.export.timm import export_timm, timm_predict_proba
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import open_run


class Trained(Protocol):
    run: Path
    photos: Path


@pytest.fixture(scope="module")
def engine(trained: Trained) -> TorchEngine:
    return TorchEngine.load(open_run(trained.run), device="cpu")


@pytest.fixture(scope="module")
def photos(trained: Trained, engine: TorchEngine) -> list[LoadedPhoto]:
    # More than one batch of what is compared at a time.
    files = sorted(trained.photos.rglob("*.png"))
    return list(load_sample([*files, *files], 20, engine.metadata.preprocessing))


def test_the_largest_difference_and_the_share_of_equal_labels_are_of_all_photos(
    engine: TorchEngine, photos: list[LoadedPhoto]
) -> None:
    images = np.stack([photo.image for photo in photos])
    true = engine.metadata.task.probabilities(engine.logits(images))
    # The last photo, in the last batch, is answered the other way round.
    told = np.concatenate([true[:-1], true[-1:, ::-1]])
    at = iter(range(0, len(photos), 16))

    def prediction(images: Any) -> Any:
        start = next(at)
        return told[start : start + len(images)]

    found = compare(engine, prediction, photos)
    assert found.photos == 20
    assert found.largest_difference == pytest.approx(abs(true[-1, 0] - true[-1, 1]))
    assert found.same_label == 19 / 20
    assert found.original_size_difference is None


def test_whole_photos_are_asked_about_one_by_one_at_their_own_size(
    engine: TorchEngine, photos: list[LoadedPhoto]
) -> None:
    sizes = []

    def prediction(images: Any) -> Any:
        sizes.append(images.shape)
        return np.full((len(images), 2), 0.5)

    found = compare(engine, prediction, photos[:3], at_original_size=True)
    images = np.stack([photo.image for photo in photos[:3]])
    true = engine.metadata.task.probabilities(engine.logits(images))
    assert found.original_size_difference == pytest.approx(np.abs(true - 0.5).max())
    assert sizes == [images.shape, *((1, *decode_photo(p.path).shape) for p in photos[:3])]


def test_a_folder_for_timm_answers_as_the_engine_that_it_came_from(
    engine: TorchEngine, photos: list[LoadedPhoto], tmp_path: Path
) -> None:
    export_timm(engine, tmp_path / "timm")
    found = compare(engine, timm_predict_proba(engine, tmp_path / "timm"), photos)
    assert found.largest_difference < 1e-6
    assert found.same_label == 1

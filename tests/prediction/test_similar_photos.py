from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from finetune.errors import RunError
from finetune.models.feature_backends import features_of
from finetune.photos.split.split import read_split
from finetune.prediction.predictor import Predictor
from finetune.prediction.similar_photos import TrainingPhotos
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import open_run


class Trained(Protocol):
    run: Path
    photos: Path


def test_the_most_like_by_the_angle_of_features_and_never_the_photo_itself(
    trained: Trained,
) -> None:
    run = open_run(trained.run)
    engine = TorchEngine.load(run)
    predictor = Predictor([engine])
    rows = [row for row in read_split(run.split_file) if row.part == "train"]

    def feature(path: Path) -> NDArray[np.float64]:
        square = predictor.pixels_of(path)
        margin = (square.shape[0] - engine.metadata.preprocessing.size) // 2
        size = engine.metadata.preprocessing.size
        cut = square[margin : margin + size, margin : margin + size]
        mean, std = (
            np.array(v)
            for v in (engine.metadata.preprocessing.mean, engine.metadata.preprocessing.std)
        )
        pixels = torch.tensor(((cut / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
        with torch.inference_mode():
            vector = features_of(engine.module, pixels)[0].double().numpy()
        unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
        return unit

    asked = trained.photos / rows[0].path
    cosines = {
        row.path: float(feature(asked) @ feature(trained.photos / row.path)) for row in rows[1:]
    }
    expected = sorted(cosines, key=lambda path: -cosines[path])[:3]
    with TrainingPhotos(run, engine) as training:
        found = training.like(predictor.pixels_of(asked), count=3, photo=asked)
    assert [item.photo for item in found] == [str(trained.photos / path) for path in expected]
    assert [item.similarity for item in found] == pytest.approx(
        [cosines[path] for path in expected], abs=1e-4
    )
    labels = {row.path: row.labels[0] for row in rows}
    assert [item.label for item in found] == [labels[path] for path in expected]


def test_photos_that_are_gone_are_said_to_be(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained.run, copy)
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace(str(trained.photos), str(tmp_path / "gone")))
    run = open_run(copy)
    with pytest.raises(RunError, match=r"training photos of .* is in .*gone any more"):
        TrainingPhotos(run, TorchEngine.load(run))

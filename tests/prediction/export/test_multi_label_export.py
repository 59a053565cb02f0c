"""An exported run of several labels answers as the run does."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune import Predictor, train
from finetune.config_io import resolve
from finetune.training.train import RunResult

Settings = dict[str, object]


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def run_of(photos: Path, runs: Path, flags: Settings, name: str = "r") -> RunResult:
    return train(photos, resolve({}, flags), run=name, runs=runs)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_an_export_to_onnx_answers_like_the_run(
    several_folders: Path, tmp_path: Path, several: Settings
) -> None:
    from finetune.prediction.export.export import ExportOptions, export

    result = run_of(several_folders, tmp_path, several)
    options = ExportOptions(with_preprocessing=True, with_softmax=True)
    made = export(result.run, options)
    assert made.comparison.largest_difference < 1e-4
    import onnxruntime

    session = onnxruntime.InferenceSession(str(made.path))
    assert [output.name for output in session.get_outputs()] == ["probabilities", "logits"]
    photos = [several_folders / row["path"] for row in rows_of(result.run.path)[:5]]
    one, other = Predictor.load(result.run), Predictor.load(made.path)
    for photo in photos:
        mine, theirs = one(photo), other(photo)
        assert mine.labels == theirs.labels
        for item in mine.ranked:
            assert theirs.probability_of(item.label) == pytest.approx(item.probability, abs=1e-4)
        pixels = np.asarray(Image.open(photo).convert("RGB"))[None]
        (shares,) = session.run(["probabilities"], {"photos": pixels})
        expected = [mine.probability_of(label) for label in one.labels]
        np.testing.assert_allclose(shares[0], expected, atol=1e-3)


def test_an_export_to_torchscript_ends_in_sigmoids(
    several_folders: Path, tmp_path: Path, several: Settings
) -> None:
    from finetune.prediction.export.export import ExportOptions, export

    result = run_of(several_folders, tmp_path, {**several, "epochs": 1})
    options = ExportOptions(format="torchscript", with_softmax=True)
    assert export(result.run, options).comparison.largest_difference < 1e-4

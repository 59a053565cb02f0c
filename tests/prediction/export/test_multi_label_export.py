"""An exported run of several labels answers as the run does."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from finetune import Predictor, train
from finetune.config_io import resolve
from finetune.prediction.export.export import ExportOptions, export
from finetune.prediction.onnx_engine import center_of, normalized
from finetune.runs.folder import RunFolder


@pytest.fixture(scope="module")
def run(
    several_folders: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    flags = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48, "device": "cpu"}
    flags |= {"multi_label": True, "negatives": "none", "mode": "head", "epochs": 1}
    runs = tmp_path_factory.mktemp("several-runs")
    return train(several_folders, resolve({}, flags), run="r", runs=runs).run


def test_an_export_to_onnx_answers_like_the_run(several_folders: Path, run: RunFolder) -> None:
    made = export(run, ExportOptions(with_softmax=True))
    assert made.comparison.largest_difference < 1e-4
    import onnxruntime

    session = onnxruntime.InferenceSession(str(made.path))
    assert [output.name for output in session.get_outputs()] == ["probabilities", "logits"]
    with run.predictions_file.open(encoding="utf-8-sig") as file:
        photos = [several_folders / row["path"] for row in list(csv.DictReader(file))[:5]]
    one, other = Predictor.load(run.path), Predictor.load(made.path)
    for photo in photos:
        mine, theirs = one(photo), other(photo)
        assert mine.labels == theirs.labels
        for item in mine.ranked:
            assert theirs.probability_of(item.label) == pytest.approx(item.probability, abs=1e-4)
        square = center_of(one.pixels_of(photo)[None], one.preprocessing.size)
        pixels = normalized(square, one.preprocessing)
        (shares,) = session.run(["probabilities"], {"pixels": pixels})
        expected = [mine.probability_of(label) for label in one.labels]
        np.testing.assert_allclose(shares[0], expected, atol=1e-4)


def test_an_export_to_torchscript_ends_in_sigmoids(run: RunFolder) -> None:
    options = ExportOptions(format="torchscript", with_softmax=True)
    assert export(run, options).comparison.largest_difference < 1e-4

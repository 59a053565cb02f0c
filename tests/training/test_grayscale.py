"""A network of one channel, from small color photos to every way in which a run is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from finetune import Predictor, train
from finetune.config_io import resolve
from finetune.prediction.explain import explain_photo, explainable
from finetune.prediction.export.export import ExportOptions, export
from finetune.runs.folder import RunFolder
from finetune.training.events import EpochDone, Event
from finetune.training.train import resume

NET = {"model": "simple_cnn", "weights": "none", "channels": 1, "size": 28, "augment": "digits"}
SETTINGS = {**NET, "epochs": 2, "batch_size": 8, "device": "cpu", "lr": 0.01}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]) -> Path:
    """``photos/{ant,bee}/N.png``, color, 28x28."""
    root = tmp_path_factory.mktemp("gray") / "photos"
    for index, label in enumerate(["ant", "bee"]):
        (root / label).mkdir(parents=True)
        for number in range(10):
            photo = draw(index, number).crop((10, 0, 70, 60)).resize((28, 28))
            photo.save(root / label / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(photos: Path) -> RunFolder:
    return train(photos, resolve({}, SETTINGS), run=str(photos.parent / "run")).run


def by_hand(run: RunFolder, photo: Path) -> np.ndarray[Any, Any]:
    """The run's probabilities by Pillow, timm and torch alone."""
    net = timm.create_model("simple_cnn", num_classes=2, in_chans=1, img_size=28).eval()
    net.load_state_dict(load_file(run.model_file))
    gray = np.asarray(Image.open(photo).convert("L"), np.float32)
    with torch.inference_mode():
        logits = net(torch.from_numpy((gray / 255 - 0.5) / 0.5)[None, None])[0].double()
    temperature = json.loads(run.calibration_file.read_text())["temperature"]
    return torch.softmax(logits / temperature, 0).numpy()


def test_the_run_says_that_it_sees_gray(run: RunFolder) -> None:
    found = json.loads(run.preprocessing_file.read_text())
    assert (found["channels"], found["mean"], found["std"]) == (1, [0.5], [0.5])
    assert (found["size"], found["crop_pct"]) == (28, 1.0)
    assert load_file(run.model_file)["features.0.weight"].shape[1] == 1


def test_a_prediction_is_that_of_pillows_gray(run: RunFolder, photos: Path) -> None:
    predictor = Predictor.load(run.path)
    for photo in sorted(photos.rglob("*.png"))[::5]:
        answer = predictor(photo)
        found = [answer.probability_of(label) for label in ("ant", "bee")]
        np.testing.assert_allclose(found, by_hand(run, photo), atol=1e-5)
        pixels = np.asarray(Image.open(photo))
        same = predictor(pixels).probability_of("ant")
        assert same == pytest.approx(found[0], abs=1e-6)


def test_held_out_predictions_are_those_of_the_run(run: RunFolder, photos: Path) -> None:
    from finetune.evaluation.predictions import read_predictions

    predictor = Predictor.load(run.path)
    for row in read_predictions(run.predictions_file)[:4]:
        assert predictor(photos / row.path).label == row.predicted


def test_an_explanation_shows_the_photo_in_its_colors(run: RunFolder, photos: Path) -> None:
    engine = explainable(Predictor.load(run.path))
    shown = explain_photo(engine, photos / "ant" / "0.png", "ant", size=56)
    assert shown.shape == (56, 56, 3)


@pytest.mark.usefixtures("trace_once")
@pytest.mark.parametrize("preprocessing", [False, True])
def test_onnx_answers_like_the_run(
    run: RunFolder, photos: Path, tmp_path: Path, preprocessing: bool
) -> None:
    options = ExportOptions(with_preprocessing=preprocessing, with_softmax=preprocessing)
    exported = export(run, options, out=tmp_path / "net.onnx")
    assert exported.comparison.largest_difference < 1e-4
    if preprocessing:
        difference = exported.comparison.original_size_difference
        assert difference is not None
        assert difference < 1e-4
    photo = photos / "bee" / "3.png"
    answer = Predictor.load(exported.path)(photo)
    found = [answer.probability_of(label) for label in ("ant", "bee")]
    np.testing.assert_allclose(found, by_hand(run, photo), atol=1e-4)


@pytest.mark.parametrize("format", ["torchscript", "timm"])
def test_other_exports_answer_like_the_run(run: RunFolder, tmp_path: Path, format: Any) -> None:
    whole = format == "torchscript"
    options = ExportOptions(format=format, with_preprocessing=whole, with_softmax=whole)
    exported = export(run, options, out=tmp_path / "out")
    assert exported.comparison.largest_difference < 1e-4
    if whole:
        difference = exported.comparison.original_size_difference
        assert difference is not None
        assert difference < 1e-4


def test_a_timm_folder_says_one_channel(run: RunFolder) -> None:
    config = json.loads((run.path / "timm" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [1, 28, 28]
    assert config["pretrained_cfg"]["mean"] == [0.5]


def test_a_run_from_before_channels_still_opens(
    run: RunFolder, photos: Path, tmp_path: Path
) -> None:
    color = {**SETTINGS, "channels": 3, "epochs": 1}
    older = train(photos, resolve({}, color), run=str(tmp_path / "older")).run
    expected = Predictor.load(older.path)(photos / "ant" / "1.png").probability_of("ant")
    content = json.loads(older.preprocessing_file.read_text())
    del content["channels"]
    older.preprocessing_file.write_text(json.dumps(content))
    again = Predictor.load(older.path)(photos / "ant" / "1.png").probability_of("ant")
    assert again == expected


def test_an_interrupted_gray_run_goes_on_to_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    class Stop(Exception):  # noqa: N818 - a person's Ctrl-C, no error
        pass

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            raise Stop

    config = resolve({}, {**SETTINGS, "epochs": 3})
    whole = train(photos, config, run=str(tmp_path / "whole")).run
    with pytest.raises(Stop):
        train(photos, config, run=str(tmp_path / "cut"), callback=stop)
    resumed = resume(tmp_path / "cut").run
    assert resumed.model_file.read_bytes() == whole.model_file.read_bytes()


def test_the_report_of_a_gray_run_can_be_written(run: RunFolder) -> None:
    from finetune.reporting.report import write_report

    assert write_report(run.path).size_bytes > 1000


def test_the_mnist_nets_need_no_further_word(photos: Path, tmp_path: Path) -> None:
    config = resolve({}, {"model": "mnist_experts_cnn", "weights": "none", "epochs": 1})
    result = train(photos, config, run=str(tmp_path / "run"))
    settings = json.loads(result.run.config_file.read_text())["settings"]
    assert settings["augmentation"]["augment"] == "digits"
    assert json.loads(result.run.preprocessing_file.read_text())["channels"] == 1


def test_a_head_on_gray_features_answers_by_gray(
    photos: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    flags = {"model": "test_resnet", "weights": str(tiny_weights), "channels": 1, "size": 28}
    config = resolve({}, {**flags, "mode": "head", "epochs": 2, "device": "cpu"})
    run = train(photos, config, run=str(tmp_path / "run")).run
    predictor = Predictor.load(run.path)
    color = np.asarray(Image.open(photos / "ant" / "2.png"))
    gray = np.asarray(Image.open(photos / "ant" / "2.png").convert("L"))[..., None].repeat(3, 2)
    expected = predictor(color).probability_of("ant")
    assert predictor(gray).probability_of("ant") == pytest.approx(expected, abs=1e-6)

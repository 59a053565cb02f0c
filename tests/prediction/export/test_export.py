from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from finetune.augmentation.center_crop import center_crop, preprocess
from finetune.errors import ConfigError, ModelError, RunError
from finetune.photos.crops import crop_and_resize
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction import onnx_engine
from finetune.prediction.engine import ModelMetadata
from finetune.prediction.export import export as library
from finetune.prediction.export import onnx as export_onnx
from finetune.prediction.export.export import ExportOptions, export
from finetune.prediction.export.torchscript import ExportModule
from finetune.prediction.onnx_engine import (
    DISTANCE_KEY,
    METADATA_KEY,
    OnnxEngine,
    center_of,
    normalized,
    pad_to,
)
from finetune.prediction.predictor import Predictor
from finetune.runs.folder import RunFolder, open_run

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("trace_once")

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "photos"


class Trained(Protocol):
    run: Path
    photos: Path


@pytest.fixture(scope="module")
def plain(trained: Trained, trace_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "plain.onnx"
    return export(open_run(trained.run), ExportOptions(), out=out).path


@pytest.fixture(scope="module")
def whole(trained: Trained, trace_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "whole.onnx"
    options = ExportOptions(with_preprocessing=True, with_softmax=True)
    return export(open_run(trained.run), options, out=out).path


@pytest.fixture(scope="module")
def timm_folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("timm") / "model"
    return export(open_run(trained.run), ExportOptions(format="timm"), out=out).path


def shares(predictor: Predictor, photo: Path) -> list[float]:
    prediction = predictor(photo)
    return [prediction.probability_of(label) for label in predictor.labels]


def test_an_onnx_file_answers_like_its_run_and_carries_what_it_knows(
    trained: Trained, plain: Path, whole: Path
) -> None:
    run = Predictor.load(trained.run)
    for path in (plain, whole):
        exported = Predictor.load(path)
        assert exported.engines[0].metadata == run.engines[0].metadata
        for photo in sorted(trained.photos.rglob("*.png")):
            assert shares(exported, photo) == pytest.approx(shares(run, photo), abs=1e-5)
            assert exported(photo).status == run(photo).status


def test_an_onnx_file_says_none_of_these_by_the_distance_of_its_run(
    trained: Trained, plain: Path, whole: Path
) -> None:
    run = Predictor.load(trained.run).engines[0]
    limit = run.metadata.unknown
    assert limit is not None
    assert limit.distance is not None
    size = run.metadata.preprocessing.working_size
    squares = np.random.default_rng(0).integers(0, 256, (6, size, size, 3), np.uint8)
    logits, features = run.logits_and_features(squares)
    for path in (plain, whole):
        exported = Predictor.load(path).engines[0]
        known = exported.metadata.unknown
        assert known is not None
        assert known.distance is not None
        for name, value in limit.distance.to_tensors().items():
            np.testing.assert_array_equal(known.distance.to_tensors()[name], value)
        theirs, seen = exported.logits_and_features(squares)
        np.testing.assert_allclose(theirs, logits, atol=1e-3)
        np.testing.assert_allclose(seen, features, atol=1e-3)
        np.testing.assert_allclose(known.distances(seen), limit.distances(features), rtol=1e-2)


def test_the_graph_takes_any_number_of_photos_of_any_size(trained: Trained, whole: Path) -> None:
    session = onnxruntime.InferenceSession(str(whole))
    assert [item.name for item in session.get_inputs()] == ["photos"]
    assert [item.name for item in session.get_outputs()] == ["probabilities", "logits", "features"]
    run = Predictor.load(trained.run)
    rng = np.random.default_rng(0)
    for count, height, width in [(1, 60, 80), (3, 97, 51), (2, 400, 300)]:
        smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height))
        photos = np.stack([np.asarray(smooth)] * count)
        found = session.run(["probabilities"], {"photos": photos})[0]
        expected = [run(photos[0]).probability_of(label) for label in run.labels]
        np.testing.assert_allclose(found, [expected] * count, atol=2e-3)


SHAPES = [(60, 81), (55, 123), (20, 30), (46, 46)]


def check_resampling(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], preprocessing: Preprocessing
) -> None:
    """Compares pixels of 40, of a working image of 46, with those of training."""
    fit, interpolation = preprocessing.fit, preprocessing.interpolation
    for shape in SHAPES:
        photo = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
        working = crop_and_resize(photo, size=46, fit=fit, interpolation=interpolation)[None]
        # Pillow weighs with 22 bits: a value that lies on the edge may round the other way. (Tall
        # photos it takes down before across, which rounds other values in between.)
        difference = np.abs(run(photo[None]) - center_of(working, 40).transpose(0, 3, 1, 2))
        assert difference.max() <= 1.001
        assert (difference > 0.01).mean() < 0.03
        if shape == (46, 46):
            assert difference.max() < 1e-4


def unscaled(fit: Any, interpolation: str) -> ModelMetadata:
    preprocessing = Preprocessing(
        size=40, mean=(0.0,) * 3, std=(1 / 255,) * 3, fit=fit, interpolation=interpolation
    )
    return ModelMetadata(name="x", model="x", labels=("a",), preprocessing=preprocessing)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_export_module_resamples_as_training_does(fit: str, interpolation: str) -> None:
    metadata = unscaled(fit, interpolation)
    module = ExportModule(torch.nn.Identity(), metadata, with_preprocessing=True)
    check_resampling(
        lambda photos: module(torch.from_numpy(photos)).numpy(), metadata.preprocessing
    )


def test_an_onnx_graph_resamples_as_training_does() -> None:
    metadata = unscaled("pad", "bilinear")
    model = export_onnx.preprocessing_graph(metadata)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    check_resampling(
        lambda photos: session.run(None, {"photos": photos})[0], metadata.preprocessing
    )


@pytest.mark.parametrize("whiten", [False, True])
def test_normalising_without_torch_gives_what_training_had(whiten: bool) -> None:
    preprocessing = Preprocessing(size=40, whiten=whiten)
    squares = np.random.default_rng(2).integers(0, 256, (3, 46, 46, 3), np.uint8)
    images = torch.from_numpy(squares).permute(0, 3, 1, 2)
    expected = center_crop(images, 40, preprocessing.mean, preprocessing.std, whiten=whiten).numpy()
    np.testing.assert_allclose(
        normalized(center_of(squares, 40), preprocessing), expected, atol=2e-6
    )
    np.testing.assert_array_equal(
        center_of(pad_to(center_of(squares, 40), 47), 40), center_of(squares, 40)
    )


def test_predicting_from_an_onnx_file_imports_no_torch(trained: Trained, plain: Path) -> None:
    code = (
        "import sys\n"
        "from finetune import Predictor\n"
        f"answer = Predictor.load({str(plain)!r})({str(trained.photos / 'ant' / '0.png')!r})\n"
        "assert abs(sum(item.probability for item in answer.ranked) - 1) < 1e-6\n"
        "print([m for m in ('torch', 'timm', 'torchvision') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_torchscript_answers_alone(trained: Trained, tmp_path: Path) -> None:
    options = ExportOptions(format="torchscript", with_preprocessing=True, with_softmax=True)
    done = export(open_run(trained.run), options, out=tmp_path / "model.pt")
    assert done.comparison.largest_difference <= 1e-5
    extra = {"finetune.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(  # type: ignore[no-untyped-call]
            str(done.path), _extra_files=extra
        )
    assert json.loads(extra["finetune.json"])["labels"] == ["ant", "bee"]
    square_ = Predictor.load(trained.run).pixels_of(trained.photos / "ant" / "0.png")
    found = module(torch.from_numpy(square_[None]))[0]
    assert float(found.detach().sum()) == pytest.approx(1, abs=1e-6)


def test_plain_timm_opens_the_folder_with_its_pixels(trained: Trained, timm_folder: Path) -> None:
    import timm
    from timm.data import resolve_data_config

    module = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    config = resolve_data_config({}, model=module)
    assert tuple(config["input_size"]) == (3, 48, 48)
    assert module.num_classes == 2
    assert (timm_folder / "labels.txt").read_text() == "ant\nbee\n"
    run = Predictor.load(trained.run)
    preprocessing = run.preprocessing
    for photo in sorted(trained.photos.rglob("*.png"))[:4]:
        pixels = preprocess(
            torch.from_numpy(run.pixels_of(photo)[None]).permute(0, 3, 1, 2), preprocessing
        )
        with torch.inference_mode():
            logits = module(pixels)[0].double() / run.engines[0].metadata.task.temperature
        assert logits.softmax(0).tolist() == pytest.approx(shares(run, photo), abs=1e-5)


def test_half_and_eight_bit_files_are_smaller_and_measured(
    trained: Trained, plain: Path, tmp_path: Path
) -> None:
    run = open_run(trained.run)
    for precision in ("fp16", "int8"):
        done = export(run, ExportOptions(precision=precision), out=tmp_path / f"{precision}.onnx")
        assert done.bytes < plain.stat().st_size
        assert done.comparison.photos > 0
        assert 0 <= done.comparison.largest_difference < 0.5
        assert Predictor.load(done.path)(trained.photos / "ant" / "0.png").error is None


def test_an_export_that_answers_differently_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = library._write_and_open

    def wrong(*arguments: Any) -> Any:
        prediction = real(*arguments)
        return lambda images: prediction(images)[:, ::-1]

    monkeypatch.setattr(library, "_write_and_open", wrong)
    with pytest.raises(ModelError, match=r"predicts differently from .*: a probability differs by"):
        export(open_run(trained.run), ExportOptions(format="timm"), out=tmp_path / "out")


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError) as error:
        ExportOptions(format="timm", precision="int8")
    assert str(error.value) == "--precision int8 is for --format onnx; timm has fp32."
    with pytest.raises(ConfigError, match=r"^--format timm holds the network alone; leave out"):
        ExportOptions(format="timm", with_softmax=True)


def test_without_photos_nothing_is_said_to_be_right(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained.run, copy)
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace(str(trained.photos), str(tmp_path / "gone")))
    with pytest.raises(RunError, match="There is no photo to compare the export with"):
        export(RunFolder(copy), ExportOptions())


def test_foreign_and_damaged_onnx_files_are_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^There is no file .*none\.onnx\."):
        OnnxEngine.load(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(RunError, match=r"bad\.onnx cannot be opened by onnxruntime: "):
        OnnxEngine.load(tmp_path / "bad.onnx")
    model = onnx.load(plain)
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY, DISTANCE_KEY]
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(RunError, match="was not exported by finetune"):
        OnnxEngine.load(tmp_path / "foreign.onnx")


def test_many_photos_get_the_runs_answers_with_a_batch_a_core(
    trained: Trained, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_engine, "usable_cores", lambda: 2)
    photos = 2 * sorted(trained.photos.rglob("*.png"))
    exported = Predictor.load(plain)
    assert exported.engines[0].cores == 2
    predictions = exported.predict_stream(photos, batch_size=8)
    for one, other in zip(
        Predictor.load(trained.run).predict_stream(photos), predictions, strict=True
    ):
        assert (one.photo, one.status) == (other.photo, other.status)
        for item in one.ranked:
            assert other.probability_of(item.label) == pytest.approx(item.probability, abs=1e-4)


def odd_photos() -> Iterator[Path]:
    for folder in ("orientation", "broken"):
        yield from sorted(path for path in (SHARED / "odd" / folder).rglob("*") if path.is_file())


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared photos are not here")
def test_every_path_agrees_on_odd_photos(trained: Trained, plain: Path, whole: Path) -> None:
    photos = list(odd_photos())
    predictions = [
        list(Predictor.load(source).predict_stream(photos, batch_size=8))
        for source in (trained.run, plain, whole)
    ]
    good = 0
    for rows in zip(*predictions, strict=True):
        assert len({(row.status, row.error) for row in rows}) == 1
        if rows[0].error is not None:
            continue
        good += 1
        for other in rows[1:]:
            for item in rows[0].ranked:
                assert other.probability_of(item.label) == pytest.approx(item.probability, abs=1e-4)
    assert good > 30

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from finetune.cli import app
from finetune.cli.fast_predictions import prepare_predictions
from finetune.errors import ModelError, RunError
from finetune.evaluation.predictions import read_predictions, write_predictions
from finetune.prediction.export import run_graph as preparation
from finetune.prediction.export.run_graph import prepare_graph
from finetune.prediction.onnx_engine import OnnxEngine
from finetune.prediction.predictor import Predictor, open_engine
from finetune.prediction.report_extras import report_extras
from finetune.prediction.run_graph import find_graph, graphs_folder, open_graph, wants_torch
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder


@pytest.fixture(scope="module")
def graphs(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user cache with the graph of the trained run; torch's exporter takes seconds."""
    cache = tmp_path_factory.mktemp("graphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(cache))
        assert prepare_graph(RunFolder(trained.run)).reason is None
    return cache


@pytest.fixture
def run(trained: Any, graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of the run, and a copy of its cache."""
    shutil.copytree(graphs, tmp_path / "cache")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FINETUNE_ENGINE")
    shutil.copytree(trained.run, tmp_path / "runs" / "tiny")
    return RunFolder(tmp_path / "runs" / "tiny")


def with_other_head(run: RunFolder) -> RunFolder:
    """The same backbone with another head."""
    tensors = load_file(run.model_file)
    save_file({**tensors, "fc.weight": -2 * tensors["fc.weight"]}, run.model_file)
    return run


def with_other_backbone(run: RunFolder) -> RunFolder:
    tensors = load_file(run.model_file)
    save_file({**tensors, "conv1.0.weight": 0.5 * tensors["conv1.0.weight"]}, run.model_file)
    return run


def no_export(*_: object) -> None:
    raise AssertionError("It was exported again.")


@pytest.fixture
def exported(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and an exporter that gives the run's graph at once."""
    (file,) = graphs_folder().glob("*.onnx")
    content = file.read_bytes()
    shutil.rmtree(graphs_folder())
    monkeypatch.setattr(preparation, "export_backbone", lambda *_: content)


def test_the_graph_of_a_run_gives_its_logits_and_features(run: RunFolder) -> None:
    engine = open_engine(run)
    assert isinstance(engine, OnnxEngine)
    network = TorchEngine.load(run)
    side = engine.metadata.preprocessing.working_size
    images = np.random.default_rng(1).integers(0, 256, (5, side, side, 3), np.uint8)
    for mine, theirs in zip(
        engine.logits_and_features(images), network.logits_and_features(images), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(engine.logits(images), engine.logits_and_features(images)[0])


def test_both_engines_predict_the_same(run: RunFolder, trained: Any) -> None:
    photos = sorted(trained.photos.rglob("*.png"))
    fast = Predictor.load(run).predict_batch(photos)
    slow = Predictor.load(run, engine="torch").predict_batch(photos)
    assert [p.status for p in fast] == [p.status for p in slow]
    for mine, theirs in zip(fast, slow, strict=True):
        assert [r.label for r in mine.ranked] == [r.label for r in theirs.ranked]
        assert mine.ranked[0].probability == pytest.approx(theirs.ranked[0].probability, abs=1e-4)


def test_heads_on_one_backbone_share_a_graph(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = TorchEngine.load(run)
    first = find_graph(run)
    monkeypatch.setattr(preparation, "export_backbone", no_export)
    other = with_other_head(run)
    assert find_graph(other) == first
    assert prepare_graph(other).reason is None
    side = before.metadata.preprocessing.working_size
    images = np.random.default_rng(1).integers(0, 256, (3, side, side, 3), np.uint8)
    graph = open_graph(other)
    assert graph is not None
    logits = graph.logits(images)
    np.testing.assert_allclose(logits, TorchEngine.load(other).logits(images), atol=1e-4)
    assert np.abs(logits - before.logits(images)).max() > 0.01


def test_a_damaged_graph_is_not_used(run: RunFolder) -> None:
    (file,) = graphs_folder().glob("*.onnx")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert open_graph(run) is None
    assert isinstance(open_engine(run), TorchEngine)


def damage(run: RunFolder, how: str) -> None:
    tensors = load_file(run.model_file)
    weight = tensors["fc.weight"]
    if how == "one label less":
        run.labels_file.write_text('["ant"]')
    elif how == "fewer features":
        save_file({**tensors, "fc.weight": weight[:, 1:].copy()}, run.model_file)
    elif how == "no head":
        save_file({k: v for k, v in tensors.items() if k != "fc.weight"}, run.model_file)
    elif how == "not finite":
        save_file({**tensors, "fc.weight": weight * np.float32("nan")}, run.model_file)
    elif how == "flipped bit":
        content = bytearray(run.model_file.read_bytes())
        content[-1] ^= 1
        run.model_file.write_bytes(content)


@pytest.mark.parametrize(
    "how", ["one label less", "fewer features", "no head", "not finite", "flipped bit"]
)
def test_a_damaged_run_gives_the_error_that_torch_gives(run: RunFolder, how: str) -> None:
    damage(run, how)
    assert open_graph(run) is None
    errors = []
    for engine in (None, "torch"):
        with pytest.raises((ModelError, RunError)) as caught:
            open_engine(run, engine=cast(Any, engine))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.usefixtures("exported")
def test_a_damaged_graph_is_prepared_anew(run: RunFolder) -> None:
    prepare_graph(run)
    (file,) = graphs_folder().glob("*.onnx")
    file.write_bytes(b"none")
    assert open_graph(run) is None
    prepare_graph(run)
    assert open_graph(run) is not None


def test_a_network_that_onnx_cannot_express_predicts_with_torch(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(preparation, "export_backbone", fail)
    shutil.rmtree(graphs_folder())
    graph = prepare_graph(run)
    assert graph.reason == "test_resnet cannot be exported to ONNX: no such operator"
    assert isinstance(open_engine(run), TorchEngine)
    # It is not tried again.
    monkeypatch.setattr(preparation, "export_backbone", no_export)
    assert prepare_graph(run) == graph
    with pytest.raises(ModelError, match=r"no such operator\. Predict with --engine torch\."):
        open_engine(run, engine="onnx")


@pytest.mark.usefixtures("exported")
def test_a_graph_that_answers_otherwise_is_dropped(run: RunFolder) -> None:
    # The exporter gives the graph of the backbone as it was.
    other = with_other_backbone(run)
    assert prepare_graph(other).reason == "the graph of test_resnet differs from torch's network"
    assert open_graph(other) is None


def test_a_network_without_a_linear_head_has_no_graph(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(graphs_folder())
    network = type(TorchEngine.load(run).module)
    monkeypatch.setattr(network, "get_classifier", lambda self: nn.Identity())
    assert prepare_graph(run).reason == "test_resnet has no linear head"


def test_another_backbone_has_another_graph(run: RunFolder) -> None:
    assert find_graph(with_other_backbone(run)) is None
    assert isinstance(open_engine(run), TorchEngine)


@pytest.mark.usefixtures("exported")
def test_old_graphs_go_when_there_is_no_room(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs_folder().mkdir()
    stale = graphs_folder() / "old.onnx"
    stale.write_bytes(bytes(1000))
    os.utime(stale, (1, 1))
    monkeypatch.setattr(preparation, "MAX_BYTES", 1000)
    prepare_graph(run)
    assert not stale.exists()
    assert open_graph(run) is not None


@pytest.mark.parametrize(
    ("engine", "device", "variable", "gpu", "expected"),
    [
        (None, "cpu", "", True, False),
        (None, None, "", False, False),
        (None, None, "", True, True),
        (None, "cuda", "", False, True),
        ("onnx", "cuda", "torch", True, False),
        ("torch", "cpu", "onnx", False, True),
        (None, "cpu", "torch", False, True),
    ],
)
def test_torch_predicts_where_it_is_named_or_may_have_a_gpu(
    engine: Any,
    device: str | None,
    variable: str,
    gpu: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_ENGINE", variable)
    monkeypatch.setattr("finetune.prediction.run_graph._may_have_gpu", lambda: gpu)
    assert wants_torch(engine, device) is expected


def test_a_prepared_run_is_predicted_without_torch(run: RunFolder, trained: Any) -> None:
    code = (
        "import sys\n"
        "from finetune.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print([m for m in ('torch', 'timm', 'torchvision') if m in sys.modules])\n"
    )
    photo = trained.photos / "ant" / "0.png"
    asked = ["predict", str(photo), "--run", str(run.path), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, *asked], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "ant" in done.stdout


@pytest.mark.usefixtures("exported")
def test_predict_prepares_the_next_prediction(run: RunFolder, trained: Any) -> None:
    photo = str(trained.photos / "ant" / "0.png")
    asked = ["predict", photo, "--run", str(run.path), "--device", "cpu"]
    assert CliRunner().invoke(app, [*asked, "--engine", "torch"]).exit_code == 0
    assert find_graph(run) is None
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert find_graph(run) is not None
    found = CliRunner().invoke(app, [*asked, "--engine", "jax"])
    assert found.exit_code == 1
    assert "--engine jax is not one of torch, onnx." in found.output


def test_a_failed_preparation_is_one_line(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(preparation, "export_backbone", fail)
    shutil.rmtree(graphs_folder())
    prepare_predictions(run, device="cpu")
    assert (
        "Predictions of tiny will load torch: test_resnet cannot be exported to ONNX"
        in capsys.readouterr().err
    )


def test_a_report_explains_mistakes_of_a_run_with_a_graph(trained: Any, run: RunFolder) -> None:
    rows = [row for row in read_predictions(run.predictions_file) if row.part == "test"]
    wrong = next(label for label, _ in rows[0].ranked if label != rows[0].predicted)
    write_predictions(run.predictions_file, [dataclasses.replace(rows[0], label=wrong), *rows[1:]])
    assert isinstance(open_engine(run, device="cpu"), OnnxEngine)
    extras, notes = report_extras(run, trained.photos)
    assert not [note for note in notes if "Grad-CAM" in note]
    assert rows[0].path in extras.overlays

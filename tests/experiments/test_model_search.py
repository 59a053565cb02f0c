"""Search for a backbone, and runs of the pairs that it may choose."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from finetune.cli import app
from finetune.config_io import resolve
from finetune.errors import ConfigError
from finetune.experiments import model_search
from finetune.experiments.model_search import (
    Candidate,
    ModelSearch,
    choose,
    models_here,
    search_models,
    within_one_standard_error,
)
from finetune.models.registry import DEFAULT_MODEL
from finetune.prediction.explain import explain_photo, explainable
from finetune.prediction.export.export import ExportOptions, export
from finetune.prediction.predictor import Predictor
from finetune.runs.folder import RunFolder
from finetune.training.train import train

NAMES = ("test_resnet", "test_efficientnet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]) -> Path:
    """Photos of two labels, and weights of two networks."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "weights").mkdir()
    for number, name in enumerate(NAMES):
        torch.manual_seed(number)
        save_file(timm.create_model(name).state_dict(), folder / "weights" / f"{name}.safetensors")
    (folder / "weights" / "notes.pth").write_bytes(b"no model has this name")
    for index, label in enumerate(["ant", "bee"]):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(10):
            draw(index, number).save(folder / "photos" / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> ModelSearch:
    flags = {"model": "auto", "weights_dir": folder / "weights", "head_l2": "0.1,1"}
    return search_models(folder / "photos", resolve({}, flags), models=NAMES)


def test_every_model_a_larger_size_and_pairs_are_tried(found: ModelSearch) -> None:
    tried = [(candidate.model, candidate.size) for candidate in found.candidates]
    assert set(tried[:2]) == {("test_efficientnet", 160), ("test_resnet", 160)}
    assert set(tried[2:4]) == {("test_efficientnet", 192), ("test_resnet", 192)}
    assert len(tried) == 5
    assert set(tried[4][0].split("+")) == set(NAMES)
    assert found.photos == 20
    assert all(candidate.skipped is None for candidate in found.candidates)


def test_the_choice_is_the_fastest_within_one_standard_error(found: ModelSearch) -> None:
    lowest = min(candidate.log_loss or math.inf for candidate in found.candidates)
    assert found.candidates[found.best].log_loss == lowest
    chosen = found.candidates[found.chosen]
    faster = [c for c in found.candidates if (c.milliseconds or 0) < (chosen.milliseconds or 0)]
    assert all((c.log_loss or 0) > lowest for c in faster)
    assert found.config.model.model == chosen.model
    assert found.config.pixels.size == chosen.size
    assert f"Model {chosen.model} at {chosen.size} pixels" in found.describe()


def test_the_default_is_kept_unless_another_is_clearly_better() -> None:
    candidates = [
        Candidate(model=model, size=64, milliseconds=speed)
        for model, speed in ((DEFAULT_MODEL, 9.0), ("a", 5.0), ("b", 3.0), (DEFAULT_MODEL, 1.0))
    ]
    assert choose([0, 1, 2], candidates) == 0
    assert choose([1, 2], candidates) == 2
    assert choose([1, 3], candidates) == 3


def test_photos_of_a_group_count_as_one() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(0.1, 1, 60)
    single = np.arange(60)
    error = differences.std() / math.sqrt(60)
    shifted = differences - differences.mean()
    assert within_one_standard_error(shifted + 0.99 * error, single)
    assert not within_one_standard_error(shifted + 1.01 * error, single)
    # Each photo ten times says no more than once.
    groups = np.repeat(single, 10)
    assert within_one_standard_error(np.repeat(shifted + 0.99 * error, 10), groups)
    assert not within_one_standard_error(np.repeat(shifted + 1.01 * error, 10), groups)


def test_a_budget_ends_the_search_with_a_result(folder: Path) -> None:
    flags = {"weights_dir": folder / "weights", "budget": "0.001s", "size": 64}
    found = search_models(folder / "photos", resolve({}, flags), models=NAMES)
    assert [candidate.skipped is None for candidate in found.candidates] == [True, False]
    assert found.chosen == 0


def test_models_here_are_packaged_or_named_by_a_weights_file(folder: Path) -> None:
    names = models_here(folder / "weights")
    assert set(NAMES) < set(names)
    assert "notes" not in names


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"weights": "none"}, "--model auto uses the weights of each model"),
        ({"budget": "soon"}, "--budget soon must be a duration"),
    ],
)
def test_settings_that_contradict_a_search_are_refused(
    folder: Path, flags: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search_models(folder / "photos", resolve({}, flags), models=NAMES)


def test_the_command_prints_and_keeps_the_search(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(model_search, "models_here", lambda folder: ["test_resnet"])
    command = "train photos --model auto --weights-dir weights --size 64 --head-l2 1 --name auto"
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0, result.output
    assert "test_resnet  64 px" in result.output
    kept = json.loads((folder / "runs/auto/model_search.json").read_text())
    assert [candidate["model"] for candidate in kept["candidates"]] == ["test_resnet"]
    assert "Models tried on 20 held-out photos" in (folder / "runs/auto/README.md").read_text()
    assert json.loads((folder / "runs/auto/config.json").read_text())["model"] == "test_resnet"


def test_auto_is_refused_where_there_is_no_search(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, ["train", "photos", "--model", "auto", "--folds", "2"])
    assert result.exit_code == 1
    assert "--model auto searches for the model of one training" in result.output


@pytest.fixture(scope="module")
def pair_run(folder: Path) -> Path:
    flags = {"model": "+".join(NAMES), "weights_dir": folder / "weights", "size": 64}
    config = resolve({}, flags | {"head_l2": "0.1"})
    return train(folder / "photos", config, run="pair", runs=folder / "runs").run.path


def test_a_pair_predicts_exports_and_explains(pair_run: Path, folder: Path) -> None:
    photo = folder / "photos/ant/0.png"
    predictor = Predictor.load(pair_run)
    of_run = predictor(photo)
    exported = export(RunFolder(pair_run), ExportOptions(), out=folder / "pair.onnx")
    again = Predictor.load(exported.path)(photo)
    assert again.ranked[0].label == of_run.ranked[0].label
    assert again.ranked[0].probability == pytest.approx(of_run.ranked[0].probability, abs=1e-4)
    picture = explain_photo(explainable(predictor), photo, of_run.ranked[0].label, size=64)
    assert picture.shape == (64, 64, 3)
    assert not (pair_run / "timm").exists()
    with pytest.raises(ConfigError, match="timm has no pair of networks"):
        export(RunFolder(pair_run), ExportOptions(format="timm"))
    assert "timm alone" not in (pair_run / "README.md").read_text()


def test_a_full_pair_trains_and_goes_on(pair_run: Path, folder: Path) -> None:
    from finetune import train as train_again

    result = train_again(
        folder / "photos",
        from_run=pair_run,
        run=str(folder / "runs/full"),
        mode="full",
        epochs=1,
        show=False,
    )
    assert result.metrics["test"]["photos"] > 0
    assert Predictor.load(result.run.path)(folder / "photos/bee/1.png").ranked[0].label in (
        "ant",
        "bee",
    )

"""Each experiment's settings resolve, and train a step on a few drawn photos."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from PIL import Image
from typer.testing import CliRunner

from finetune.cli import app
from finetune.config_io import read_toml, resolve
from finetune.models.registry import resolve_preprocessing

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIGS = sorted(EXAMPLES.glob("*/*.toml"))
NAMES = [path.relative_to(EXAMPLES).as_posix() for path in CONFIGS]


@pytest.fixture
def photos(tmp_path: Path, draw: Callable[..., Image.Image]) -> Path:
    """Ten photos of two labels in train/ and four in test/, 32x32."""
    for part, count in (("train", 5), ("test", 2)):
        for label in range(2):
            folder = tmp_path / "photos" / part / f"label {label}"
            folder.mkdir(parents=True)
            for number in range(count):
                photo = draw(label, 100 * count + number).crop((10, 0, 70, 60)).resize((32, 32))
                photo.save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_there_is_a_folder_an_experiment_with_settings_and_a_readme() -> None:
    folders = {path.parent.name for path in CONFIGS}
    assert folders == {
        "birds",
        "mini-alexnet-cifar10",
        "resnet18-from-scratch",
        "tutorial-cnn-cifar10",
        "vgg19-mnist",
    }
    for folder in folders:
        assert (EXAMPLES / folder / "README.md").is_file()


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_settings_resolve_and_name_a_network(path: Path) -> None:
    config = resolve(read_toml(path))
    assert config.model.model is not None
    assert timm.is_model(config.model.model)
    preprocessing = resolve_preprocessing(config.model.model)
    if path.parent.name == "vgg19-mnist":
        assert (preprocessing.channels, preprocessing.size, preprocessing.working_size) == (
            1,
            28,
            28,
        )
    if path.parent.name.endswith("cifar10"):
        assert (preprocessing.channels, preprocessing.working_size) == (3, 32)


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_a_readme_names_its_settings_and_real_options(path: Path) -> None:
    readme = (path.parent / "README.md").read_text(encoding="utf-8")
    assert f"{path.parent.name}/{path.name}" in readme


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_one_step_can_be_trained(
    path: Path, photos: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    content["training"] |= {"epochs": 1}
    content["collection"] = {**content.get("collection", {}), "validation": 0.4}
    content["machine"] = {**content.get("machine", {}), "device": "cpu", "precision": "fp32"}
    if content["model"]["model"] == "resnet50":
        content["model"] = {"model": "test_resnet", "weights": str(tiny_weights)}
        content["pixels"] = {"size": 48}
    if content["model"]["model"] == "vgg19_mnist":
        content["model_args"] = {"hidden": [16, 16, 16]}
    if content["model"]["model"] == "resnet18":
        content["pixels"] = {"size": 32}
    written = tmp_path / "settings.json"
    written.write_text(json.dumps({"settings": content}))
    run = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    words: list[Any] = ["train", photos, "--config", written, "--name", run, "--json"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    document = json.loads(result.stdout)
    assert document["metrics"]["test"]["photos"] == 4
    said = json.loads((run / "config.json").read_text())["settings"]
    if "cifar10" in path.parent.name:
        assert said["augmentation"]["augment"] in ("cifar", "tutorial")
    if path.parent.name == "vgg19-mnist":
        assert said["augmentation"]["augment"] == "digits"

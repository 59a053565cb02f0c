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


def small_settings(path: Path, tiny_weights: Path) -> dict[str, Any]:
    """Returns an experiment's settings for a few drawn photos."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    content["collection"] = {**content.get("collection", {}), "validation": 0.4}
    content["machine"] = {**content.get("machine", {}), "device": "cpu", "precision": "fp32"}
    if content["model"]["model"] == "resnet50":
        content["model"] = {"model": "test_resnet", "weights": str(tiny_weights)}
        content["pixels"] = {"size": 48}
    if content["model"]["model"] == "vgg19_mnist":
        content["model_args"] = {"hidden": [16, 16, 16]}
    return content


def commands_of(readme: Path) -> list[list[str]]:
    """Returns the commands below the heading "Page"."""
    block = readme.read_text(encoding="utf-8").partition("## Page")[2].split("```")[1]
    return [line.split()[1:] for line in block.strip().splitlines()]


def shrunk(words: list[str], photos: Path, settings: Path) -> list[str]:
    """Returns a command of a training with small photos, few epochs and small pictures."""
    changed = [*words]
    changed[1] = str(photos)
    changed[words.index("--config") + 1] = str(settings)
    epochs = words[words.index("--epochs") + 1] if "--epochs" in words else "1"
    changed += ["--epochs", "1" if int(epochs) <= 5 else "2"]
    if "--size" in words:
        changed += ["--size", "32" if words[words.index("--size") + 1] == "32" else "48"]
    return [*changed, "--json"]


@pytest.mark.parametrize("folder", sorted({path.parent.name for path in CONFIGS}))
def test_the_page_of_an_experiment_can_be_made(
    folder: str, photos: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = []
    for words in commands_of(EXAMPLES / folder / "README.md"):
        given = [*words]
        if words[0] == "train":
            settings = EXAMPLES.parent / words[words.index("--config") + 1]
            written = tmp_path / "settings.json"
            content = small_settings(settings, tiny_weights)
            written.write_text(json.dumps({"settings": content}))
            given = shrunk(words, photos, written)
            trained.append(words[words.index("--name") + 1])
        result = CliRunner().invoke(app, given)
        assert result.exit_code == 0, result.output + repr(result.exception)
        if words[0] == "train":
            document = json.loads(result.stdout)
            assert document["metrics"]["test"]["photos"] == 4
            said = json.loads((Path("runs") / trained[-1] / "config.json").read_text())["settings"]
            if "cifar10" in folder:
                assert said["augmentation"]["augment"] in ("cifar", "tutorial")
            if folder == "vgg19-mnist":
                assert said["augmentation"]["augment"] == "digits"
        elif words[0] == "compare":
            page = Path(words[words.index("--output") + 1]).read_text("utf-8")
            for name in ("accuracy_epochs", "accuracy_seconds", "loss_epochs", "loss_seconds"):
                assert f'id="chart-{name}"' in page
            best = [name for name in trained if not name.endswith("-head")]
            for name in best:
                assert f"<strong>{name}</strong>: best" in page
        else:
            made = {path.name for path in Path(words[words.index("--images") + 1]).iterdir()}
            assert {"confusion.png", "learning_curve.png", "learning_curve.svg"} <= made

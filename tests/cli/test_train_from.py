from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

GO_ON = ("--epochs", 1, "--device", "cpu", "--batch-size", 8)


@pytest.fixture
def trained(
    run: Callable[..., Result],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with a run called garden of the photos in ``photos``."""
    make_photos({"ant": 8, "bee": 8})
    monkeypatch.chdir(tmp_path)
    run("train", *flags, "--fit", "pad", "--name", "garden")
    return tmp_path


def test_a_run_goes_on_with_what_is_now_in_its_folder(
    run: Callable[..., Result], trained: Path, make_photos: Callable[..., Path]
) -> None:
    make_photos({"ant": 12, "bee": 8, "wasp": 8})
    result = run("train", "--from", "garden", "--name", "second", *GO_ON)
    message = " ".join(result.stderr.split())
    assert "16 photos keep their part of the earlier run; 12 are new." in message
    assert "Starts from runs/garden: 2 labels keep their part of the head; new: wasp." in message
    content = json.loads(Path("runs/second/config.json").read_text())
    assert content["settings"]["pixels"]["fit"] == "pad"
    assert content["from"]["labels"]["new"] == ["wasp"]
    assert json.loads(Path("runs/second/labels.json").read_text()) == ["ant", "bee", "wasp"]
    run("train", "--from", "runs/second", "--name", "third", "--fit", "crop", *GO_ON)
    content = json.loads(Path("runs/third/config.json").read_text())
    assert content["settings"]["pixels"]["fit"] == "crop"


def test_settings_of_a_config_file_count_as_explicit(
    run: Callable[..., Result], trained: Path
) -> None:
    Path("c.toml").write_text('[pixels]\nfit = "crop"\n')
    run("train", "--from", "garden", "--config", "c.toml", "--name", "second", *GO_ON)
    content = json.loads(Path("runs/second/config.json").read_text())
    assert content["settings"]["pixels"]["fit"] == "crop"


def test_other_photos_may_be_named(
    run: Callable[..., Result], trained: Path, make_photos: Callable[..., Path]
) -> None:
    make_photos({"ant": 8, "empty": 0, "moth": 8}, folder="others")
    result = run("train", "others", "--from", "garden", "--name", "second", *GO_ON)
    message = " ".join(result.stderr.split())
    # The ants are the same photos in another place.
    assert "8 photos keep their part of the earlier run; 8 are new." in message
    assert "1 label keeps its part of the head; new: moth; dropped" in message


def test_what_contradicts_it_is_refused(error_of: Callable[..., str], trained: Path) -> None:
    assert error_of("train", "--from", "garden", "--weights", "w.pth") == (
        "--from runs/garden starts from the weights of that run, and --weights w.pth from others. "
        "Leave one of them out."
    )
    assert error_of("train", "--from", "garden", "--resume", "runs/garden") == (
        "--resume continues with the settings of the run; leave out --from."
    )
    assert error_of("train", "--from", "garden", "--model", "resnet18").startswith(
        "--model resnet18: runs/garden is a test_resnet, and --from continues with its network."
    )
    assert error_of("train", "--from", "nothing").startswith("runs/nothing is not a folder")
    Path("photos").rename("elsewhere")
    assert error_of("train", "--from", "garden").endswith(
        "Give their folder: finetune train --from runs/garden PHOTOS"
    )


def test_a_missing_tracker_is_one_line_before_anything_is_done(
    error_of: Callable[..., str],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos({"ant": 8, "bee": 8})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert error_of("train", "--track", "tensorboard", "--device", "cpu") == (
        "--track tensorboard needs the package 'tensorboard'. "
        "Install it with: pip install 'finetune-photos[tensorboard]'"
    )
    assert not Path("runs").exists()

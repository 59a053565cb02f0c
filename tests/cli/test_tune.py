from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from finetune.cli.console import output


@pytest.fixture
def flags(tiny_settings: dict[str, object]) -> list[str]:
    words = []
    for name in ("model", "weights", "size", "device", "epochs"):
        words += [f"--{name}", str(tiny_settings[name])]
    return [*words, "--views", "1"]


@pytest.fixture
def photos(
    make_photos: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_photos({"ant": 12, "bee": 12})


def test_train_reproduces_the_best_settings_of_tune(
    run: Callable[..., Result],
    photos: Path,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output.stdout, "width", 50)
    shown = run("tune", photos, *flags, "--trials", "4", "--quiet", "--no-final").stdout
    folder = tmp_path / "runs" / "tune-photos"
    assert {path.name for path in folder.iterdir()} == {
        "best.toml",
        "study.sqlite3",
        "trials",
        "tune.html",
    }
    words = " ".join(shown.split())
    assert words.startswith("trial right log loss time settings ")
    assert "Right: share of the validation photos." in words
    assert "Best settings: runs/tune-photos/best.toml" in words
    assert words.endswith(f"Next: finetune train {photos} --config runs/tune-photos/best.toml")
    table = [line for line in shown.splitlines() if not line.startswith(("Next", "Best", "Page"))]
    assert max(map(len, table)) <= 50
    trained = run("train", photos, "--config", folder / "best.toml", "--name", "r", "--json")
    best = json.loads(run("tune", photos, *flags, "--trials", "1", "--no-final", "--json").stdout)
    first = best["trials"][best["best"][0]]
    assert json.loads(trained.stdout)["metrics"]["validation"]["top1"] == first["score"]


def test_the_final_model_is_evaluated_on_test(
    run: Callable[..., Result], photos: Path, flags: list[str]
) -> None:
    shown = " ".join(run("tune", photos, *flags, "--trials", "1", "--quiet").stdout.split())
    assert "Test photos, which no trial used: " in shown
    assert "The model is in runs/tune-photos-best" in shown
    assert shown.endswith("Next: finetune predict photo.jpg")


def test_without_optuna_the_error_names_the_package_to_install(
    error_of: Callable[..., str], photos: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert error_of("tune", photos, *flags) == (
        "A hyperparameter search needs the package 'optuna'. "
        "Install it with: pip install 'finetune-photos[tune]'"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--models", "a,b"],
            "--models lists choices and --model sets one; give only one of the two.",
        ),
        (["--trials", "0"], "--trials 0 must be at least 1."),
        (["--model-arg", "x"], "--model-arg x is not NAME=VALUE, such as widths=16,32."),
    ],
)
def test_invalid_searches_are_refused(
    error_of: Callable[..., str], photos: Path, flags: list[str], words: list[str], message: str
) -> None:
    assert error_of("tune", photos, *flags, *words) == message

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from finetune.cli.console import output


@pytest.fixture
def flags(flags: list[str]) -> list[str]:
    return [*flags, "--mode", "head"]


def test_folds_have_one_table_and_both_intervals(
    run: Callable[..., Result],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = make_photos({"ant": 8, "カワセミ": 8})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output.stdout, "width", 80)
    shown = run("train", photos, *flags, "--folds", "2", "--name", "f", "--quiet").stdout
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    assert words.startswith("part right accuracy ")
    assert re.search(r" fold 1 \d of 8 ", words)
    assert re.search(r" fold 2 \d of 8 ", words)
    assert re.search(r" all folds \d+ of 16 ", words)
    assert "Mean of the 2 folds: " in words
    assert "Student's t interval of the mean (95 %): " in words
    assert "(Bengio & Grandvalet 2004)" in words
    assert "All 16 held-out photos: " in words
    assert "Wilson's interval (95 %): " in words
    assert "カワセミ 8 " in words
    assert words.endswith("the final model is in runs/f Next: finetune predict photo.jpg")


def test_folds_as_json_and_without_a_final_model(
    run: Callable[..., Result],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = make_photos({"ant": 8, "bee": 8})
    monkeypatch.chdir(tmp_path)
    done = run("train", photos, *flags, "--folds", "2", "--no-final", "--name", "f", "--json")
    literal = json.loads(done.stdout)
    assert literal["run"] == "runs/f"
    assert literal["plan"] == {"folds": 2, "final": False, "keep_models": False}
    assert literal["pooled"]["photos"] == 16
    assert len(literal["figures"]["interval"]) == 2
    assert not (tmp_path / "runs" / "f" / "model.safetensors").exists()
    again = run("train", "--resume", "runs/f", code=1)
    assert "runs/f is finished; there is nothing to resume." in again.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "1"], "--folds 1 must be at least 2."),
        (["--folds", "3", "--from", "x"], "--folds starts a new training; leave out --from."),
    ],
)
def test_folds_that_cannot_be_made(
    error_of: Callable[..., str],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    photos = make_photos({"ant": 4, "bee": 4})
    monkeypatch.chdir(tmp_path)
    assert error_of("train", photos, *words) == message
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())

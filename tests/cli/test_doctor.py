from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune.cli import app


def test_doctor_trains_and_predicts() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["self_test"]["error"] is None
    steps = ["import torch", "draw photos", "find subjects", "train", "predict"]
    assert list(found["self_test"]["seconds"]) == steps


def test_a_failed_self_test_is_an_error_without_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "birds" / "robin.jpg"))

    monkeypatch.setattr("finetune.demo_data.draw_collection", fail)
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "caches"))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "Self-test  failed: import torch" in done.stdout
    assert "PROBLEM    The self-test failed. OSError: [Errno 28]" in done.stdout
    assert "FINETUNE_CACHE=.../caches" in done.stdout
    assert str(tmp_path) not in done.output


def test_doctor_without_self_test_prints_a_line_per_fact() -> None:
    done = CliRunner().invoke(app, ["doctor", "--no-self-test"])
    assert done.exit_code == 0
    assert "Self-test" not in done.stdout
    for word in ("Python", "Devices", "Cores", "Memory", "Free disk", "Fonts", "Weights"):
        assert f"\n{word} " in done.stdout

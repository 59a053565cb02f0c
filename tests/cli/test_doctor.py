from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune.cli import app
from finetune.diagnostics import self_test


def test_doctor_trains_and_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.diagnostics.diagnosis.LIMIT_SECONDS", 250.0)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["self_test"]["error"] is None
    assert not found["self_test"]["stopped"]
    steps = ["import torch", "draw photos", "find subjects", "train", "predict"]
    assert list(found["self_test"]["seconds"]) == steps


def test_a_self_test_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = 'print(\'{"seconds": {"import torch": 0.5}}\', flush=True); import time; time.sleep(999)'
    monkeypatch.setattr(self_test, "worker_command", lambda _: [sys.executable, "-c", slow])
    monkeypatch.setattr("finetune.diagnostics.diagnosis.LIMIT_SECONDS", 3.0)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "Self-test  stopped after: import torch 0.5 s" in done.stdout
    assert "PROBLEM    The self-test was stopped after 3 s; no step had failed." in done.stdout


def test_a_crash_in_the_self_test_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = 'print(\'{"seconds": {"import torch": 0.5}}\', flush=True); import os; os._exit(42)'
    monkeypatch.setattr(self_test, "worker_command", lambda _: [sys.executable, "-c", crash])
    monkeypatch.setattr("finetune.diagnostics.diagnosis.LIMIT_SECONDS", 250.0)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "The process crashed after “import torch” with exit code 42." in done.stdout


def test_a_failed_self_test_is_an_error_without_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
        "import finetune.demo_data\n"
        "def fail(folder, **_): raise OSError(28, 'No space left on device', str(folder))\n"
        "finetune.demo_data.draw_collection = fail\n"
        "from finetune.diagnostics.self_test import main; main()"
    )
    command = [sys.executable, "-c", code, json.dumps(sys.path)]
    monkeypatch.setattr(self_test, "worker_command", lambda _: command)
    monkeypatch.setattr("finetune.diagnostics.diagnosis.LIMIT_SECONDS", 250.0)
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "caches"))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "Self-test  failed after: import torch" in done.stdout
    assert "PROBLEM    The self-test failed. OSError: [Errno 28]" in done.stdout
    assert "FINETUNE_CACHE=.../caches" in done.stdout
    assert str(tmp_path) not in done.output
    assert "finetune-doctor-" not in done.output


def test_doctor_without_self_test_prints_a_line_per_fact() -> None:
    done = CliRunner().invoke(app, ["doctor", "--no-self-test"])
    assert done.exit_code == 0
    assert "Self-test" not in done.stdout
    for word in ("Python", "Devices", "Cores", "Memory", "Free disk", "Fonts", "Weights"):
        assert f"\n{word} " in done.stdout

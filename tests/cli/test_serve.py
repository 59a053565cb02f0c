from __future__ import annotations

import builtins
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from finetune.cli import ErrorBoundary
from finetune.cli.serve import register

app = typer.Typer(cls=ErrorBoundary)
register(app)


@app.callback()
def _several() -> None:
    """Keeps the command's name on the command line."""


def error_of(*words: str) -> str:
    result = CliRunner().invoke(app, ["serve", *words])
    assert result.exit_code == 1, result.output + repr(result.exception)
    return " ".join(result.stderr.split()).partition("Error: ")[2]


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "prometheus_client":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert error_of() == (
        "finetune serve needs the package 'prometheus_client'. "
        "Install it with: pip install 'finetune-photos[web]'"
    )


def test_a_host_that_is_not_here_is_refused() -> None:
    assert error_of("--host", "203.0.113.7").startswith("--port 87")


def test_a_run_that_is_not_there_is_refused(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert error_of("none", "--port", "0") == (
        "runs/none is not a folder, so it is no run. See your runs with: ls runs"
    )

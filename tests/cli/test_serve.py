from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_a_host_that_is_not_here_is_refused(error_of: Callable[..., str]) -> None:
    assert error_of("serve", "--host", "203.0.113.7").startswith("--port 87")


def test_a_run_that_is_not_there_is_refused(
    error_of: Callable[..., str], tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert error_of("serve", "none", "--port", "0") == (
        "runs/none is not a folder, so it is not a run. See your runs with: ls runs"
    )

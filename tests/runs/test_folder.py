from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from finetune.errors import RunError
from finetune.runs.folder import create_run, find_run, open_run


def finished(runs: Path, name: str, age: int) -> Path:
    path = runs / name
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"x")
    os.utime(path / "model.safetensors", ns=(age, age))
    return path


def test_the_newest_finished_run_is_found(tmp_path: Path) -> None:
    finished(tmp_path, "old", 10**18)
    newest = finished(tmp_path, "a-new-one", 2 * 10**18)
    (tmp_path / "running").mkdir()
    assert find_run(None, tmp_path).path == newest


def test_a_run_is_found_by_name_or_by_path(tmp_path: Path) -> None:
    path = finished(tmp_path / "runs", "garden", 1)
    assert find_run("garden", tmp_path / "runs").path == path
    assert find_run(str(path), tmp_path / "nowhere").path == path


def test_without_a_run_the_error_has_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        find_run(None, tmp_path / "runs")
    assert str(error.value) == (
        f"There is no finished run in {tmp_path / 'runs'}. Train one with: finetune train PHOTOS, "
        "or name one with --run."
    )


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        open_run(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} is not a run: it has no config.json. Make one with: finetune train PHOTOS"
    )
    with pytest.raises(RunError, match="is not a folder, so it is not a run"):
        open_run(tmp_path / "none")


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    run = open_run(finished(tmp_path, "r", 1))
    with pytest.raises(RunError, match=r"has no labels\.json: it is not a finished run"):
        run.read(run.labels_file)
    run.labels_file.write_text("[half")
    with pytest.raises(RunError, match=r"labels\.json cannot be read"):
        run.read(run.labels_file)


def test_names_are_numbered_and_never_taken_twice(tmp_path: Path) -> None:
    names = [create_run(None, "2026/day", tmp_path).name for _ in range(3)]
    assert names == ["2026_day", "2026_day-2", "2026_day-3"]
    create_run("mine", "x", tmp_path)
    with pytest.raises(RunError, match=r"--name mine: .* exists, and a run is never overwritten"):
        create_run("mine", "x", tmp_path)
    by_path = create_run(str(tmp_path / "deep" / "run"), "x", Path("ignored"))
    assert by_path.path == tmp_path / "deep" / "run"


def test_a_log_line_cut_off_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    run = create_run("r", "x", tmp_path)
    run.log({"event": "epoch", "epoch": 1})
    with run.log_file.open("a") as file:
        file.write('{"event": "ep')
    assert list(run.read_log()) == [{"event": "epoch", "epoch": 1}]
    assert json.loads(run.log_file.read_text().splitlines()[0])["epoch"] == 1

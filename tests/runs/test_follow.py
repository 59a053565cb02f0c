from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import RunError
from finetune.runs.folder import RunFolder
from finetune.runs.follow import Progress, follow_run, newest_run, read_progress


def make_run(path: Path, *, epochs: int = 4, done: int = 0, finished: bool = False) -> RunFolder:
    """Creates the run folder of a training after `done` epochs of 10 s each."""
    path.mkdir(parents=True)
    run = RunFolder(path)
    training = {"epochs": epochs, "mode": "full", "batch_size": 8, "lr": 0.1, "weight_decay": 0.0}
    settings = {
        "collection": {},
        "pixels": {},
        "augmentation": {},
        "training": training,
        "machine": {"seed": 0},
    }
    content = {"photos": "photos", "model": "resnet18", "settings": settings}
    write(run, {**content, "finished": finished})
    for epoch in range(1, done + 1):
        run.log(row(epoch, epochs))
    return run


def write(run: RunFolder, content: dict[str, Any]) -> None:
    run.config_file.write_text(json.dumps(content))


def row(epoch: int, epochs: int) -> dict[str, Any]:
    return {
        "event": "epoch",
        "epoch": epoch,
        "epochs": epochs,
        "step": epoch * 5,
        "train_loss": 1.0 / epoch,
        "train_accuracy": 0.5,
        "validation_loss": 1.2 / epoch,
        "validation_accuracy": 0.75,
        "lr": 0.001,
        "images_per_second": 123.0,
        "seconds": 10.0,
        "best": True,
    }


def test_state_follows_the_lock_and_the_config(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", done=1)
    now = run.log_file.stat().st_mtime
    assert read_progress(run, now=now).state == "interrupted"
    with run.held():
        progress = read_progress(run, now=now + 4)
        assert progress.state == "running"
        # Three epochs of 10 s are left, less the 4 s since the last one.
        assert progress.seconds_left == pytest.approx(26)
        assert (progress.model, progress.mode, progress.epochs) == ("resnet18", "full", 4)
        assert read_progress(run, now=now + 1000).seconds_left == 0
    write(run, {**json.loads(run.config_file.read_text()), "finished": True})
    progress = read_progress(run, now=now)
    assert progress.state == "finished"
    assert progress.seconds_left is None


def test_a_training_that_has_just_started_is_running(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    made = run.config_file.stat().st_mtime
    assert read_progress(run, now=made + 1).state == "running"
    assert read_progress(run, now=made + 1).seconds_left is None
    assert read_progress(run, now=made + 600).state == "interrupted"


def test_a_run_is_locked_by_one_process_and_unlocked_when_that_is_killed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", done=1)
    code = (
        "import sys; from pathlib import Path; from finetune.runs.folder import RunFolder\n"
        f"with RunFolder(Path({str(run.path)!r})).held():\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert run.is_held
        with pytest.raises(RunError) as caught, run.held():
            pass
        assert str(caught.value) == (
            f"{run.path} is being trained by another process. "
            f"Watch it with: finetune watch {run.path}"
        )
        process.kill()
        process.wait()
    assert not run.is_held
    with run.held():
        pass


def test_following_ends_with_the_training(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", done=1)
    seen: list[tuple[str, int]] = []
    waits = 0

    def wait(seconds: float) -> None:
        nonlocal waits
        waits += 1
        run.log(row(waits + 1, 4))
        if waits == 3:
            write(run, {**json.loads(run.config_file.read_text()), "finished": True})

    with run.held():
        for progress in follow_run(run, wait=wait):
            assert isinstance(progress, Progress)
            seen.append((progress.state, len(progress.rows)))
    assert seen == [("running", 1), ("running", 2), ("running", 3), ("finished", 4)]


def test_an_incomplete_log_line_is_skipped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", done=2)
    with run.log_file.open("a") as file:
        file.write('{"event": "epoch", "epo')
    assert len(read_progress(run).rows) == 2


def test_the_newest_run_is_the_one_modified_last(tmp_path: Path) -> None:
    old, new = make_run(tmp_path / "a", done=1), make_run(tmp_path / "b")
    os.utime(old.config_file, (100, 100))
    os.utime(new.config_file, (200, 200))
    os.utime(old.log_file, (300, 300))
    assert newest_run(tmp_path) == old
    os.utime(new.config_file, (400, 400))
    assert newest_run(tmp_path) == new
    with pytest.raises(RunError) as caught:
        newest_run(tmp_path / "none")
    assert str(caught.value) == (
        f"There is no run in {tmp_path / 'none'}. Start one with: finetune train PHOTOS, or name "
        "one: finetune watch RUN"
    )

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import Result

from finetune.cli.console import output
from finetune.cli.watch import draw
from finetune.config_io import resolve
from finetune.errors import RunError
from finetune.runs import follow
from finetune.runs.folder import RunFolder
from finetune.runs.follow import Progress
from finetune.training.events import EpochDone, Event
from finetune.training.train import train


def rows(count: int) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "epoch": k,
            "epochs": 40,
            "train_loss": 2 / k,
            "train_accuracy": 1 - 1 / (k + 1),
            "validation_loss": 2.5 / k,
            "validation_accuracy": 1 - 1 / (k + 2),
            "lr": 0.001,
            "images_per_second": 1234.5,
            "seconds": 61.0,
            "best": k % 2 == 0,
        }
        for k in range(1, count + 1)
    )


def drawn(count: int, width: int, height: int) -> str:
    progress = Progress(
        run=RunFolder(Path("runs/a name that is rather long for a run")),
        state="running",
        model="mobilenetv2_100",
        mode="full",
        epochs=40,
        rows=rows(count),
        seconds_left=754.0,
    )
    console = Console(width=width, height=height, color_system=None, force_terminal=True)
    with console.capture() as capture:
        console.print(draw(progress, width, height, notes=["note 7"]))
    return capture.get()


@pytest.mark.parametrize("width", [40, 50, 80, 160])
@pytest.mark.parametrize("count", [0, 1, 7, 400])
def test_the_live_view_fits_the_terminal(width: int, count: int) -> None:
    lines = drawn(count, width, 24).splitlines()
    assert len(lines) <= 24
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    assert "note 7" in text
    assert "running" in text or width == 40
    if count:
        assert f"epoch {count} of 40" in text
        assert f"{2.5 / count:.3f}" in text
    else:
        assert "No epoch has finished yet." in text


def test_a_wide_live_view_shows_every_figure_of_an_epoch() -> None:
    text = drawn(7, 100, 30)
    last = next(line for line in text.splitlines() if line.strip().startswith("7 "))
    assert re.split(" +", last.strip()) == [
        "7",
        "0.286",
        "87.5\u202f%",
        "0.357",
        "88.9\u202f%",
        "1,234",
        "1:01",
        "min",
    ]
    assert "12:34 min left" in text


def test_the_live_view_is_drawn_in_a_terminal(
    run: Callable[..., Result], finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, height=24, force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "stdout", console)
    run("watch", "garden")
    shown = file.getvalue()
    assert "garden  finished  test_resnet, " in shown
    assert "epoch 3 of 3" in shown
    assert shown.rstrip().endswith(f"Next: finetune report {Path('runs') / 'garden'}")


@pytest.fixture(scope="module")
def trained(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs."""
    return train_tiny(tmp_path_factory.mktemp("watch"), epochs=3, mode="full")


@pytest.fixture
def finished(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of the run `trained` in ./runs/garden."""
    monkeypatch.chdir(tmp_path)
    return RunFolder(shutil.copytree(trained, tmp_path / "runs" / "garden"))


def test_a_finished_run_is_shown_once(run: Callable[..., Result], finished: RunFolder) -> None:
    for words in (("watch",), ("watch", "garden"), ("watch", "runs/garden", "--no-evaluate")):
        lines = run(*words).stdout.splitlines()
        assert [line.split("  ")[0] for line in lines[:3]] == [f"epoch {k}/3" for k in (1, 2, 3)]
        assert lines[3].startswith("validation: ")
        assert lines[-1] == f"Next: finetune report {Path('runs') / 'garden'}"
    documents = [json.loads(line) for line in run("watch", "--json").stdout.splitlines()]
    assert [d["epoch"] for d in documents] == [1, 2, 3]
    assert documents[0] == {**next(finished.read_log()), "state": "finished"}


def test_a_running_training_is_followed_and_its_best_epoch_evaluated(
    run: Callable[..., Result],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    tiny_settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The training itself starts watch at the end of its second epoch."""
    photos = make_photos({"a": 8, "b": 8})
    monkeypatch.chdir(tmp_path)
    shown: list[dict[str, Any]] = []

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    def watch(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            with monkeypatch.context() as patch:
                patch.setattr(follow.follow_run, "__kwdefaults__", {"wait": interrupt})
                result = run("watch", "--json", "--device", "cpu")
            shown.extend(json.loads(line) for line in result.stdout.splitlines())
            assert "is still training. See it with: finetune watch" in " ".join(
                result.stderr.split()
            )

    result = train(photos, resolve({}, {**tiny_settings, "mode": "full"}), run="r", callback=watch)
    assert not result.interrupted
    assert [line["epoch"] for line in shown if line["event"] == "epoch"] == [1, 2]
    assert {line["state"] for line in shown if line["event"] == "epoch"} == {"running"}
    (evaluation,) = [line for line in shown if line["event"] == "evaluation"]
    assert evaluation["epoch"] in (1, 2)
    assert set(evaluation["metrics"]) == {"validation", "test"}


def test_an_interrupted_run_names_the_command_that_resumes_it(
    run: Callable[..., Result], finished: RunFolder
) -> None:
    content = json.loads(finished.config_file.read_text())
    finished.config_file.write_text(json.dumps(content | {"finished": False}))
    result = run("watch")
    assert "The training was interrupted. Next: finetune train --resume" in " ".join(
        result.stderr.split()
    )


def test_watch_without_any_run_is_an_error(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("watch", code=1)
    assert f"There is no run in {tmp_path / 'runs'}" in " ".join(result.stderr.split())


def test_a_failed_evaluation_ends_the_evaluations_alone(
    run: Callable[..., Result], finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: object, **options: object) -> None:
        raise RunError("the checkpoint is damaged")

    monkeypatch.setattr(follow, "open_best_epoch", fail)
    content = json.loads(finished.config_file.read_text())
    finished.config_file.write_text(json.dumps(content | {"finished": False}))
    waits = 0

    def finish(seconds: float) -> None:
        nonlocal waits
        waits += 1
        finished.config_file.write_text(json.dumps(content))

    monkeypatch.setattr(follow.follow_run, "__kwdefaults__", {"wait": finish})
    with finished.held():
        result = run("watch")
    assert waits == 1
    assert "Evaluation failed: the checkpoint is damaged" in " ".join(result.stderr.split())
    assert "Next: finetune report" in result.stdout

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import Result

from finetune.cli.watch_view import BLOCKS, Room, draw, sparkline
from finetune.config_io import resolve
from finetune.runs import follow
from finetune.runs import progress as progress_module
from finetune.runs.folder import RunFolder
from finetune.runs.progress import Progress
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


def drawn(count: int, width: int, height: int, **changes: Any) -> str:
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
        console.print(draw(progress, Room(width=width, height=height, **changes), notes=["note 7"]))
    return capture.get()


@pytest.mark.parametrize("width", [40, 50, 80, 160])
@pytest.mark.parametrize("count", [0, 1, 7, 400])
def test_a_drawing_fits_its_room(width: int, count: int) -> None:
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
        assert "No epoch is done yet." in text


def test_a_wide_drawing_says_all_of_the_last_epoch() -> None:
    text = drawn(7, 100, 30)
    last = next(line for line in text.splitlines() if line.strip().startswith("7 "))
    assert last.split() == ["7", "0.286", "87.5%", "0.357", "88.9%", "1,234", "1:01", "min"]
    assert "12:34 min left" in text
    assert "1,234 photos/s" in text


def test_ascii_is_all_that_an_old_terminal_gets() -> None:
    assert drawn(9, 70, 24, ascii=True).isascii()


def test_a_sparkline_averages_what_does_not_fit() -> None:
    assert sparkline([0, 1, 2, 3], 2, low=0, high=3, marks="0123") == "02"
    assert sparkline([1.0] * 5, 9, low=1, high=1, marks=BLOCKS) == BLOCKS[0] * 5
    assert sparkline(list(range(100)), 8, low=0, high=99, marks=BLOCKS) == BLOCKS


@pytest.fixture
def finished(
    make_photos: Callable[..., Path],
    tmp_path: Path,
    tiny_settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> RunFolder:
    photos = make_photos({"a": 8, "b": 8})
    monkeypatch.chdir(tmp_path)
    return train(photos, resolve({}, tiny_settings), run="garden").run


def test_a_finished_run_is_shown_once(run: Callable[..., Result], finished: RunFolder) -> None:
    for words in (("watch",), ("watch", "garden"), ("watch", "runs/garden", "--no-evaluate")):
        lines = run(*words).stdout.splitlines()
        assert [line.split("  ")[0] for line in lines[:3]] == [f"epoch {k}/3" for k in (1, 2, 3)]
        assert lines[3].startswith("validation: ")
        assert lines[-1] == f"Next: finetune report {Path('runs') / 'garden'}"
    documents = [json.loads(line) for line in run("watch", "--json").stdout.splitlines()]
    assert [d["epoch"] for d in documents] == [1, 2, 3]
    assert documents[0] == {**next(finished.read_log()), "state": "finished"}


@pytest.mark.parametrize("mode", ["head", "full"])
def test_a_running_training_is_followed_and_its_best_epochs_evaluated(
    run: Callable[..., Result],
    mode: str,
    make_photos: Callable[..., Path],
    tmp_path: Path,
    tiny_settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The training itself calls the watcher, at the end of its second epoch."""
    photos = make_photos({"a": 8, "b": 8})
    monkeypatch.chdir(tmp_path)
    shown: list[dict[str, Any]] = []
    evaluated: list[int] = []
    real = follow.evaluate_newest

    def counted(run: RunFolder, request: Any, *, seen: int) -> Any:
        found = real(run, request, seen=seen)
        evaluated.extend([found[0]] if found else [])
        return found

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    def watch(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            monkeypatch.setattr(follow, "evaluate_newest", counted)
            monkeypatch.setattr(progress_module.time, "sleep", interrupt)
            monkeypatch.setattr(
                progress_module.follow_progress, "__kwdefaults__", {"wait": interrupt}
            )
            result = run("watch", "--json", "--device", "cpu")
            shown.extend(json.loads(line) for line in result.stdout.splitlines())
            assert "goes on training" in " ".join(result.stderr.split())
            monkeypatch.undo()
            monkeypatch.chdir(tmp_path)

    result = train(photos, resolve({}, {**tiny_settings, "mode": mode}), run="r", callback=watch)
    assert not result.interrupted
    assert [line["epoch"] for line in shown if line["event"] == "epoch"] == [1, 2]
    assert {line["state"] for line in shown if line["event"] == "epoch"} == {"running"}
    (evaluation,) = [line for line in shown if line["event"] == "evaluation"]
    assert [evaluation["epoch"]] == evaluated
    assert evaluated[0] in (1, 2)
    assert set(evaluation["metrics"]) == {"validation", "test"}


def test_an_interrupted_run_says_how_it_goes_on(
    run: Callable[..., Result], finished: RunFolder
) -> None:
    content = json.loads(finished.config_file.read_text())
    finished.config_file.write_text(json.dumps(content | {"finished": False}))
    result = run("watch")
    assert "It was interrupted. Go on with: finetune train --resume" in " ".join(
        result.stderr.split()
    )


def test_without_a_run_it_says_so(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("watch", code=1)
    assert f"There is no run in {tmp_path / 'runs'}" in " ".join(result.stderr.split())

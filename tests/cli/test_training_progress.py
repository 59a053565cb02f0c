from __future__ import annotations

import dataclasses
import io
import re

import pytest
from rich.console import Console

from finetune.cli.console import Output
from finetune.cli.training_progress import TrainingView, step_figures
from finetune.training import device
from finetune.training.device import Memory
from finetune.training.events import EpochDone, StepDone

STEP = StepDone(
    epoch=2,
    epochs=12,
    step=345,
    steps=1200,
    loss=0.654,
    accuracy=0.876,
    lr=0.00123,
    images_per_second=1234.0,
    seconds_per_step=0.32,
    seconds_left=192.0,
)


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    used = Memory(where="GPU", used_bytes=3_210_000_000)
    monkeypatch.setattr(device, "memory_in_use", lambda: used)


def test_a_wide_bar_shows_every_figure() -> None:
    assert step_figures(STEP, 200) == (
        "loss 0.654  right 87.6\u202f%  3:12 min left  1,234 photos/s  3.2 GB GPU  lr 1.2e-03"
    )


def test_lines_on_steps_come_at_intervals_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("finetune.cli.training_progress.time.monotonic", lambda: now[0])
    file = io.StringIO()
    output = dataclasses.replace(Output(), stderr=Console(file=file, width=200))
    with TrainingView(output, log_seconds=10) as view:
        for now[0] in (1.0, 9.9, 10.0, 19.0, 20.5):
            view(STEP)
    line = "step 345 / 1,200  loss 0.654  1,234 photos/s  0.32 s/batch  lr 1.2e-03  3:12 min left\n"
    assert file.getvalue() == 2 * line
    with TrainingView(output, log_seconds=0) as view:
        now[0] = 1e6
        view(STEP)
    assert file.getvalue() == 2 * line


@pytest.mark.parametrize(
    ("room", "shown"),
    [
        (10, ""),
        (15, "3:12 min left"),
        (30, "loss 0.654  3:12 min left"),
        (45, "loss 0.654  right 87.6\u202f%  3:12 min left"),
        (62, "loss 0.654  right 87.6\u202f%  3:12 min left  1,234 photos/s"),
    ],
)
def test_a_narrow_bar_shows_the_most_important_figures(room: int, shown: str) -> None:
    assert step_figures(STEP, room) == shown
    assert len(shown) <= room


@pytest.mark.parametrize("width", [40, 50, 80, 120, 200])
def test_the_bar_fits_on_one_line(width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None, height=20)
    view = TrainingView(dataclasses.replace(Output(), stderr=console))
    with view:
        view(STEP)
        view._bars.refresh()
        (line,) = console.render_lines(view._bars.get_renderable())
    text = "".join(segment.text for segment in line)
    assert "Epoch 2/12" in text
    assert len(text) <= width
    if width >= 80:
        assert "345/1200" in text
        assert "3:12 min left" in text
        assert "0.654" in text
    if width >= 120:
        assert "3.2 GB GPU" in text


def test_an_epoch_is_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    console = Console(file=file, width=90, force_terminal=False)
    with TrainingView(dataclasses.replace(Output(), stderr=console)) as view:
        view(STEP)
        view(
            EpochDone(
                epoch=2,
                epochs=12,
                step=400,
                train_loss=0.5,
                train_accuracy=0.875,
                validation_loss=0.25,
                validation_accuracy=1.0,
                lr=0.1,
                images_per_second=100.0,
                seconds=65.0,
                best=True,
            )
        )
    lines = file.getvalue().splitlines()
    assert len(lines) == 2
    assert re.split(" +", lines[1].strip()) == (
        ["2", "/", "12", "0.500", "87.5\u202f%", "0.250", "100\u202f%", "1:05", "min", "best"]
    )

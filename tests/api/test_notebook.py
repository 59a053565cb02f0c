from __future__ import annotations

import html
import sys
import time
import types
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.api.notebook import (
    NotebookView,
    in_notebook,
    link_to,
    result_html,
    training_html,
)
from finetune.evaluation.confusion import write_confusion_csv
from finetune.runs.folder import RunFolder
from finetune.training.events import EpochDone, Note, Progressed, StepDone


class Handle:
    """In the place of IPython's display handle."""

    def __init__(self, pages: list[str]) -> None:
        self.pages = pages

    def update(self, page: str) -> None:
        self.pages.append(page)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pages that a stand-in for IPython's display shows, one an update."""
    shown: list[str] = []

    def display(page: str, *, display_id: bool) -> Handle:
        assert display_id
        assert not shown
        shown.append(page)
        return Handle(shown)

    package = types.ModuleType("IPython")
    module = types.ModuleType("IPython.display")
    module.HTML = str  # type: ignore[attr-defined]
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def epoch(number: int, of: int = 3, **changes: Any) -> EpochDone:
    values = {
        "epoch": number,
        "epochs": of,
        "step": number * 5,
        "train_loss": 1 / number,
        "train_accuracy": 0.5,
        "validation_loss": 1.5 / number,
        "validation_accuracy": 0.25,
        "lr": 0.1,
        "images_per_second": 10.0,
        "seconds": 1.5,
        "best": True,
    }
    return EpochDone(**{**values, **changes})


def step(number: int) -> StepDone:
    return StepDone(
        epoch=1,
        epochs=3,
        step=number,
        steps=15,
        loss=0.7,
        accuracy=0.5,
        lr=0.1,
        images_per_second=1234.0,
        seconds_per_step=0.32,
        seconds_left=12.0,
    )


def test_a_training_is_one_output_that_is_kept_up_to_date(
    pages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    view = NotebookView()
    view(Note(text="Split: <56> train"))
    view(Progressed(stage="Features", done=3, total=12))
    view(step(3))
    view(epoch(1))
    view(epoch(2))
    view.finish("Done in 3 s")
    assert len(pages) == 6
    assert "Split: &lt;56&gt; train" in pages[0]
    assert 'value="0.2500"' in pages[1]
    assert "Features: 3 of 12" in pages[1]
    assert "Epoch 1 of 3: loss 0.700, 50.0\u202f% right, 1,234 photos/s, 12 s left" in pages[2]
    assert "1 / 3" in pages[3]
    assert "Epoch 2" in pages[3]
    assert "<b>" not in pages[3]
    assert "Done in 3 s" in pages[5]


def test_updates_are_rare_and_the_last_is_never_lost(
    pages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    view = NotebookView()
    for number in range(1, 15):
        view(step(number))
    assert len(pages) == 1
    view(epoch(1))
    view(epoch(2))
    assert len(pages) == 1
    view(epoch(3))
    assert len(pages) == 2
    view.finish("Interrupted")
    assert "3 / 3" in pages[2]
    assert "Interrupted" in pages[2]


def test_curves_end_where_the_numbers_do() -> None:
    rows = [vars(epoch(n, 4)) for n in (1, 2, 4)]
    page = ET.fromstring(training_html(rows, state="x", done=1))
    loss, right = page.findall(".//svg")
    lines = [
        [tuple(map(float, p.split(","))) for p in line.get("points", "").split()]
        for line in loss.findall("polyline")
    ]
    ys = {name: [y for _, y in points] for name, points in zip("tv", lines, strict=True)}
    values = {"t": [1, 1 / 2, 1 / 4], "v": [1.5, 0.75, 0.375]}
    # One straight line takes every value to its height.
    everything = [(v, y) for name in "tv" for v, y in zip(values[name], ys[name], strict=True)]
    slope, start = np.polyfit([v for v, _ in everything], [y for _, y in everything], 1)
    assert slope < 0
    for value, y in everything:
        assert slope * value + start == pytest.approx(y, abs=0.06)
    assert [x for x, _ in lines[0]] == [x for x, _ in lines[1]]
    assert right.get("aria-label") == "right by epoch"


def test_own_metrics_have_a_column_and_only_the_last_epochs_a_row() -> None:
    rows = [vars(epoch(n, 30, metrics={"<f1>": 0.12345})) for n in range(1, 31)]
    text = training_html(rows, state="x", done=0.5, rows=8)
    assert "&lt;f1&gt;" in text
    assert "0.1235" in text
    assert text.count("0.1235") == 8
    assert "22 / 30" not in text
    assert "23 / 30" in text


def test_a_loss_that_is_not_finite_is_drawn_at_the_edge() -> None:
    rows = [vars(epoch(1)), vars(epoch(2, train_loss=float("inf")))]
    page = ET.fromstring(training_html(rows, state="x", done=1))
    assert "nan" not in ET.tostring(page, encoding="unicode").replace("inf", "")


@pytest.mark.parametrize("count", [2, 40])
def test_a_result_shows_its_figures_and_its_mistakes(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs" / "gar<den>")
    run.path.mkdir(parents=True)
    labels = ["<b>ant</b>", *(f"label {k}" for k in range(1, count))]
    matrix = np.diag(np.full(count, 5))
    matrix[0, 1] = 3
    write_confusion_csv(run.confusion_file, matrix, labels)
    metrics = {
        "validation": {"photos": 10, "top1": 0.5, "top1_interval": [0.2, 0.8], "log_loss": 0.123},
        "test": {"photos": 1234, "top1": 0.875, "top1_interval": [0.8, 0.9], "log_loss": 0.5},
    }
    text = result_html(run, metrics, seconds=61.2)
    plain = html.unescape(text)
    assert "<b>ant" not in text
    assert "gar&lt;den&gt;" in text
    for shown in ("1,234", "87.5\u202f%", "80.0–90.0\u202f%", "0.123", "61 s", "result.report()"):
        assert shown in plain
    assert "balanced" not in plain
    if count == 2:
        table = ET.fromstring(text).findall(".//table")[1]
        assert [[cell.text for cell in row] for row in table.findall("tr")][1:] == [
            ["<b>ant</b>", "5", "3"],
            ["label 1", None, "5"],
        ]
    else:
        assert "most frequent mistakes: <b>ant</b> mistaken for label 1 (3)" in plain
    (run.path / "report.html").write_text("x")
    assert 'href="runs/gar&lt;den&gt;/report.html"' in result_html(run, metrics, seconds=1)


def test_several_labels_a_photo_show_what_there_is(tmp_path: Path) -> None:
    metrics = {"test": {"photos": 9, "mean_average_precision": 0.75}}
    text = result_html(RunFolder(tmp_path), metrics, seconds=1)
    assert "mAP" in text
    assert "75.0\u202f%" in text
    assert "right" not in (ET.fromstring(text).findall(".//tr")[0][1].text or "")


def test_a_file_elsewhere_is_linked_by_its_whole_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert link_to(tmp_path / "here" / "a b.html") == "a b.html"
    assert link_to(tmp_path / "r.html") == (tmp_path / "r.html").as_uri()


def test_a_notebook_is_a_python_whose_shell_has_a_kernel(
    pages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ipython = sys.modules["IPython"]
    for shell, expected in (
        (None, False),
        (types.SimpleNamespace(), False),
        (types.SimpleNamespace(kernel=object()), True),
    ):
        monkeypatch.setattr(ipython, "get_ipython", lambda shell=shell: shell, raising=False)
        assert in_notebook() is expected
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()

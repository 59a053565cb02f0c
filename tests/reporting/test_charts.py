from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from finetune.reporting import charts
from finetune.reporting.run_record import read_run
from finetune.tasks.multi_label import MultiLabel
from finetune.tasks.single_label import SingleLabel

if TYPE_CHECKING:
    from tests.reporting.conftest import MadeRun


def traces(figure: charts.Figure) -> dict[str, Any]:
    return {trace.get("name", ""): trace for trace in figure["data"]}


def test_text_is_shown_as_it_is() -> None:
    assert charts.chart_text('<a href="x">&\n b</a>') == '&lt;a href="x"&gt;&amp; b&lt;/a&gt;'


def test_learning_curves_hold_every_epoch(small_run: MadeRun) -> None:
    record = read_run(small_run.path)
    figure = charts.loss_curves(record.epochs)
    loss = traces(figure)
    assert loss["train"]["x"] == list(range(1, 13))
    assert loss["validation"]["y"] == [e["validation_loss"] for e in record.epochs]
    assert loss["train"]["line"]["dash"] != loss["validation"]["line"]["dash"]
    json.dumps(figure, allow_nan=False)


def test_an_epoch_without_a_figure_is_left_out_of_its_curve() -> None:
    rows: list[dict[str, Any]] = [
        {"epoch": 1, "train_loss": 2.0},
        {"epoch": 2, "train_loss": None, "validation_loss": 1},
    ]
    loss = traces(charts.loss_curves(rows))
    assert loss["train"]["x"] == [1]
    assert loss["validation"]["x"] == [2]


def test_multi_label_score_is_known_of_validation_photos_only(small_run: MadeRun) -> None:
    epochs = read_run(small_run.path).epochs
    single = charts.score_curves(epochs, SingleLabel())
    assert traces(single).keys() == {"train", "validation"}
    assert single["layout"]["yaxis"]["title"]["text"] == "Accuracy"
    several = charts.score_curves(epochs, MultiLabel())
    assert traces(several).keys() == {"validation"}
    title = "Mean average precision (validation)"
    assert several["layout"]["yaxis"]["title"]["text"] == title


def test_reliability_shows_the_bins_with_photos_before_and_after(small_run: MadeRun) -> None:
    part = read_run(small_run.path).metrics["test"]
    figure = traces(charts.reliability(part))
    filled = [b for b in part["reliability"] if b["photos"]]
    assert figure["after calibration"]["y"] == [b["accuracy"] for b in filled]
    assert sum(figure["photos"]["customdata"]) == part["photos"]
    assert "before calibration" in figure
    assert charts.reliability({})["data"][1]["x"] == [0, 1]


def test_coverage_curve_ends_at_the_plain_accuracy(small_run: MadeRun) -> None:
    record = read_run(small_run.path)
    line = charts.accuracy_by_coverage(record.predictions_of("test"))["data"][0]
    assert line["x"][-1] == 1.0
    assert line["y"][-1] == pytest.approx(record.metrics["test"]["top1"])


def test_a_long_coverage_curve_is_thinned(small_run: MadeRun) -> None:
    many = read_run(small_run.path).predictions_of("test") * 100
    line = charts.accuracy_by_coverage(many)["data"][0]
    assert len(line["x"]) <= charts.POINTS + 2
    assert line["x"][-1] == 1.0


def test_photos_by_label_are_stacked_largest_label_first() -> None:
    figure = charts.photos_by_label(
        {"<b>": {"train": 1, "test": 0}, "wren": {"train": 5, "test": 2}}
    )
    assert figure["layout"]["yaxis"]["ticktext"] == ["wren", "&lt;b&gt;"]
    assert traces(figure)["train"]["x"] == [5, 1]
    assert traces(figure)["test"]["x"] == [2, 0]
    assert "validation" not in traces(figure)


def test_runs_are_told_apart_by_more_than_color(small_run: MadeRun) -> None:
    epochs = read_run(small_run.path).epochs
    figure = charts.overlaid_curves({"a": epochs, "b": epochs})
    assert len({trace["line"]["dash"] for trace in figure["data"]}) == 2

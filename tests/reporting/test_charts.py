from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from finetune.evaluation.intervals import wilson
from finetune.reporting import charts
from finetune.reporting.chart import Chart, Series
from finetune.reporting.run_record import read_run
from finetune.tasks.multi_label import MultiLabel
from finetune.tasks.single_label import SingleLabel

if TYPE_CHECKING:
    from tests.reporting.conftest import MadeRun


def series_of(chart: Chart) -> dict[str, Series]:
    return {series.name: series for series in chart.series}


def test_learning_curves_hold_every_epoch(small_run: MadeRun) -> None:
    record = read_run(small_run.path)
    loss = series_of(charts.loss_curves(record.epochs))
    assert [x for x, _ in loss["train"].points] == list(range(1, 13))
    assert [y for _, y in loss["validation"].points] == [
        e["validation_loss"] for e in record.epochs
    ]
    assert loss["train"].dash != loss["validation"].dash


def test_an_epoch_without_a_figure_is_left_out_of_its_curve() -> None:
    rows: list[dict[str, Any]] = [
        {"epoch": 1, "train_loss": 2.0},
        {"epoch": 2, "train_loss": None, "validation_loss": 1},
    ]
    loss = series_of(charts.loss_curves(rows))
    assert loss["train"].points == [(1, 2.0)]
    assert loss["validation"].points == [(2, 1)]


def test_multi_label_score_is_known_of_validation_photos_only(small_run: MadeRun) -> None:
    epochs = read_run(small_run.path).epochs
    single = charts.score_curves(epochs, SingleLabel())
    assert series_of(single).keys() == {"train", "validation"}
    assert single.y.title == "Accuracy"
    several = charts.score_curves(epochs, MultiLabel())
    assert series_of(several).keys() == {"validation"}
    assert several.y.title == "Mean average precision (validation)"


def test_runs_are_drawn_over_epochs_and_over_the_seconds_that_had_passed() -> None:
    slow = [
        {"epoch": k, "seconds": 50.0, "validation_accuracy": 0.9, "validation_loss": 1 / k}
        for k in (1, 2, 3)
    ]
    quick = [{"epoch": 1, "seconds": 4.0, "validation_accuracy": 0.8, "validation_loss": 0.7}]
    found = charts.run_curves({"slow": slow, "quick": quick})
    assert found.keys() == {"accuracy_epochs", "accuracy_seconds", "loss_epochs", "loss_seconds"}
    lines = series_of(found["loss_seconds"])
    assert lines["slow"].points == [(50, 1), (100, 1 / 2), (150, 1 / 3)]
    assert lines["quick"].points == [(4, 0.7)]
    assert series_of(found["accuracy_epochs"])["quick"].points == [(1, 0.8)]
    assert found["accuracy_epochs"].y.title == "Accuracy (validation)"
    several = charts.run_curves({"slow": slow}, "Mean average precision")
    assert several["accuracy_seconds"].y.title == "Mean average precision (validation)"
    assert (lines["slow"].color, lines["slow"].dash) != (lines["quick"].color, lines["quick"].dash)


def test_the_best_epoch_comes_with_the_time_until_then() -> None:
    epochs = [
        {"epoch": k, "seconds": 52.3248, "validation_accuracy": 0.9958 if k == 314 else 0.99}
        for k in range(1, 501)
    ]
    assert charts.best_words(epochs, 314) == (
        "best 99.58\u202f% at epoch 314 after 16,430 s (4:34 h)"
    )
    assert charts.best_words(epochs, None) == ""


def test_a_thinned_curve_keeps_its_single_bad_epoch() -> None:
    points = [(float(k), 0.99) for k in range(2000)]
    points[777] = (777.0, 0.1)
    thinned = charts.thin(points)
    assert len(thinned) <= charts.POINTS + 2
    assert (777.0, 0.1) in thinned
    assert [thinned[0], thinned[-1]] == [points[0], points[-1]]


def test_reliability_shows_the_bins_with_photos_before_and_after(small_run: MadeRun) -> None:
    part = read_run(small_run.path).metrics["test"]
    chart = charts.reliability(part)
    lines = series_of(chart)
    filled = [b for b in part["reliability"] if b["photos"]]
    after = lines["after calibration, with 95 % interval"]
    assert [y for _, y in after.points] == [b["accuracy"] for b in filled]
    for ends, item in zip(after.errors, filled, strict=True):
        assert ends == wilson(round(item["accuracy"] * item["photos"]), item["photos"])
    assert [bar.note for bar in chart.bars] == [f"{b['photos']} photos" for b in filled]
    assert "before calibration" in lines
    assert [s.name for s in charts.reliability({}).series] == ["perfectly calibrated"]


def test_coverage_curve_ends_at_the_plain_accuracy_with_its_interval(small_run: MadeRun) -> None:
    record = read_run(small_run.path)
    rows = record.predictions_of("test")
    assert charts.accuracy_by_coverage(rows) is None  # 24 photos: a curve of noise
    chart = charts.accuracy_by_coverage(rows * 3)
    assert chart is not None
    line, tenths = chart.series
    assert line.points[-1] == pytest.approx((1.0, record.metrics["test"]["top1"]))
    assert len(tenths.points) == len(tenths.errors) == 10
    assert tenths.errors[-1] == wilson(3 * sum(row.correct for row in rows), 3 * len(rows))


def test_photos_by_label_are_stacked_largest_label_first() -> None:
    bars = charts.photos_by_label(
        {"a": {"train": 3, "test": 1}, "b": {"train": 9, "test": 2}, "c": {"train": 3}}
    )
    assert [name for name, _ in bars.kinds] == ["train", "test"]
    assert [(label, list(counts)) for label, counts in bars.rows] == [
        ("b", [9, 2]),
        ("a", [3, 1]),
        ("c", [3, 0]),
    ]
    assert bars.most == 11


def test_answers_by_label_put_the_worst_label_first() -> None:
    bars = charts.answers_by_label({"a": (9, 1, 0), "b": (2, 3, 4)})
    assert [label for label, _ in bars.rows] == ["b", "a"]

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finetune.errors import RunError
from finetune.files import read_json, write_json
from finetune.reporting.run_record import (
    find_setting,
    photos_root,
    read_run,
    setting_sections,
    setting_text,
)

if TYPE_CHECKING:
    from tests.reporting.conftest import MadeRun, RunMaker


def test_reads_every_file_of_a_run(small_run: MadeRun) -> None:
    record = read_run(small_run.path)
    assert record.labels == small_run.labels
    assert set(record.metrics) == {"validation", "test"}
    assert len(record.predictions_of("test")) == record.metrics["test"]["photos"] == 24
    assert [event["epoch"] for event in record.epochs] == list(range(1, 13))
    assert len(record.split) == 160
    assert record.calibration["temperature"] > 0


def test_an_epoch_told_twice_counts_once_and_a_cut_off_line_not_at_all(run_maker: RunMaker) -> None:
    run = run_maker(draw=False)
    with (run.path / "log.jsonl").open("a") as log:
        log.write('{"event": "note", "epoch": 3}\n')
        log.write('{"event": "epoch", "epoch": 12, "validation_accuracy": 0.5}\n{"event": "ep')
    epochs = read_run(run.path).epochs
    assert len(epochs) == 12
    assert epochs[-1]["validation_accuracy"] == 0.5
    assert epochs[2]["train_loss"] > 0


def test_the_test_part_speaks_for_a_run_and_validation_where_there_is_none(
    run_maker: RunMaker,
) -> None:
    run = run_maker(draw=False)
    record = read_run(run.path)
    assert record.part() == "test"
    assert record.part("validation") == "validation"
    metrics = read_json(run.path / "metrics.json")
    write_json(run.path / "metrics.json", {"validation": metrics["validation"]})
    assert read_run(run.path).part() == "validation"


def test_a_part_that_was_not_evaluated_is_refused(small_run: MadeRun) -> None:
    with pytest.raises(RunError) as caught:
        read_run(small_run.path).part("train")
    assert str(caught.value) == (
        f"{small_run.path.name} was not evaluated on 'train', only on test, validation. "
        "Name one of these with --part."
    )


def test_a_run_without_figures_says_what_to_do(run_maker: RunMaker) -> None:
    run = run_maker(draw=False)
    write_json(run.path / "metrics.json", {})
    with pytest.raises(RunError) as caught:
        read_run(run.path).part()
    assert str(caught.value) == (
        f"{run.path.name} was evaluated on no photos. Run: finetune evaluate {run.path.name}"
    )


def test_an_unfinished_run_is_refused(run_maker: RunMaker) -> None:
    run = run_maker(draw=False)
    (run.path / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"has no metrics\.json: it is not a finished run"):
        read_run(run.path)


def test_a_file_of_another_kind_is_refused(run_maker: RunMaker) -> None:
    run = run_maker(draw=False)
    write_json(run.path / "labels.json", {"a": 1})
    with pytest.raises(RunError, match=r"labels\.json cannot be read"):
        read_run(run.path)


def test_split_log_and_calibration_may_be_missing(run_maker: RunMaker) -> None:
    run = run_maker(draw=False)
    for name in ("split.csv", "log.jsonl", "calibration.json"):
        (run.path / name).unlink()
    record = read_run(run.path)
    assert (record.split, record.epochs, record.calibration) == ((), (), {})


def test_photos_root_is_none_once_the_photos_are_gone(run_maker: RunMaker) -> None:
    run = run_maker(photo_count=20)
    assert photos_root(run.path) == run.photos
    run.photos.rename(run.photos.with_name("moved"))
    assert photos_root(run.path) is None


def test_the_setting_nearest_the_top_is_found() -> None:
    config = {"settings": {"model": {"model": "deep"}}, "top": {"model": "near"}}
    assert find_setting(config, "model") == "near"
    assert find_setting(config, "absent") is None


def test_settings_are_shown_by_section_without_the_home_folder() -> None:
    config = {
        "photos": str(Path.home() / "birds"),
        "settings": {"training": {"lr": 0.003, "epochs": None, "fast": True}},
    }
    assert setting_sections(config) == [
        ("run", [("photos", "~/birds")]),
        ("training", [("lr", "0.003"), ("epochs", "not set"), ("fast", "yes")]),
    ]


def test_several_values_of_a_setting_stand_one_after_the_other() -> None:
    assert setting_text(["Mode head: on the CPU the head trains.", "No near-duplicates."]) == (
        "Mode head: on the CPU the head trains. No near-duplicates."
    )
    assert setting_text([]) == "none"

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from finetune.reporting.formatting import (
    count,
    duration,
    findings,
    interval,
    key_figures,
    number,
    percent,
)
from finetune.reporting.run_record import read_run


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.9352, "93.5 %"),
        (1.0, "100 %"),
        (0.0, "0 %"),
        (0.9996, "> 99.9 %"),
        (0.0004, "< 0.1 %"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_only_all_is_a_hundred_and_only_nothing_is_zero(share, text):
    assert percent(share).replace("\u202f", " ") == text


def test_figures_are_written_as_people_read_them():
    assert number(0.12345) == "0.123"
    assert number(None) == number(float("inf")) == "–"
    assert count(1, "photo") == "1 photo"
    assert count(6310, "photo") == "6,310 photos"
    assert count(2, "label has", "labels have") == "2 labels have"
    assert interval((0.884, 0.9651)).replace("\u202f", " ") == "88.4–96.5 %"
    assert interval(None) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.23, "4.2 s"), (59.2, "59 s"), (200, "3:20 min"), (7500, "2:05 h")],
)
def test_durations_are_in_words(seconds, text):
    assert duration(seconds) == text


def test_findings_name_the_worst_confusion_and_the_weakest_label(small_run):
    unknown = {"precision": 0.9, "threshold": 1.5, "coverage": 0.8, "unknown_photos": 9}
    record = dataclasses.replace(
        read_run(small_run.path), calibration={"unknown": unknown | {"unknown_share": 0.2}}
    )
    matrix = np.diag(np.full(6, 10))
    matrix[4, 5] = 3
    part = {"labels": {name: {"recall": 1.0, "photos": 10} for name in record.labels}}
    part["labels"]["heron"] = {"recall": 0.25, "photos": 8}
    part["labels"]["egret"] = {"recall": 0.0, "photos": 2}
    said = " ".join(findings(record, part, matrix)).replace("\u202f", " ")
    assert f"“{record.labels[4]}” is taken for “{record.labels[5]}” in 3 of 13 photos." in said
    assert "The weakest label is “heron”: 25 % of its photos are right." in said
    assert "1 label has fewer than 5 photos here" in said
    assert (
        "aims to be right 90 times in 100, where 20 % of the photos are of something else, "
        "and answers 80 % of the photos of known labels." in said
    )


def test_a_run_without_a_mistake_is_asked_whether_its_photos_are_hard_enough(small_run):
    record = read_run(small_run.path)
    assert "Not one mistake." in findings(record, {}, np.eye(6, dtype=np.int64))[-1]


def test_the_calibration_error_stands_beside_that_of_an_honest_model():
    part = {"ece": 0.0712, "ece_honest": 0.0654, "uncalibrated": {"ece": 0.1}}
    told = {name: (value, meaning) for name, value, meaning in key_figures(part)}
    value, meaning = told["Calibration error"]
    assert value == "7.1\u202f%"
    assert meaning == (
        "mean gap between how sure and how right (ECE); a perfectly calibrated model has "
        "6.5\u202f% by chance on so many photos; before calibration 10.0\u202f%"
    )

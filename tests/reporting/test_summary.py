from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.reporting.run_record import read_run
from finetune.reporting.summary import find_highlights, headline, key_figures, next_steps
from finetune.runs.answers import calibration_sentences
from finetune.tasks.multi_label import MultiLabel
from finetune.tasks.single_label import SingleLabel

if TYPE_CHECKING:
    from tests.reporting.conftest import MadeRun


def test_highlights_name_the_worst_confusion_and_the_weakest_label(small_run: MadeRun) -> None:
    record = read_run(small_run.path)
    matrix = np.diag(np.full(6, 10))
    matrix[4, 5] = 3
    part: dict[str, Any] = {
        "labels": {name: {"recall": 1.0, "photos": 10} for name in record.labels}
    }
    part["labels"]["heron"] = {"recall": 0.25, "photos": 8}
    part["labels"]["egret"] = {"recall": 0.0, "photos": 2}
    found = " ".join(find_highlights(record, part, [], matrix)).replace("\u202f", " ")
    assert f"“{record.labels[4]}” is mistaken for “{record.labels[5]}” in 3 of 13 photos." in found
    assert "The weakest label is “heron”: its recall is 25 %." in found
    assert "1 label has fewer than 5 photos here" in found
    # What is claimed of sure and unknown photos, in the words of the terminal.
    sentences = calibration_sentences(record.calibration)
    assert sentences
    assert " ".join(sentences).replace("\u202f", " ") in found


def test_no_mistakes_are_a_reason_for_caution(small_run: MadeRun) -> None:
    record = read_run(small_run.path)
    correct = [row for row in record.predictions_of("test") if row.correct]
    assert find_highlights(record, {}, correct, np.eye(6, dtype=np.int64))[-1] == (
        "No mistakes. Make sure these photos are as difficult as your future ones."
    )
    assert "No mistakes" not in " ".join(
        find_highlights(record, {}, record.predictions, np.eye(6, dtype=np.int64))
    )


def test_calibration_error_is_shown_with_that_of_a_calibrated_model() -> None:
    metrics = {"ece": 0.0712, "ece_honest": 0.0654, "uncalibrated": {"ece": 0.1}}
    figures = {figure.name: figure for figure in key_figures(SingleLabel(), metrics)}
    assert figures["Calibration error"].value == "7.1\u202f%"
    assert figures["Calibration error"].note == (
        "mean gap between confidence and accuracy (ECE); a perfectly calibrated model has "
        "6.5\u202f% by chance on this many photos; before calibration 10.0\u202f%"
    )


def test_key_figures_have_intervals_nested_values_and_decimals() -> None:
    metrics: dict[str, Any] = {
        "labels": dict.fromkeys("abcdef"),
        "top5": 0.99,
        "macro_f1": 0.8,
        "macro_f1_interval": [0.75, 0.85],
        "coverage": {"0.95": 0.5},
        "photos": 50,
        "aurc": 0.01234,
    }
    figures = {figure.name: figure for figure in key_figures(SingleLabel(), metrics)}
    assert figures["Top-5 accuracy"].value == "99.0\u202f%"
    assert figures["Macro F1"].note.endswith("; 95 % interval 75.0–85.0\u202f%")
    assert figures["Coverage at 95 %"].value == "50.0\u202f%"
    few = key_figures(SingleLabel(), metrics | {"photos": 49})
    assert "Coverage at 95 %" not in {figure.name for figure in few}
    assert figures["AURC"].value == "0.0123"
    assert figures["Log loss"].value == "–"
    few = key_figures(SingleLabel(), {"labels": dict.fromkeys("abcde"), "top5": 1.0})
    assert few[0].name == "Balanced accuracy"


def test_labels_per_photo_are_shown_with_the_predicted_ones_of_older_runs_too() -> None:
    for key in ("labels_predicted", "labels_said"):
        figures = key_figures(MultiLabel(), {"labels_a_photo": 1.5, key: 1.25})
        labels = next(figure for figure in figures if figure.name == "Labels per photo")
        assert (labels.value, labels.note) == ("1.50", "in truth; predicted: 1.25")


def test_the_headline_is_a_count_and_what_to_expect(small_run: MadeRun) -> None:
    record = read_run(small_run.path)
    metrics = {"photos": 72, "top1": 66 / 72, "top1_interval": [0.8300, 0.9613]}
    assert headline(record, "test", metrics, 6).replace("\u202f", " ") == (
        "66 of 72 test photos are right; of new photos like these, expect between 83 % and 96 %."
    )
    one = {"photos": 1, "top1": 1.0, "top1_interval": None}
    assert headline(record, "folds", one, 0) == "1 of 1 cross-validated photo is right."


def test_the_next_steps_fit_what_is_wrong(small_run: MadeRun) -> None:
    record = read_run(small_run.path)
    rows = record.predictions_of("test")
    wide = {"photos": 24, "top1_interval": [0.4, 0.8]}
    steps = next_steps(record, wide, rows, suspects=2)
    assert [section for _, section in steps] == ["suspects", "mistakes", "collection"]
    assert steps[0][0] == "Check 2 photos whose label may be wrong."
    learned = Counter(row.labels[0] for row in record.split if row.part == "train")
    label, photos = min(learned.items(), key=lambda item: (item[1], item[0]))
    assert f"“{label}” ({photos})" in steps[2][0]
    right = [row for row in rows if row.correct]
    sure = {"photos": 24, "top1_interval": [0.95, 1.0]}
    enough = dataclasses.replace(record, split=record.split * 10)
    assert next_steps(enough, sure, right, suspects=0) == [
        ("Try it on new photos: finetune predict photo.jpg", "least-confident")
    ]
    few = next_steps(enough, wide, right, suspects=0)
    assert few[0][0].startswith("Label more photos before you compare models: 24 photos")

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune import train
from finetune.config_io import resolve
from finetune.errors import RunError
from finetune.photos.collection import Part
from finetune.photos.split.split import SplitRow
from finetune.runs.folder import RunFolder
from finetune.runs.model_card import (
    MAX_LABELS,
    accuracy_table,
    intended_use,
    label_table,
    write_model_card,
)
from finetune.tasks.multi_label import MultiLabel
from finetune.tasks.single_label import SingleLabel


def test_the_card_has_the_metrics_of_the_run_and_no_path(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    photos = make_photos({"heron | gray": 8, "カワセミ": 8})
    run = train(photos, resolve({}, tiny_settings), run="garden", runs=tmp_path).run
    card = write_model_card(run)
    assert card == run.path / "README.md"
    text = card.read_text(encoding="utf-8")
    metrics = json.loads(run.metrics_file.read_text())
    part = "test" if "test" in metrics else "validation"
    low, high = metrics[part]["top1_interval"]
    front = text.split("---\n")[1]
    assert "library_name: timm\n" in front
    assert f"value: {metrics[part]['top1']:.4f}" in front
    assert f"{low * 100:.1f}–{high * 100:.1f}\u202f%" in text
    assert "| heron \\| gray |" in text
    assert "| カワセミ |" in text
    assert "No group of near-duplicates is in two parts" in text
    temperature = json.loads(run.calibration_file.read_text())["temperature"]
    assert f"softmax(logits / {temperature:.4g})" in text
    assert str(tmp_path) not in text
    for heading in ("Accuracy", "Calibration", "Intended use and limits", "Training"):
        assert f"\n## {heading}\n" in text


def test_an_unfinished_run_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no config\.json: it is not a finished run"):
        write_model_card(RunFolder(tmp_path))


LABELS = ("a|b", "<c>", "ant")
PARTS: tuple[Part, ...] = ("train", "train", "test", "test", "train")
ROWS = [
    SplitRow(path=f"{k}.jpg", digest=str(k), labels=(label,), group=str(k), part=part)
    for k, (label, part) in enumerate(zip(("a|b", "a|b", "a|b", "ant", "<c>"), PARTS, strict=True))
]
FOUND: dict[str, Any] = {
    "photos": 1234,
    "top1": 0.875,
    "top1_interval": (0.5, 0.975),
    "balanced_accuracy": 0.8,
    "log_loss": 0.51234,
    "ece": 0.0125,
    "labels": {
        "a|b": {"precision": 0.5, "recall": 1.0},
        "<c>": {"precision": None, "recall": None},
        "ant": {"precision": 1.0, "recall": 0.25},
    },
}
SEVERAL: dict[str, Any] = {
    "photos": 33,
    "mean_average_precision": 0.5,
    "mean_average_precision_interval": (0.4, 0.6),
    "exact_match": 0.25,
    "macro_f1": 0.375,
    "micro_f1": 0.625,
    "hamming_loss": 0.125,
    "ece": 0.0625,
    "uncalibrated": {"ece": 0.25},
    "labels": {
        "ant": {"average_precision": 0.75, "threshold": 0.31, "precision": 1.0, "recall": 0.5},
        "bee": {"average_precision": None, "threshold": None},
    },
}


def test_the_summary_gives_the_share_with_its_interval() -> None:
    summary = SingleLabel().summary
    assert summary("`net` fully fine-tuned", LABELS, "cross-validated", FOUND) == (
        "An image classifier of 3 labels: a `net` fully fine-tuned. On 1,234 cross-validated "
        "photos it is right 87.5\u202f% of the time (95 % interval 50.0–97.5\u202f%)."
    )
    without = {"photos": 4, "top1": 1.0}
    assert summary("`net`", LABELS, "test", without).endswith(
        "On 4 test photos it is right 100\u202f% of the time."
    )
    assert MultiLabel().summary("`net`", ("ant", "bee"), "test", SEVERAL) == (
        "An image tagger of 2 labels, of which a photo may have several or none: a `net`. On 33 "
        "test photos its mean average precision is 50.0\u202f% (95 % interval 40.0–60.0\u202f%)."
    )


def test_the_metric_for_the_hub_is_the_headline_score() -> None:
    assert SingleLabel().metric_for_hub(FOUND) == ("accuracy", 0.875)
    assert MultiLabel().metric_for_hub(SEVERAL) == ("mean_average_precision", 0.5)


def test_the_label_table_counts_photos_by_part_and_escapes_names() -> None:
    assert label_table(SingleLabel(), LABELS, ROWS, FOUND).splitlines() == [
        "| label | train | test | precision | recall |",
        "|---|---:|---:|---:|---:|",
        "| a\\|b | 2 | 1 | 50.0\u202f% | 100\u202f% |",
        "| &lt;c> | 1 | 0 |  |  |",
        "| ant | 0 | 1 | 100\u202f% | 25.0\u202f% |",
    ]


def test_the_label_table_of_several_labels_has_thresholds_and_negatives() -> None:
    rows = [
        SplitRow(path="1.jpg", digest="1", labels=("ant", "bee"), group="1", part="train"),
        SplitRow(path="2.jpg", digest="2", labels=(), group="2", part="train"),
    ]
    assert label_table(MultiLabel(), ("ant", "bee"), rows, SEVERAL).splitlines() == [
        "| label | train | predicted from | precision | recall | average precision |",
        "|---|---:|---:|---:|---:|---:|",
        "| ant | 1 | 31\u202f% | 100\u202f% | 50.0\u202f% | 75.0\u202f% |",
        "| bee | 1 | never |  |  |  |",
        "| *no label* | 1 |  |  |  |  |",
    ]


def test_a_table_of_very_many_labels_tells_how_many_are_left_out() -> None:
    many = [f"label {k}" for k in range(MAX_LABELS + 1234)]
    lines = label_table(SingleLabel(), many, (), {}).splitlines()
    assert len(lines) == 2 + MAX_LABELS + 2
    assert lines[-1] == "and 1,234 more; see labels.json."


def test_the_accuracy_table_tells_how_its_photos_were_used() -> None:
    task = SingleLabel()
    alone = accuracy_table(task, {"validation": FOUND}).splitlines()
    assert (
        alone[2]
        == "| validation | 1,234 | 87.5\u202f% | 50.0–97.5\u202f% | 80.0\u202f% | 0.512 | 0.013 |"
    )
    assert alone[-1].startswith("The validation photos chose the epoch and fitted the calibration")
    parts = {"validation": FOUND, "test": {"photos": 1, "top1": 0.0}}
    assert accuracy_table(task, parts).splitlines()[3:] == ["| test | 1 | 0\u202f% |  |  |  |  |"]
    folds = accuracy_table(task, {"folds": FOUND}).splitlines()
    assert folds[-1].endswith("by one that was not trained on it (cross-validation).")


def test_the_accuracy_table_of_several_labels_has_map_and_f1() -> None:
    lines = accuracy_table(MultiLabel(), {"validation": SEVERAL, "folds": SEVERAL}).splitlines()
    row = "33 | 50.0_% | 40.0–60.0_% | 25.0_% | 37.5_% | 62.5_% | 12.5_% | 0.062 |"
    row = row.replace("_", "\u202f")
    assert lines[2:4] == [f"| validation | {row}", f"| folds | {row}"]


def test_the_calibration_text_gives_temperature_and_errors() -> None:
    found = {"ece": 0.02, "uncalibrated": {"ece": 0.1}, "ece_honest": 0.015}
    text = SingleLabel().calibration_text
    assert text({"temperature": 1.51234, "photos": 40}, found) == (
        "Probabilities are softmax(logits / 1.512); the temperature was fitted on 40 validation "
        "photos. Expected calibration error: 0.020 (0.100 before). A perfectly calibrated model "
        "of this size: 0.015 by chance."
    )


def test_the_calibration_text_of_several_labels_leaves_out_what_is_missing() -> None:
    text = MultiLabel().calibration_text
    content = {"temperature": 1.5, "photos": 33}
    assert text(content, SEVERAL).endswith("decisions: 0.062 (0.250 before).")
    assert text(content, {"ece": None}).endswith("33 validation photos.")


def test_the_weakest_labels_are_named() -> None:
    assert intended_use(SingleLabel(), "folds", FOUND).endswith(
        "Lowest recall on the folds: ant (25\u202f%), a\\|b (100\u202f%)."
    )
    assert intended_use(MultiLabel(), "test", SEVERAL).endswith(
        "\n\nLowest average precision on test: ant (75\u202f%)."
    )
    assert intended_use(MultiLabel(), "test", {"labels": {}}).endswith("health or safety.")

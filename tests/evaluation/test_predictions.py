from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import RunError
from finetune.evaluation.predictions import (
    EvaluatedPhoto,
    make_predictions,
    read_predictions,
    write_predictions,
)

LABELS = ["=ant", "カワセミ", "<i>gull</i>", "rook", "swan", "wren"]
PHOTOS = [
    EvaluatedPhoto(path="=ant/-1.jpg", digest="aa", part="validation"),
    EvaluatedPhoto(path='カワセミ/"a", b.jpg', digest="bb", part="test"),
]
LOGITS = np.array([[0.1, 3.0, 0.2, -1.0, 0.0, 0.05], [0.0, 2.0, 2.0, 0.0, 0.0, 0.0]])


def test_labels_are_ranked_by_probability_and_ties_by_class_order() -> None:
    first, second = make_predictions(PHOTOS, LOGITS, [0, 1], LABELS)
    assert [label for label, _ in first.ranked] == [LABELS[k] for k in (1, 2, 0, 5, 4)]
    assert [label for label, _ in second.ranked] == [LABELS[k] for k in (1, 2, 0, 3, 4)]
    expected = np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum()
    assert first.probability == pytest.approx(expected[1], abs=1e-12)
    assert (first.predicted, first.correct, second.correct) == ("カワセミ", False, True)


def test_temperature_changes_probabilities_and_not_the_order() -> None:
    plain, hot = (make_predictions(PHOTOS, LOGITS, [0, 1], LABELS, temperature=t) for t in (1, 3))
    assert [p.predicted for p in plain] == [p.predicted for p in hot]
    assert hot[0].probability < plain[0].probability


def test_file_gives_every_prediction_back(tmp_path: Path) -> None:
    rows = make_predictions(PHOTOS, LOGITS, [0, 1], LABELS)
    assert read_predictions(write_predictions(tmp_path / "predictions.csv", rows)) == rows


def test_fewer_than_five_labels_leave_cells_empty(tmp_path: Path) -> None:
    rows = make_predictions(PHOTOS, LOGITS[:, :2], [0, 1], LABELS[:2])
    path = write_predictions(tmp_path / "predictions.csv", rows)
    assert read_predictions(path) == rows
    assert path.read_text(encoding="utf-8-sig").splitlines()[1].endswith(",,,,,,")


def test_file_has_the_columns_that_a_spreadsheet_user_looks_for(tmp_path: Path) -> None:
    rows = make_predictions(PHOTOS, LOGITS, [0, 1], LABELS)
    path = write_predictions(tmp_path / "predictions.csv", rows)
    with path.open(encoding="utf-8-sig", newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == [
        *("path", "digest", "part", "label", "predicted", "probability", "correct"),
        *("label_1", "probability_1", "label_2", "probability_2", "label_3", "probability_3"),
        *("label_4", "probability_4", "label_5", "probability_5"),
    ]
    assert first["path"] == "'=ant/-1.jpg"
    assert first["label"] == "'=ant"
    assert (first["correct"], second["correct"]) == ("false", "true")
    assert second["path"] == 'カワセミ/"a", b.jpg'
    assert float(second["probability"]) == float(second["probability_1"])


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RunError) as caught:
        read_predictions(path)
    assert str(caught.value) == (
        f"{path} does not have the columns of predictions.csv. "
        "Write it again with finetune evaluate."
    )


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    rows = make_predictions(PHOTOS, LOGITS, [0, 1], LABELS)
    path = write_predictions(tmp_path / "predictions.csv", rows)
    text = path.read_text(encoding="utf-8-sig").splitlines()
    path.write_text("\n".join([*text[:2], "a,b,test,c,c,0.5,true,c,half,,,,,,,,"]))
    with pytest.raises(RunError, match=r"predictions\.csv, line 3: could not convert .*'half'"):
        read_predictions(path)


def test_a_missing_file_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"could not be read: .* again with finetune evaluate\."):
        read_predictions(tmp_path / "predictions.csv")

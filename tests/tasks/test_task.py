from __future__ import annotations

import numpy as np
import pytest

from finetune.evaluation.metrics import evaluate_logits
from finetune.evaluation.predictions import (
    EvaluatedPhoto,
    read_predictions,
    write_predictions,
)
from finetune.tasks.task import (
    MultiLabel,
    SingleLabel,
    main_score,
    task_of,
    uncalibrated_task,
)

LABELS = ("=ant", "b|e", "カワセミ")
PHOTOS = [EvaluatedPhoto(path=f"{k}.jpg", digest=str(k), part="test") for k in range(4)]
LOGITS = np.array([[2.0, -1, -3], [-2, -1, -3], [1, 2, -0.5], [0.1, -2, 4]])
TRUTH = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 1]])


def test_what_a_task_keeps_opens_as_the_same_task():
    one = SingleLabel(temperature=1.7)
    assert one.to_dict(LABELS) == {"temperature": 1.7}
    assert task_of(one.to_dict(LABELS), LABELS) == one
    several = MultiLabel(temperature=0.4, thresholds=(0.25, 2.0, 0.5), precision=0.9)
    kept = several.to_dict(LABELS)
    assert kept == {
        "task": "multi-label",
        "temperature": 0.4,
        "thresholds": {"=ant": 0.25, "b|e": None, "カワセミ": 0.5},
        "thresholds_for": {"precision": 0.9},
    }
    assert task_of(kept, LABELS) == several
    assert MultiLabel(thresholds=(0.5,) * 3).to_dict(LABELS)["thresholds_for"] == "f1"


def test_a_run_that_says_nothing_has_one_label_a_photo():
    assert not uncalibrated_task({"model": "x"}).multi_label
    assert uncalibrated_task({"task": "multi-label"}).multi_label


def test_one_label_a_photo_is_evaluated_as_ever():
    logits, targets = np.array([[2.0, 0, 1], [0, 1, 0]]), np.array([0, 2])
    task = SingleLabel(temperature=2.0)
    expected = evaluate_logits(logits, targets, LABELS, temperature=2.0)
    assert task.metrics(logits, targets, LABELS) == expected
    loss, accuracy = task.judge(logits, targets)
    assert accuracy == 0.5
    assert loss == pytest.approx(expected["uncalibrated"]["log_loss"])
    assert main_score(expected) == expected["top1"]


def test_thresholds_and_temperature_come_from_the_photos_of_validation():
    task = MultiLabel().calibrated(LOGITS, TRUTH)
    assert task.thresholds is not None
    said = task.probabilities(LOGITS) >= task.limits(3)
    assert (said == TRUTH.astype(bool)).all()
    assert (task.limits(3, at_least=0.99) == 0.99).all()
    found = task.metrics(LOGITS, TRUTH, LABELS)
    assert found["exact_match"] == 1.0
    assert found["temperature"] == task.temperature
    assert main_score(found) == found["mean_average_precision"] == 1.0


def test_judgment_is_map_and_loss_without_calibration():
    loss, score = MultiLabel(temperature=9.0).judge(LOGITS, TRUTH)
    p = 1 / (1 + np.exp(-LOGITS))
    assert loss == pytest.approx(-np.log(np.where(TRUTH, p, 1 - p)).sum(axis=1).mean())
    assert score == 1.0
    assert MultiLabel().judge(LOGITS, np.zeros((4, 3)))[1] == 0.0


def test_predictions_of_several_labels_hold_the_set_and_survive_the_file(tmp_path):
    task = MultiLabel(thresholds=(0.5, 0.1, 0.5))
    rows = task.predictions(PHOTOS, LOGITS, TRUTH, LABELS)
    assert [row.truth for row in rows] == [
        ("=ant",),
        (),
        ("=ant", "b|e"),
        ("=ant", "カワセミ"),
    ]
    assert [row.predicted_labels for row in rows] == [
        ("=ant", "b|e"),
        ("b|e",),
        ("=ant", "b|e"),
        ("=ant", "b|e", "カワセミ"),
    ]
    assert [row.correct for row in rows] == [False, False, True, False]
    assert rows[2].predicted == rows[2].label == "=ant|b\\|e"
    p = 1 / (1 + np.exp(-LOGITS))
    assert rows[1].probability == pytest.approx((1 - p[1, 0]) * p[1, 1] * (1 - p[1, 2]))
    assert [label for label, _ in rows[3].ranked] == ["カワセミ", "=ant", "b|e"]
    path = write_predictions(tmp_path / "predictions.csv", rows)
    assert path.read_text(encoding="utf-8-sig").startswith("path,digest,part,labels,predicted,")
    assert read_predictions(path) == rows


def test_predictions_of_one_label_have_the_columns_they_always_had(tmp_path):
    rows = SingleLabel().predictions(PHOTOS, LOGITS, [0, 0, 1, 2], LABELS)
    path = write_predictions(tmp_path / "predictions.csv", rows)
    header = path.read_text(encoding="utf-8-sig").splitlines()[0]
    assert header.startswith("path,digest,part,label,predicted,probability,correct,label_1,")
    assert read_predictions(path) == rows
    assert rows[0].truth == rows[0].predicted_labels == ("=ant",)
    assert rows[0].label_set is None

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.evaluation.metrics import evaluate_logits
from finetune.evaluation.predictions import (
    EvaluatedPhoto,
    read_predictions,
    write_predictions,
)
from finetune.tasks.base import Task
from finetune.tasks.factory import main_score, task_of, task_of_config, task_of_metrics
from finetune.tasks.multi_label import MultiLabel
from finetune.tasks.single_label import SingleLabel, log_loss_and_accuracy

LABELS = ("=ant", "b|e", "カワセミ")
PHOTOS = [EvaluatedPhoto(path=f"{k}.jpg", digest=str(k), part="test") for k in range(4)]
LOGITS = np.array([[2.0, -1, -3], [-2, -1, -3], [1, 2, -0.5], [0.1, -2, 4]])
TRUTH = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 1]])


def test_calibration_json_restores_the_task() -> None:
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


def test_a_config_without_a_task_is_single_label() -> None:
    assert not task_of_config({"model": "x"}).multi_label
    assert task_of_config({"task": "multi-label"}).multi_label


def test_single_label_metrics_are_those_of_evaluate_logits() -> None:
    logits, targets = np.array([[2.0, 0, 1], [0, 1, 0]]), np.array([0, 2])
    task = SingleLabel(temperature=2.0)
    expected = evaluate_logits(logits, targets, LABELS, temperature=2.0)
    assert task.metrics(logits, targets, LABELS) == expected
    loss, accuracy = log_loss_and_accuracy(torch.tensor(logits), torch.tensor(targets))
    assert accuracy == 0.5
    assert loss == pytest.approx(expected["uncalibrated"]["log_loss"])
    assert main_score(expected) == expected["top1"]


def test_thresholds_and_temperature_are_fitted_on_the_given_photos() -> None:
    task = MultiLabel().calibrated(LOGITS, TRUTH)
    assert task.thresholds is not None
    predicted = task.probabilities(LOGITS) >= task.limits(3)
    assert (predicted == TRUTH.astype(bool)).all()
    assert (task.limits(3, at_least=0.99) == 0.99).all()
    found = task.metrics(LOGITS, TRUTH, LABELS)
    assert found["exact_match"] == 1.0
    assert found["temperature"] == task.temperature
    assert main_score(found) == found["mean_average_precision"] == 1.0


def test_multi_label_scores_are_uncalibrated_loss_and_map() -> None:
    loss, score = MultiLabel(temperature=9.0).log_loss_and_map(LOGITS, TRUTH)
    p = 1 / (1 + np.exp(-LOGITS))
    assert loss == pytest.approx(-np.log(np.where(TRUTH, p, 1 - p)).sum(axis=1).mean())
    assert score == 1.0
    assert MultiLabel().log_loss_and_map(LOGITS, np.zeros((4, 3)))[1] == 0.0


def test_multi_label_predictions_survive_the_file(tmp_path: Path) -> None:
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


def test_single_label_predictions_keep_their_columns(tmp_path: Path) -> None:
    rows = SingleLabel().predictions(PHOTOS, LOGITS, [0, 0, 1, 2], LABELS)
    path = write_predictions(tmp_path / "predictions.csv", rows)
    header = path.read_text(encoding="utf-8-sig").splitlines()[0]
    assert header.startswith("path,digest,part,label,predicted,probability,correct,label_1,")
    assert read_predictions(path) == rows
    assert rows[0].truth == rows[0].predicted_labels == ("=ant",)
    assert rows[0].label_set is None


def test_metrics_tell_their_task() -> None:
    assert task_of_metrics({"top1": 0.5}).score == "top1"
    assert task_of_metrics({"mean_average_precision": None}).score == "mean_average_precision"


@pytest.mark.parametrize("task", [SingleLabel(), MultiLabel()])
def test_columns_name_keys_of_the_metrics(task: SingleLabel | MultiLabel) -> None:
    targets = [0, 1, 2, 0] if isinstance(task, SingleLabel) else TRUTH
    found = task.metrics(LOGITS, targets, LABELS)
    assert {column.key for column in task.part_columns} <= set(found)
    assert {column.key for column in task.label_columns} <= set(found["labels"]["=ant"])
    assert {task.score, task.photo_score} <= set(found)


def test_confusion_is_for_single_labels_only() -> None:
    matrix = SingleLabel().confusion(LOGITS, [0, 1, 1, 2])
    assert matrix.tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 1]]
    task: Task = MultiLabel()
    assert task.confusion(LOGITS, TRUTH) is None


def test_a_multi_label_head_starts_at_the_label_frequencies() -> None:
    head = torch.nn.Linear(2, 3)
    before = head.bias.detach().clone()
    SingleLabel().initialize_head(head, np.array([0, 1, 2]))
    assert torch.equal(head.bias, before)
    MultiLabel().initialize_head(head, TRUTH.astype(np.float32))
    # (present + 1/2) / (photos + 1) of 3, 1 and 1 of 4 photos, as log odds.
    shares = head.bias.detach().sigmoid().numpy()
    assert shares[0] > 0.5 > shares[1]
    assert shares[1] == shares[2]

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from finetune.errors import RunError
from finetune.evaluation.learning_curve import LabelOutlook, LearningCurve, LookAlikes, Point
from finetune.runs.folder import RunFolder
from finetune.runs.outlook import curve_sentences, read_curve

CURVE = LearningCurve(
    points=(
        Point(share=0.5, photos=40, accuracy=0.8, interval=(0.7, 0.9)),
        Point(share=1.0, photos=80, accuracy=0.88, interval=(0.8, 0.94)),
    ),
    forecast=0.91,
    interval=(0.87, 0.95),
    gain=(0.012, 0.05),
    labels=(
        LabelOutlook(label=1, photos=30, wrong=6, fewer=2.4),
        LabelOutlook(label=0, photos=50, wrong=4, fewer=0.1),
    ),
    look_alikes=(LookAlikes(labels=(0, 2), confused=4, before=4.2),),
)
LABELS = ["robin", "wren", "dunnock"]


def test_words_come_before_numbers() -> None:
    assert curve_sentences(CURVE, LABELS) == [
        "More photos would help: 88.0\u202f% are right now, and about 91.0\u202f% "
        "(87.0–95.0\u202f%) with twice the photos.",
        "Most by photos of wren (6 of 30 wrong). robin and dunnock look alike: more photos have "
        "not told them apart.",
    ]


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        ((-0.01, 0.004), "You have enough photos of this kind: "),
        ((0.0, 0.04), "More photos may help: "),
    ],
)
def test_the_verdict_follows_the_interval_of_the_gain(
    gain: tuple[float, float], verdict: str
) -> None:
    curve = dataclasses.replace(CURVE, gain=gain, look_alikes=())
    first, *rest = curve_sentences(curve, LABELS)
    assert first.startswith(verdict)
    assert len(rest) == (gain[1] > 0.01)


def test_a_damaged_curve_is_one_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert read_curve(run) is None
    run.labels_file.write_text(json.dumps(LABELS))
    content = CURVE.to_dict()
    run.curve_file.write_text(json.dumps(content))
    assert read_curve(run) == CURVE
    # A later version may add something.
    content["points"][0]["draws"] = 3
    run.curve_file.write_text(json.dumps(content))
    assert read_curve(run) == CURVE
    run.labels_file.write_text(json.dumps(LABELS[:2]))
    with pytest.raises(RunError, match=r"has label 2, but labels\.json has 2\."):
        read_curve(run)
    run.labels_file.write_text(json.dumps(LABELS))
    content["points"][0]["accuracy"] = 2
    run.curve_file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"learning_curve\.json cannot be read"):
        read_curve(run)

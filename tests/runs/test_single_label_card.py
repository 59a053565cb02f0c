from __future__ import annotations

from finetune.photos.collection import Part
from finetune.photos.split.split import SplitRow
from finetune.runs import single_label_card as card
from finetune.runs.card_text import MOST_LABELS

LABELS = ("a|b", "<c>", "ant")
PARTS: tuple[Part, ...] = ("train", "train", "test", "test", "train")
ROWS = [
    SplitRow(path=f"{k}.jpg", digest=str(k), labels=(label,), group=str(k), part=part)
    for k, (label, part) in enumerate(zip(("a|b", "a|b", "a|b", "ant", "<c>"), PARTS, strict=True))
]
FOUND = {
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


def test_the_summary_gives_the_share_with_its_interval() -> None:
    assert card.summary("`net` trained as a whole", LABELS, "folds", FOUND) == (
        "An image classifier of 3 labels: a `net` trained as a whole. On 1,234 cross-validated "
        "photos it is right 87.5% of the time (95 % interval 50.0% to 97.5%)."
    )
    without = {"photos": 4, "top1": 1.0}
    assert card.summary("`net`", LABELS, "test", without).endswith(
        "On 4 test photos it is right 100.0% of the time."
    )
    assert card.metric_of(FOUND) == ("accuracy", 0.875)


def test_the_table_counts_photos_by_part_and_escapes_names() -> None:
    assert card.label_table(LABELS, ROWS, FOUND).splitlines() == [
        "| label | train | test | precision | recall |",
        "|---|---:|---:|---:|---:|",
        "| a\\|b | 2 | 1 | 50.0% | 100.0% |",
        "| &lt;c> | 1 | 0 |  |  |",
        "| ant | 0 | 1 | 100.0% | 25.0% |",
    ]


def test_a_table_of_very_many_labels_says_how_many_are_left_out() -> None:
    many = [f"label {k}" for k in range(MOST_LABELS + 1234)]
    lines = card.label_table(many, (), {}).splitlines()
    assert len(lines) == 2 + MOST_LABELS + 2
    assert lines[-1] == "and 1,234 more; see labels.json."


def test_accuracy_says_what_its_photos_were_used_for() -> None:
    alone = card.accuracy({"validation": FOUND}).splitlines()
    assert alone[2] == "| validation | 1,234 | 87.5% | 50.0% to 97.5% | 80.0% | 0.512 | 0.013 |"
    assert alone[-1].startswith("The validation photos chose the epoch and fitted the calibration")
    tested = card.accuracy({"validation": FOUND, "test": {"photos": 1, "top1": 0.0}}).splitlines()
    assert tested[3:] == ["| test | 1 | 0.0% |  |  |  |  |"]
    folds = card.accuracy({"folds": FOUND}).splitlines()
    assert folds[-1].endswith("answered once by one that did not see it (cross-validation).")


def test_calibration_tells_the_threshold_and_what_it_reckons_with() -> None:
    found = {"ece": 0.02, "uncalibrated": {"ece": 0.1}, "ece_honest": 0.015}
    plain = card.calibration({"temperature": 1.51234, "photos": 40}, found)
    assert plain == (
        "Probabilities are softmax(logits / 1.512); the temperature was fitted on 40 validation "
        "photos. Expected calibration error: 0.020 (0.100 before). A perfectly calibrated model "
        "of this size: 0.015 by chance."
    )
    unknown = {
        "threshold": 0.25,
        "score": "energy",
        "precision": 0.95,
        "coverage": 0.875,
        "unknown_photos": 3,
        "unknown_share": 0.1,
    }
    text = card.calibration({"temperature": 1, "unknown": unknown}, {})
    assert "Below a score (energy) of 0.25" in text
    assert "95% of the answers given are right; 87.5% of the photos" in text
    assert "That reckons with 10% of photos of labels it was never trained on" in text


def test_the_labels_found_least_often_are_named() -> None:
    assert card.intended_use("folds", FOUND).endswith(
        "Found least often on the folds: ant (25%), a\\|b (100%)."
    )

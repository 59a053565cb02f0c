from __future__ import annotations

from typing import Any

from finetune.runs import multi_label_card as card

LABELS = ("ant", "bee")
FOUND: dict[str, Any] = {
    "photos": 33,
    "mean_average_precision": 0.5,
    "mean_average_precision_interval": (0.4, 0.6),
    "exact_match": 0.25,
    "macro_f1": 0.375,
    "micro_f1": 0.625,
    "hamming_loss": 0.125,
    "ece": 0.0625,
    "uncalibrated": {"ece": 0.25},
    "labels": {"ant": {"average_precision": 0.75}, "bee": {"average_precision": None}},
}


def test_photos_of_folds_are_cross_validated_ones() -> None:
    assert "On 33 cross-validated photos its mean" in card.summary("`net`", LABELS, "folds", FOUND)
    lines = card.accuracy({"validation": FOUND, "folds": FOUND}).splitlines()
    row = "33 | 50.0% | 40.0% to 60.0% | 25.0% | 37.5% | 62.5% | 12.5% |"
    assert lines[2:4] == [f"| validation | {row}", f"| folds | {row}"]
    assert lines[-1].endswith("answered once by one that did not see it (cross-validation).")
    alone = card.accuracy({"validation": FOUND}).splitlines()
    assert alone[-1].startswith("The validation photos chose the epoch, the thresholds")


def test_what_is_not_known_is_left_out() -> None:
    content = {"temperature": 1.5, "photos": 33}
    assert card.calibration(content, FOUND).endswith("answers: 0.062 (0.250 before).")
    assert card.calibration(content, {"ece": None}).endswith("33 validation photos.")
    assert card.intended_use("folds", FOUND).endswith(
        "\n\nLeast average precision on the folds: ant (75%)."
    )
    assert card.intended_use("test", {"labels": {}}).endswith("health or safety.")

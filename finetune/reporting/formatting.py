"""Figures as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.evaluation.confusion import worst_confusions
from finetune.evaluation.probabilities import Integers
from finetune.reporting.run_record import RunRecord

PART_WORDS = {
    "test": "test photos, which had no part in the training",
    "validation": "validation photos, which also chose the best epoch: new photos may do a "
    "little worse",
    "folds": "photos of all folds, each answered by a network that did not learn from it or from "
    "anything nearly the same",
    "train": "training photos, which it has learned from: new photos will do worse",
}


def percent(share: float | None, decimals: int = 1) -> str:
    r"""Returns a share as a percentage, rounded so that only what is all is called 100 %.

    Example:
        >>> percent(0.9352), percent(1.0), percent(None)
        ('93.5\u202f%', '100\u202f%', '–')
    """
    if share is None or not math.isfinite(share):
        return "–"
    value, step = share * 100, 10.0**-decimals
    if 0 < value < 100:
        if value < step:
            return f"<\u202f{step:.{decimals}f}\u202f%"
        if value > 100 - step:
            return f">\u202f{100 - step:.{decimals}f}\u202f%"
        return f"{value:.{decimals}f}\u202f%"
    return f"{value:.0f}\u202f%"


def number(value: float | None, decimals: int = 3) -> str:
    """Returns a figure with fixed decimals; a dash where it is undefined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"


def count(amount: int, one: str, many: str | None = None) -> str:
    """Returns an amount with its noun: ``1 photo``, ``6,310 photos``."""
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Returns a duration in short: ``0.4 s``, ``12 s``, ``3:05 min``, ``2:10 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}:{rest:02d} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours}:{rest:02d} h"


def interval(ends: Sequence[float] | None) -> str:
    """Returns an interval of shares: ``88.4–96.5 %``; empty where there is none."""
    if not ends:
        return ""
    return f"{ends[0] * 100:.1f}–{ends[1] * 100:.1f}\u202f%"


def key_figures(part: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the main figures of a part as (name, value, what it means)."""
    coverage = (part.get("coverage") or {}).get("0.95")
    before = (part.get("uncalibrated") or {}).get("ece")
    was = f"; before calibration {percent(before)}" if before is not None else ""
    honest = part.get("ece_honest")
    floor = (
        f"; a perfectly calibrated model has {percent(honest)} by chance on so many photos"
        if honest is not None
        else ""
    )
    # Of five labels or fewer, the truth is always among the first five.
    several = len(part.get("labels") or ()) > 5
    five = "truth among the five likeliest labels (top-5)"
    first = [("Among the first five", percent(part.get("top5")), five)] if several else []
    return [
        *first,
        (
            "Balanced accuracy",
            percent(part.get("balanced_accuracy")),
            "mean over labels, each counting the same; 95 % interval "
            + (interval(part.get("balanced_accuracy_interval")) or "unknown"),
        ),
        (
            "Macro F1",
            percent(part.get("macro_f1")),
            "mean of each label's balance of precision and recall; 95 % interval "
            + (interval(part.get("macro_f1_interval")) or "unknown"),
        ),
        (
            "Answers at 95 % right",
            percent(coverage),
            "share of photos it can answer, surest first, and be right 95 times in 100",
        ),
        (
            "Calibration error",
            percent(part.get("ece")),
            f"mean gap between how sure and how right (ECE){floor}{was}",
        ),
        ("Log loss", number(part.get("log_loss")), "in nats; 0 is perfect"),
        ("Brier score", number(part.get("brier")), "0 is perfect, 2 the worst"),
        ("Kappa", number(part.get("kappa")), "agreement beyond chance; 1 is perfect"),
        ("mAP", percent(part.get("mean_average_precision")), "mean average precision over labels"),
        (
            "AURC",
            number(part.get("aurc"), 4),
            "mean share of mistakes if it answers only the surest",
        ),
    ]


def findings(record: RunRecord, part: Mapping[str, Any], matrix: Integers) -> list[str]:
    """Returns what stands out, a sentence each, the most useful first."""
    said = []
    for truth, predicted, photos in worst_confusions(matrix, limit=2):
        total = int(matrix[truth].sum())
        said.append(
            f"“{record.labels[truth]}” is taken for “{record.labels[predicted]}” "
            f"in {photos:,} of {count(total, 'photo')}."
        )
    weak = [
        (row["recall"], name)
        for name, row in (part.get("labels") or {}).items()
        if row.get("recall") is not None and row.get("photos", 0) >= 5
    ]
    if weak and min(weak)[0] < 1:
        recall, name = min(weak)
        said.append(f"The weakest label is “{name}”: {percent(recall, 0)} of its photos are right.")
    few = sum(1 for row in (part.get("labels") or {}).values() if 0 < row.get("photos", 0) < 5)
    if few:
        said.append(
            f"{count(few, 'label has', 'labels have')} fewer than 5 photos here, "
            "so that their own figures say little."
        )
    said.extend(_unknown_finding(record.calibration.get("unknown")))
    if not matrix.sum() - matrix.trace():
        said.append("Not one mistake. Are these photos as hard as those that will come?")
    return said


def folds(found: Any) -> list[str]:
    """Returns what a cross-validation said, a sentence each; empty where there was none."""
    if not isinstance(found, Mapping) or not found.get("scores"):
        return []
    low, high = found["interval"]
    return [
        f"{found['count']} networks, trained as this one was, each answered the photos of a fold "
        "that was held out of its training: "
        + ", ".join(percent(score) for score in found["scores"])
        + ".",
        f"Their mean is {percent(found['mean'])}; Student's t interval of it is "
        f"{interval((max(0.0, low), min(1.0, high)))}, mostly too narrow, since the folds train on "
        "much the same photos (Bengio & Grandvalet 2004). The interval above is Wilson's, of all "
        "photos together.",
    ]


def _unknown_finding(unknown: Any) -> list[str]:
    if not isinstance(unknown, Mapping) or unknown.get("threshold") is None:
        return []
    return [
        "With “none of these” switched on it aims to be right "
        f"{round(float(unknown.get('precision', 0)) * 100)} times in 100{_reckoned_with(unknown)}, "
        f"and answers {percent(unknown.get('coverage'), 0)} of the photos of known labels."
    ]


def _reckoned_with(unknown: Mapping[str, Any]) -> str:
    share = unknown.get("unknown_share")
    if not unknown.get("unknown_photos"):
        return " (of photos of known labels: others were not to be had)"
    return f", where {percent(share, 0)} of the photos are of something else" if share else ""

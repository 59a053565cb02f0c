"""Summary of a report: key figures and findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.evaluation.confusion import worst_confusions
from finetune.evaluation.predictions import Prediction
from finetune.evaluation.probabilities import Integers
from finetune.formatting import count, interval, number, percent
from finetune.reporting.charts import MIN_COVERAGE_PHOTOS
from finetune.reporting.run_record import RunRecord
from finetune.runs.answers import calibration_sentences
from finetune.runs.folder import fitted_head
from finetune.tasks.base import Column, Task

PART_NOTES = {
    "test": "test photos, which were not used in training",
    "validation": "validation photos, which also chose the best epoch: new photos may score "
    "slightly lower",
    "folds": "photos of all folds, each predicted by a network that was not trained on it or on a "
    "near-duplicate of it",
    "train": "training photos: new photos will score lower",
}

FEW_PHOTOS = 5
"""Number of photos below which the metrics of a label are too uncertain to mention."""


WIDE_INTERVAL = 0.1
"""Width of the score's interval from which more test photos are advised."""

FEW_TO_LEARN_FROM = 20
"""Photos of a label below which more are advised."""


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """Metric of a summary, as text."""

    name: str
    value: str
    note: str


def key_figures(task: Task, metrics: Mapping[str, Any]) -> list[KeyFigure]:
    """Returns the main metrics of a part."""
    # With five labels or fewer, the true label is always among the five most likely.
    few = len(metrics.get("labels") or ()) <= 5
    return [
        KeyFigure(
            name=column.title,
            value=column_text(column, metrics),
            note=column.note + "".join(_note_details(column.key, metrics)),
        )
        for column in task.key_figures
        if not (few and column.key == "top5")
        and not (
            # Of few photos, this is a handful that happen to be right.
            column.key.startswith("coverage") and metrics.get("photos", 0) < MIN_COVERAGE_PHOTOS
        )
    ]


def headline(record: RunRecord, part: str, metrics: Mapping[str, Any], wrong: int) -> str:
    """Returns the result in one sentence: a count, and what to expect of new photos."""
    task, photos = record.task, metrics["photos"]
    name = {"folds": "cross-validated "}.get(part, f"{part} ")
    counted = (
        f"{photos - wrong:,} of {count(photos, name + 'photo')} are entirely right"
        if (task.multi_label)
        else f"{photos - wrong:,} of {count(photos, name + 'photo')} are right"
    )
    if photos == 1:
        counted = counted.replace(" are ", " is ")
    ends = metrics.get(f"{task.photo_score}_interval")
    if not ends:
        return f"{counted}."
    return (
        f"{counted}; of new photos like these, expect between {percent(ends[0], 0)} and "
        f"{percent(ends[1], 0)}."
    )


def next_steps(
    record: RunRecord,
    metrics: Mapping[str, Any],
    predictions: Sequence[Prediction],
    *,
    suspects: int,
) -> list[tuple[str, str]]:
    """Returns what to do next, at most three sentences, each with the section that helps.

    Args:
        record: The run.
        metrics: Metrics of the part.
        predictions: Predictions of the part.
        suspects: Number of likely label errors in the report.
    """
    steps: list[tuple[str, str]] = []
    if suspects:
        text = f"Check {count(suspects, 'photo')} whose label may be wrong."
        steps.append((text, "suspects"))
    wrong = sum(not row.correct for row in predictions)
    if wrong:
        text = f"Look at the {count(wrong, 'mistake')}: some labels may be wrong, some photos bad."
        steps.append((text, "mistakes"))
    learned = Counter(
        label
        for row in record.split
        if row.part == "train" or row.fold is not None
        for label in row.labels
    )
    few = sorted((photos, label) for label, photos in learned.items() if photos < FEW_TO_LEARN_FROM)
    if few:
        named = ", ".join(f"“{label}” ({photos})" for photos, label in few[:3])
        steps.append((f"Add photos of the labels with the fewest: {named}.", "collection"))
    score = record.task.photo_score
    ends = metrics.get(f"{score}_interval")
    if ends and ends[1] - ends[0] > WIDE_INTERVAL:
        steps.append(
            (
                f"Label more photos before you compare models: {count(metrics['photos'], 'photo')} "
                "cannot tell small differences.",
                "labels",
            )
        )
    if not steps:
        steps.append(("Try it on new photos: finetune predict photo.jpg", "least-confident"))
    return steps[:3]


def column_text(column: Column, metrics: Mapping[str, Any]) -> str:
    """Returns the value of a column in the metrics of a part or a label."""
    value: Any = metrics
    for name in column.key.split("/"):
        value = (value or {}).get(name)
    if column.kind == "interval":
        return interval(value)
    return percent(value) if column.kind == "percent" else number(value, column.decimals)


def _note_details(key: str, metrics: Mapping[str, Any]) -> list[str]:
    details = []
    if ends := interval(metrics.get(f"{key}_interval")):
        details.append(f"; 95 % interval {ends}")
    if key == "ece":
        by_chance = metrics.get("ece_honest")
        if by_chance is not None:
            details.append(
                f"; a perfectly calibrated model has {percent(by_chance)} by chance on this many "
                "photos"
            )
        before = (metrics.get("uncalibrated") or {}).get("ece")
        if before is not None:
            details.append(f"; before calibration {percent(before)}")
    if key == "labels_a_photo":
        # Older runs call it labels_said.
        predicted = metrics.get("labels_predicted", metrics.get("labels_said"))
        details.append(f"; predicted: {number(predicted, 2)}")
    return details


def find_highlights(
    record: RunRecord,
    metrics: Mapping[str, Any],
    predictions: Sequence[Prediction],
    matrix: Integers | None,
) -> list[str]:
    """Returns what stands out in a part, one sentence each, the most useful first.

    Args:
        record: The run.
        metrics: Metrics of the part.
        predictions: Predictions of the part.
        matrix: Their confusion matrix; None if photos may have several labels.
    """
    rows: Mapping[str, Mapping[str, Any]] = metrics.get("labels") or {}
    if matrix is not None:
        found = _confusions(record.labels, matrix)
        found += _weakest(rows, "recall", "recall")
    else:
        found = _missed_and_extra(record.labels, predictions)
        found += _weakest(rows, "average_precision", "average precision")
    few = sum(1 for row in rows.values() if 0 < row.get("photos", 0) < FEW_PHOTOS)
    if few:
        found.append(
            f"{count(few, 'label has', 'labels have')} fewer than {FEW_PHOTOS} photos here, so "
            "their metrics are very uncertain."
        )
    never = [name for name, row in rows.items() if "threshold" in row and row["threshold"] is None]
    if never:
        names = ", ".join(f"“{name}”" for name in never[:4]) + (" …" if len(never) > 4 else "")
        found.append(f"Never predicted, as no threshold reaches the requested precision: {names}.")
    negatives = [row for row in predictions if not row.truth]
    if negatives:
        correct = sum(not row.predicted_labels for row in negatives)
        found.append(
            f"Of {count(len(negatives), 'photo')} with none of the labels, {correct:,} got no "
            "label."
        )
    found += calibration_sentences(record.calibration)
    if predictions and all(row.correct for row in predictions):
        found.append("No mistakes. Make sure these photos are as difficult as your future ones.")
    return found


def _confusions(labels: Sequence[str], matrix: Integers) -> list[str]:
    return [
        f"“{labels[truth]}” is mistaken for “{labels[predicted]}” in {photos:,} of "
        f"{count(int(matrix[truth].sum()), 'photo')}."
        for truth, predicted, photos in worst_confusions(matrix, limit=2)
    ]


def _missed_and_extra(labels: Sequence[str], predictions: Sequence[Prediction]) -> list[str]:
    answers = count_answers(labels, predictions)
    found = []
    worst = max(answers, key=lambda label: answers[label][1], default=None)
    if worst is not None and answers[worst][1]:
        hits, missed, _ = answers[worst]
        found.append(
            f"“{worst}” is missed most often: in {missed:,} of its {count(hits + missed, 'photo')}."
        )
    worst = max(answers, key=lambda label: answers[label][2], default=None)
    if worst is not None and answers[worst][2]:
        found.append(
            f"“{worst}” is wrongly predicted most often: for "
            f"{count(answers[worst][2], 'photo')} without it."
        )
    return found


def _weakest(rows: Mapping[str, Mapping[str, Any]], key: str, name: str) -> list[str]:
    scores = [
        (row[key], label)
        for label, row in rows.items()
        if row.get(key) is not None and row.get("photos", 0) >= FEW_PHOTOS
    ]
    if not scores or min(scores)[0] >= 1:
        return []
    score, label = min(scores)
    return [f"The weakest label is “{label}”: its {name} is {percent(score, 0)}."]


def count_answers(
    labels: Sequence[str], predictions: Sequence[Prediction]
) -> dict[str, tuple[int, int, int]]:
    """Returns how often each label was found, missed, and wrongly predicted."""
    counts = {label: [0, 0, 0] for label in labels}
    for row in predictions:
        truth, predicted = set(row.truth), set(row.predicted_labels)
        for kind, names in enumerate((truth & predicted, truth - predicted, predicted - truth)):
            for label in names & counts.keys():
                counts[label][kind] += 1
    return {label: (found, missed, extra) for label, (found, missed, extra) in counts.items()}


def describe_folds(folds: Any) -> list[str]:
    """Returns the result of a cross-validation in sentences; empty if there was none."""
    if not isinstance(folds, Mapping) or not folds.get("scores"):
        return []
    low, high = folds["interval"]
    return [
        f"{folds['count']} networks, trained as this one was, each predicted the photos of a fold "
        "held out of its training. Their scores: "
        + ", ".join(percent(score) for score in folds["scores"])
        + ".",
        f"Their mean is {percent(folds['mean'])}, with a Student's t interval of "
        f"{interval((max(0.0, low), min(1.0, high)))}, which is mostly too narrow, since the folds "
        "share most of their training photos (Bengio & Grandvalet 2004). The interval above is "
        "Wilson's, over all photos together.",
    ]


def best_epoch(record: RunRecord) -> int | None:
    """Returns the epoch whose weights were kept, from 1; None if it is not recorded."""
    recorded = record.config.get("best_epoch")
    if isinstance(recorded, int):
        return recorded
    scored = [e for e in record.epochs if e.get("validation_accuracy") is not None]
    if not scored:
        return None
    best = [e for e in scored if e.get("best")]
    if best:
        return int(best[-1]["epoch"])
    return int(max(scored, key=lambda e: (e["validation_accuracy"], -e["epoch"]))["epoch"])


def describe_weights(record: RunRecord) -> str:
    """Returns a sentence on the weights of the model; empty if they are not recorded."""
    head = fitted_head(record.config)
    if head is not None:
        return (
            f"The backbone was not trained. The head is a {head}: the lowest loss on held-out "
            "photos of those tried."
        )
    epoch = best_epoch(record)
    if epoch is None:
        return ""
    share = record.config.get("share_of_training", 1.0)
    of_epoch = f"epoch {epoch}, the best on the validation photos"
    if share == 1:
        return f"The weights are those of {of_epoch}."
    if share == 0:
        return (
            "The weights are those of the frozen backbone with its head, although the full network "
            f"was trained as well; its best epoch was {epoch}."
        )
    return (
        f"The weights are a mix, {percent(share, 0)} of the way from the frozen backbone with its "
        f"head to {of_epoch}."
    )

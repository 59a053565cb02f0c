"""Summary of a report: key figures and findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.evaluation.confusion import worst_confusions
from finetune.evaluation.predictions import Prediction
from finetune.evaluation.probabilities import Integers
from finetune.formatting import interval, number, percent
from finetune.messages import counted, marked, plural, text
from finetune.reporting.charts import MIN_COVERAGE_PHOTOS
from finetune.reporting.run_record import RunRecord
from finetune.runs.answers import calibration_sentences
from finetune.runs.folder import fitted_head
from finetune.tasks.base import Column, Task

PART_NOTES = {
    "test": marked("test photos, which were not used in training"),
    "validation": marked(
        "validation photos, which also chose the best epoch: new photos may score slightly lower"
    ),
    "folds": marked(
        "photos of all folds, each predicted by a network that was not trained on it or on a "
        "near-duplicate of it"
    ),
    "train": marked("training photos: new photos will score lower"),
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
            name=text(column.title),
            value=column_text(column, metrics),
            note=(text(column.note) if column.note else "")
            + "".join(_note_details(column.key, metrics)),
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
    words = {"right": f"{photos - wrong:,}", "photos": counted(photos, name + "photo")}
    if photos == 1:
        result = text("{right} of {photos} is right", **words)
    elif task.multi_label:
        result = text("{right} of {photos} are entirely right", **words)
    else:
        result = text("{right} of {photos} are right", **words)
    ends = metrics.get(f"{task.photo_score}_interval")
    if not ends:
        return text("{result}.", result=result)
    return text(
        "{result}; of new photos like these, expect between {low} and {high}.",
        result=result,
        low=percent(ends[0], 0),
        high=percent(ends[1], 0),
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
        photos = counted(suspects, "photo")
        step = text("Check {photos} whose label may be wrong.", photos=photos)
        steps.append((step, "suspects"))
    wrong = sum(not row.correct for row in predictions)
    if wrong:
        step = text(
            "Look at the {mistakes}: some labels may be wrong, some photos bad.",
            mistakes=counted(wrong, "mistake"),
        )
        steps.append((step, "mistakes"))
    learned = Counter(
        label
        for row in record.split
        if row.part == "train" or row.fold is not None
        for label in row.labels
    )
    few = sorted((number, label) for label, number in learned.items() if number < FEW_TO_LEARN_FROM)
    if few:
        named = ", ".join(f"“{label}” ({number})" for number, label in few[:3])
        step = text("Add photos of the labels with the fewest: {labels}.", labels=named)
        steps.append((step, "collection"))
    score = record.task.photo_score
    ends = metrics.get(f"{score}_interval")
    if ends and ends[1] - ends[0] > WIDE_INTERVAL:
        steps.append(
            (
                text(
                    "Label more photos before you compare models: {photos} cannot tell small "
                    "differences.",
                    photos=counted(metrics["photos"], "photo"),
                ),
                "labels",
            )
        )
    if not steps:
        step = text("Try it on new photos: finetune predict photo.jpg")
        steps.append((step, "least-confident"))
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
        details.append(text("; 95 % interval {interval}", interval=ends))
    if key == "ece":
        by_chance = metrics.get("ece_honest")
        if by_chance is not None:
            details.append(
                text(
                    "; a perfectly calibrated model has {share} by chance on this many photos",
                    share=percent(by_chance),
                )
            )
        before = (metrics.get("uncalibrated") or {}).get("ece")
        if before is not None:
            details.append(text("; before calibration {share}", share=percent(before)))
    if key == "labels_a_photo":
        # Older runs call it labels_said.
        predicted = metrics.get("labels_predicted", metrics.get("labels_said"))
        details.append(text("; predicted: {number}", number=number(predicted, 2)))
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
        found += _weakest(rows, "recall", marked("recall"))
    else:
        found = _missed_and_extra(record.labels, predictions)
        found += _weakest(rows, "average_precision", marked("average precision"))
    few = sum(1 for row in rows.values() if 0 < row.get("photos", 0) < FEW_PHOTOS)
    if few:
        found.append(
            plural(
                "{count} label has fewer than {least} photos here, so its metrics are very "
                "uncertain.",
                "{count} labels have fewer than {least} photos here, so their metrics are very "
                "uncertain.",
                few,
                least=FEW_PHOTOS,
            )
        )
    never = [name for name, row in rows.items() if "threshold" in row and row["threshold"] is None]
    if never:
        names = ", ".join(f"“{name}”" for name in never[:4]) + (" …" if len(never) > 4 else "")
        found.append(
            text(
                "Never predicted, as no threshold reaches the requested precision: {labels}.",
                labels=names,
            )
        )
    negatives = [row for row in predictions if not row.truth]
    if negatives:
        correct = sum(not row.predicted_labels for row in negatives)
        found.append(
            text(
                "Of {photos} with none of the labels, {correct} got no label.",
                photos=counted(len(negatives), "photo"),
                correct=f"{correct:,}",
            )
        )
    found += calibration_sentences(record.calibration)
    if predictions and all(row.correct for row in predictions):
        found.append(
            text("No mistakes. Make sure these photos are as difficult as your future ones.")
        )
    return found


def _confusions(labels: Sequence[str], matrix: Integers) -> list[str]:
    return [
        text(
            "“{label}” is mistaken for “{other}” in {wrong} of {photos}.",
            label=labels[truth],
            other=labels[predicted],
            wrong=f"{photos:,}",
            photos=counted(int(matrix[truth].sum()), "photo"),
        )
        for truth, predicted, photos in worst_confusions(matrix, limit=2)
    ]


def _missed_and_extra(labels: Sequence[str], predictions: Sequence[Prediction]) -> list[str]:
    answers = count_answers(labels, predictions)
    found = []
    worst = max(answers, key=lambda label: answers[label][1], default=None)
    if worst is not None and answers[worst][1]:
        hits, missed, _ = answers[worst]
        found.append(
            text(
                "“{label}” is missed most often: in {missed} of its {photos}.",
                label=worst,
                missed=f"{missed:,}",
                photos=counted(hits + missed, "photo"),
            )
        )
    worst = max(answers, key=lambda label: answers[label][2], default=None)
    if worst is not None and answers[worst][2]:
        found.append(
            text(
                "“{label}” is wrongly predicted most often: for {photos} without it.",
                label=worst,
                photos=counted(answers[worst][2], "photo"),
            )
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
    return [
        text(
            "The weakest label is “{label}”: its {metric} is {share}.",
            label=label,
            metric=text(name),
            share=percent(score, 0),
        )
    ]


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
        text(
            "{networks} networks, trained as this one was, each predicted the photos of a fold "
            "held out of its training. Their scores: {scores}.",
            networks=folds["count"],
            scores=", ".join(percent(score) for score in folds["scores"]),
        ),
        text(
            "Their mean is {mean}, with a Student's t interval of {interval}, which is mostly too "
            "narrow, since the folds share most of their training photos (Bengio & Grandvalet "
            "2004). The interval above is Wilson's, over all photos together.",
            mean=percent(folds["mean"]),
            interval=interval((max(0.0, low), min(1.0, high))),
        ),
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
        return text(
            "The backbone was not trained. The head is a {head}: the lowest loss on held-out "
            "photos of those tried.",
            head=head,
        )
    epoch = best_epoch(record)
    if epoch is None:
        return ""
    share = record.config.get("share_of_training", 1.0)
    if share == 1:
        return text(
            "The weights are those of epoch {epoch}, the best on the validation photos.",
            epoch=epoch,
        )
    if share == 0:
        return text(
            "The weights are those of the frozen backbone with its head, although the full network "
            "was trained as well; its best epoch was {epoch}.",
            epoch=epoch,
        )
    return text(
        "The weights are a mix, {share} of the way from the frozen backbone with its head to "
        "epoch {epoch}, the best on the validation photos.",
        share=percent(share, 0),
        epoch=epoch,
    )

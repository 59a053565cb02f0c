"""Model card text for several labels a photo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.photos.split.split import SplitRow
from finetune.runs.card_text import (
    KINDS,
    MOST_LABELS,
    OF_THE_FOLDS,
    PARTS,
    ends,
    escaped,
    number,
    percent,
    weakest,
)

ANSWER = "labels"
"""Attribute of a prediction in the usage example."""


def metric_of(found: Mapping[str, Any]) -> tuple[str, float]:
    """Returns the type and value of the figure in the hub's block."""
    return "mean_average_precision", found["mean_average_precision"] or 0.0


def summary(model: str, labels: Sequence[str], judged: str, found: Mapping[str, Any]) -> str:
    """Returns the summary paragraph."""
    kind = KINDS.get(judged, judged)
    return (
        f"An image tagger of {len(labels)} labels, of which a photo may have several or none: a "
        f"{model}. On {found['photos']:,} {kind} photos its mean average precision is "
        f"{percent(found['mean_average_precision'])}{_interval(found, 'mean_average_precision')}."
    )


def label_table(labels: Sequence[str], rows: Sequence[SplitRow], found: Mapping[str, Any]) -> str:
    """Returns a row a label: photos by part, threshold, precision, recall, average precision."""
    counts = Counter((label, str(row.part)) for row in rows for label in row.labels)
    parts = [part for part in PARTS if any(key[1] == part for key in counts)]
    names = ("said from", "precision", "recall", "average precision")
    lines = [
        "| label | " + " | ".join((*parts, *names)) + " |",
        "|---|" + "---:|" * (len(parts) + len(names)),
    ]
    for label in labels[:MOST_LABELS]:
        figures = found.get("labels", {}).get(label, {})
        limit = figures.get("threshold")
        cells = [f"{counts[label, part]:,}" for part in parts]
        cells.append("never" if limit is None else f"{limit:.0%}")
        cells += [percent(figures.get(name.replace(" ", "_"))) for name in names[1:]]
        lines.append("| " + " | ".join((escaped(label), *cells)) + " |")
    none = Counter(str(row.part) for row in rows if not row.labels)
    if none:
        cells = [f"{none[part]:,}" for part in parts] + [""] * len(names)
        lines.append("| *none of these* | " + " | ".join(cells) + " |")
    if len(labels) > MOST_LABELS:
        lines.append(f"\nand {len(labels) - MOST_LABELS:,} more; see labels.json.")
    return "\n".join(lines)


def accuracy(metrics: Mapping[str, Any]) -> str:
    """Returns a row a part."""
    lines = [
        "| part | photos | mAP | 95 % interval | all labels right | macro F1 | micro F1 | "
        "wrong yes/no answers |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for part in (*PARTS, "folds"):
        found = metrics.get(part)
        if found:
            lines.append(
                f"| {part} | {found['photos']:,} | {percent(found['mean_average_precision'])} | "
                f"{ends(found.get('mean_average_precision_interval'))} | "
                f"{percent(found['exact_match'])} | {percent(found['macro_f1'])} | "
                f"{percent(found['micro_f1'])} | {percent(found['hamming_loss'])} |"
            )
    if "folds" in metrics:
        lines.append(f"\n{OF_THE_FOLDS}")
    elif "test" not in metrics:
        lines.append(
            "\nThe validation photos chose the epoch, the thresholds and the temperature, so that "
            "these figures lean to the good side; there is no test part."
        )
    return "\n".join(lines)


def calibration(content: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Returns the paragraph on calibration and thresholds."""
    goal = content.get("thresholds_for")
    aim = (
        f"so that {goal['precision']:.0%} of its answers are right"
        if isinstance(goal, Mapping)
        else "for the best F1"
    )
    before, after = (found.get("uncalibrated") or {}).get("ece"), found.get("ece")
    error = (
        ""
        if after is None
        else f" Expected calibration error of all yes/no answers: {number(after)} "
        f"({number(before)} before)."
    )
    return (
        f"Each label's probability is sigmoid(logit / {content['temperature']:.4g}), independent "
        "of the others. A label is said from its own threshold on, which was chosen "
        f"{aim}; a photo of which none is said shows none of these. Temperature and thresholds "
        f"come from {content.get('photos', 0):,} {content.get('fitted_on', 'validation')} photos."
        f"{error}"
    )


def intended_use(judged: str, found: Mapping[str, Any]) -> str:
    """Returns the intended use, with the weakest labels."""
    worst = sorted(
        (figures["average_precision"], label)
        for label, figures in found.get("labels", {}).items()
        if figures.get("average_precision") is not None
    )[:3]
    return (
        "To name what is on photos like those it was trained on: same kinds of subject, places and "
        "cameras. It knows no label but those above. It is not meant for decisions about people, "
        "health or safety." + weakest("Least average precision", judged, worst)
    )


def _interval(found: Mapping[str, Any], name: str) -> str:
    shown = ends(found.get(f"{name}_interval"))
    return f" (95 % interval {shown})" if shown else ""

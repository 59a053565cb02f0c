"""Model card text for one label a photo."""

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

ANSWER = "label"
"""Attribute of a prediction in the usage example."""


def metric_of(found: Mapping[str, Any]) -> tuple[str, float]:
    """Returns the type and value of the figure in the hub's block."""
    return "accuracy", found["top1"]


def summary(model: str, labels: Sequence[str], judged: str, found: Mapping[str, Any]) -> str:
    """Returns the summary paragraph."""
    interval = ends(found.get("top1_interval"))
    return (
        f"An image classifier of {len(labels)} labels: a {model}. On {found['photos']:,} "
        f"{KINDS.get(judged, judged)} photos it is right {found['top1']:.1%} of the time"
        f"{f' (95 % interval {interval})' if interval else ''}."
    )


def label_table(labels: Sequence[str], rows: Sequence[SplitRow], found: Mapping[str, Any]) -> str:
    """Returns a row a label: photos by part, precision, recall."""
    counts = Counter((row.labels[0], str(row.part)) for row in rows)
    parts = [part for part in PARTS if any(key[1] == part for key in counts)]
    lines = [
        "| label | " + " | ".join((*parts, "precision", "recall")) + " |",
        "|---|" + "---:|" * (len(parts) + 2),
    ]
    by_label = found.get("labels", {})
    for label in labels[:MOST_LABELS]:
        figures = by_label.get(label, {})
        cells = [f"{counts[label, part]:,}" for part in parts]
        cells += [percent(figures.get("precision")), percent(figures.get("recall"))]
        lines.append("| " + " | ".join((escaped(label), *cells)) + " |")
    if len(labels) > MOST_LABELS:
        lines.append(f"\nand {len(labels) - MOST_LABELS:,} more; see labels.json.")
    return "\n".join(lines)


def accuracy(metrics: Mapping[str, Any]) -> str:
    """Returns a row a part."""
    lines = [
        "| part | photos | right | 95 % interval | balanced | log loss | calibration error |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    for part in (*PARTS, "folds"):
        found = metrics.get(part)
        if found:
            lines.append(
                f"| {part} | {found['photos']:,} | {found['top1']:.1%} | "
                f"{ends(found.get('top1_interval'))} | "
                f"{percent(found.get('balanced_accuracy'))} | {number(found.get('log_loss'))} | "
                f"{number(found.get('ece'))} |"
            )
    if "folds" in metrics:
        lines.append(f"\n{OF_THE_FOLDS}")
    elif "test" not in metrics:
        lines.append(
            "\nThe validation photos chose the epoch and fitted the calibration, so that these "
            "figures lean to the good side; there is no test part."
        )
    return "\n".join(lines)


def calibration(content: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Returns the paragraph on calibration and thresholds."""
    source = content.get("fitted_on", "validation")
    text = (
        f"Probabilities are softmax(logits / {content['temperature']:.4g}); the temperature "
        f"was fitted on {content.get('photos', 0):,} {source} "
        f"photos. Expected calibration error: {number(found.get('ece'))} "
        f"({number((found.get('uncalibrated') or {}).get('ece'))} before)."
    )
    if found.get("ece_honest") is not None:
        text += (
            f" A perfectly calibrated model of this size: {number(found['ece_honest'])} by chance."
        )
    unknown = content.get("unknown")
    if unknown and unknown.get("threshold") is not None:
        text += (
            f"\n\nBelow a score ({unknown['score']}) of {unknown['threshold']:.4g} the answer is "
            f'"none of these". The threshold was chosen so that {unknown["precision"]:.0%} of the '
            f"answers given are right; {unknown['coverage']:.1%} of the photos of its own labels "
            "are answered."
        )
        if unknown.get("unknown_photos") and unknown.get("unknown_share"):
            text += (
                f" That reckons with {unknown['unknown_share']:.0%} of photos of labels it was "
                "never trained on, as hard to tell as the hardest of its own when held out."
            )
    return text


def intended_use(judged: str, found: Mapping[str, Any]) -> str:
    """Returns the intended use, with the weakest labels."""
    worst = sorted(
        (figures["recall"], label)
        for label, figures in found.get("labels", {}).items()
        if figures.get("recall") is not None
    )[:3]
    return (
        "To name what is on photos like those it was trained on: same kinds of subject, places and "
        "cameras. It knows no label but those above, and a photo of anything else gets one of them "
        "unless the score for unknown photos says so. It is not meant for decisions about people, "
        "health or safety." + weakest("Found least often", judged, worst)
    )

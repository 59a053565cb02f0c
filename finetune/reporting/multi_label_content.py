"""What the page of a run is filled with whose photos have several labels or none."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.evaluation.predictions import Prediction
from finetune.photos.split.leakage import prove_split
from finetune.reporting import charts, formatting, gallery
from finetune.reporting.report_content import (
    Extras,
    media_type,
    shared_values,
    suspects_data,
)
from finetune.reporting.run_record import RunRecord


def page_data(
    record: RunRecord,
    rows: Sequence[Prediction],
    kept: Sequence[int],
    thumbnails: Mapping[str, bytes],
    extras: Extras,
) -> dict[str, Any]:
    """Returns what the page's scripts read; `kept` are the places of the photos it knows."""
    index = {label: k for k, label in enumerate(record.labels)}
    new_place = {old: new for new, old in enumerate(kept)}

    def places(found: Sequence[int]) -> list[int]:
        return [new_place[k] for k in found if k in new_place]

    def numbers(labels: Sequence[str]) -> list[int]:
        return [index.get(label, -1) for label in labels]

    return {
        "several": True,
        "labels": record.labels,
        "photos": [
            [
                rows[k].path,
                numbers(rows[k].truth),
                [[index.get(name, -1), round(p, 5)] for name, p in rows[k].ranked],
                numbers(rows[k].predicted_labels),
                round(rows[k].probability, 5),
            ]
            for k in kept
        ],
        "thumbnails": {path: base64.b64encode(b).decode() for path, b in thumbnails.items()},
        "overlays": {
            path: f"data:{media_type(content)};base64,{base64.b64encode(content).decode()}"
            for path, content in extras.overlays.items()
        },
        "galleries": {
            "mistakes": places(gallery.mistakes(rows)),
            "surest": places(surest_right(rows, record.labels)),
            "least_sure": places(gallery.least_sure(rows)),
        },
        **suspects_data(extras),
        "charts": _charts(record, rows),
    }


def surest_right(rows: Sequence[Prediction], labels: Sequence[str]) -> list[int]:
    """Returns for each label the photo that has it and is surest to, each photo once."""
    best: dict[str, tuple[float, int]] = {}
    for k, row in enumerate(rows):
        shares = dict(row.ranked)
        for label in set(row.truth) & set(row.predicted_labels):
            share = shares.get(label, 0.0)
            if label not in best or share > best[label][0]:
                best[label] = (share, k)
    return list(dict.fromkeys(best[label][1] for label in labels if label in best))


def template_values(
    record: RunRecord, part: str, rows: Sequence[Prediction], extras: Extras
) -> dict[str, Any]:
    """Returns what the page's template reads."""
    metrics = record.metrics[part]
    return {
        **shared_values(record, part, extras),
        "figures": key_figures(metrics),
        "findings": findings(record, metrics, rows),
        "labels": _label_rows(record, metrics),
        "wrong": sum(not row.correct for row in rows),
        "without": sum(not row.truth for row in rows),
        "aim": _aim(record),
        "unlabeled": sum(not row.labels for row in record.split),
    }


def key_figures(part: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the main figures of a part as (name, value, what it means)."""

    def ends(name: str) -> str:
        found = formatting.interval(part.get(f"{name}_interval"))
        return f"; 95 % interval {found}" if found else ""

    before = (part.get("uncalibrated") or {}).get("ece")
    was = f"; before calibration {formatting.percent(before)}" if before is not None else ""
    percent, number = formatting.percent, formatting.number
    return [
        (
            "All labels right",
            percent(part.get("exact_match")),
            "photos of which not one label is missed or wrongly said" + ends("exact_match"),
        ),
        (
            "Macro F1",
            percent(part.get("macro_f1")),
            "mean of each label's balance of precision and recall" + ends("macro_f1"),
        ),
        (
            "Micro F1",
            percent(part.get("micro_f1")),
            "the same over all labels together" + ends("micro_f1"),
        ),
        (
            "Wrong yes/no answers",
            percent(part.get("hamming_loss")),
            "share of all (photo, label) questions that are answered wrongly (Hamming loss)",
        ),
        (
            "Labels a photo",
            number(part.get("labels_a_photo"), 2),
            f"it says {number(part.get('labels_predicted', part.get('labels_said')), 2)}",
        ),
        (
            "Micro AP",
            percent(part.get("micro_average_precision")),
            "how well all its probabilities together rank right before wrong",
        ),
        (
            "Calibration error",
            percent(part.get("ece")),
            f"mean gap between how sure and how often right (ECE), over all yes/no answers{was}",
        ),
        ("Log loss", number(part.get("log_loss")), "in nats a photo, all labels; 0 is perfect"),
        ("Brier score", number(part.get("brier")), "of a yes/no answer; 0 is perfect, 1 the worst"),
    ]


def findings(record: RunRecord, part: Mapping[str, Any], rows: Sequence[Prediction]) -> list[str]:
    """Returns what stands out, a sentence each, the most useful first."""
    missed = dict.fromkeys(record.labels, 0)
    extra = dict.fromkeys(record.labels, 0)
    for row in rows:
        for label in set(row.truth) - set(row.predicted_labels):
            missed[label] = missed.get(label, 0) + 1
        for label in set(row.predicted_labels) - set(row.truth):
            extra[label] = extra.get(label, 0) + 1
    figures = part.get("labels") or {}
    said = []
    worst = max(missed, key=lambda label: missed[label], default=None)
    if worst is not None and missed[worst]:
        photos = formatting.count(int(figures.get(worst, {}).get("photos", 0)), "photo")
        said.append(f"“{worst}” is missed most often: in {missed[worst]:,} of its {photos}.")
    worst = max(extra, key=lambda label: extra[label], default=None)
    if worst is not None and extra[worst]:
        times = formatting.count(extra[worst], "photo")
        said.append(f"“{worst}” is said wrongly most often: of {times} that do not show it.")
    weak = [
        (row["average_precision"], name)
        for name, row in figures.items()
        if row.get("average_precision") is not None and row.get("photos", 0) >= 5
    ]
    if weak and min(weak)[0] < 1:
        share, name = min(weak)
        said.append(
            f"The weakest label is “{name}”: average precision {formatting.percent(share, 0)}."
        )
    few = sum(1 for row in figures.values() if 0 < row.get("photos", 0) < 5)
    if few:
        said.append(
            f"{formatting.count(few, 'label has', 'labels have')} fewer than 5 photos here, "
            "so that their own figures say little."
        )
    never = [name for name, row in figures.items() if row.get("threshold") is None]
    if never:
        names = ", ".join(f"“{name}”" for name in never[:4]) + (" …" if len(never) > 4 else "")
        said.append(f"Never said, as no threshold reached the precision asked for: {names}.")
    without = [row for row in rows if not row.truth]
    if without:
        right = sum(not row.predicted_labels for row in without)
        said.append(
            f"Of {formatting.count(len(without), 'photo')} that show none of the labels, it says "
            f"nothing of {right:,}."
        )
    if rows and all(row.correct for row in rows):
        said.append("Not one mistake. Are these photos as hard as those that will come?")
    return said


def _aim(record: RunRecord) -> str:
    goal = record.calibration.get("thresholds_for")
    if isinstance(goal, Mapping):
        share = formatting.percent(goal.get("precision"), 0)
        return f"so that {share} of the label’s answers are right on the validation photos"
    return "for the best F1 on the validation photos"


def _charts(record: RunRecord, rows: Sequence[Prediction]) -> dict[str, charts.Figure]:
    metrics = record.metrics[rows[0].part]
    figures = {
        "reliability": charts.reliability(metrics, counted="yes/no answers"),
        "coverage": charts.accuracy_by_coverage(rows),
        "answers": charts.answers_by_label(_counts(record, rows)),
    }
    if record.epochs:
        figures |= {
            "loss": charts.learning_curves(record.epochs)["loss"],
            "score": charts.score_curve(record.epochs, "mAP (validation)"),
        }
    if record.split:
        figures["collection"] = charts.photos_by_label(prove_split(record.split).by_label)
    return figures


def _counts(record: RunRecord, rows: Sequence[Prediction]) -> dict[str, tuple[int, int, int]]:
    """Returns how often each label was found, missed and wrongly said."""
    index = {label: k for k, label in enumerate(record.labels)}
    found = np.zeros((len(index), 3), dtype=np.int64)
    for row in rows:
        truth, said = set(row.truth), set(row.predicted_labels)
        for kind, labels in enumerate((truth & said, truth - said, said - truth)):
            for label in labels & index.keys():
                found[index[label], kind] += 1
    return {label: (int(a), int(b), int(c)) for label, (a, b, c) in zip(index, found, strict=True)}


def _label_rows(record: RunRecord, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    empty = dict.fromkeys(
        ("precision", "recall", "f1", "average_precision", "threshold",
         "precision_interval", "recall_interval")
    )  # fmt: skip
    return [
        {
            "index": k,
            "label": label,
            "photos": 0,
            "predicted": 0,
            **empty,
            **(metrics.get("labels") or {}).get(label, {}),
        }
        for k, label in enumerate(record.labels)
    ]

"""What a report's page is filled with: the data its scripts read, the values its template reads."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.evaluation.predictions import Prediction
from finetune.evaluation.probabilities import Integers
from finetune.photos.split.leakage import prove_split
from finetune.reporting import charts, formatting, gallery
from finetune.reporting import gallery as confusion_order
from finetune.reporting.run_record import RunRecord, find_setting, setting_sections

MAX_ROWS = 20_000
"""Photos that a page knows by name; beyond it, right answers without a picture are left out."""

MAX_MATRIX = 150
"""Labels on the axes of the confusion matrix; beyond it, those in most mistakes."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A photo whose label is likely wrong.

    Attributes:
        path: As in the collection.
        label: The label it has; None: it lacks the suggested one, of several that it may have.
        suggested: The label it looks like; None: of several that it may have, not the one it has.
        probability: Of what is suggested, by a network that never trained on this photo.
    """

    path: str
    label: str | None
    suggested: str | None
    probability: float


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a report shows beside the run's own files.

    Attributes:
        part: Which part to report on; None: test, else validation, else train.
        overlays: By path, an encoded image (JPEG, PNG or WebP) of what the network looked at.
        suspects: Likely wrong labels, the likeliest first.
        annotate_url: Where the annotation page takes a photo's path, such as
            ``http://127.0.0.1:8000/#``; None: no links.
    """

    part: str | None = None
    overlays: Mapping[str, bytes] = field(default_factory=dict)
    suspects: Sequence[Suspect] = ()
    annotate_url: str | None = None


def kept_rows(rows: Sequence[Prediction], shown: Sequence[int]) -> list[int]:
    """Returns the places of the photos that the page knows: shown, then wrong, then the rest."""
    if len(rows) <= MAX_ROWS:
        return list(range(len(rows)))
    every = dict.fromkeys([*shown, *gallery.mistakes(rows), *range(len(rows))])
    return sorted(list(every)[:MAX_ROWS])


def page_data(
    record: RunRecord,
    rows: Sequence[Prediction],
    kept: Sequence[int],
    matrix: Integers,
    thumbnails: Mapping[str, bytes],
    extras: Extras,
) -> dict[str, Any]:
    """Returns what the page's scripts read; `kept` are the places of the photos it knows."""
    label_index = {label: k for k, label in enumerate(record.labels)}
    new_place = {old: new for new, old in enumerate(kept)}

    def places(found: Sequence[int]) -> list[int]:
        return [new_place[k] for k in found if k in new_place]

    return {
        "labels": record.labels,
        "photos": [
            [
                rows[k].path,
                label_index[rows[k].label],
                [[label_index.get(name, -1), round(p, 5)] for name, p in rows[k].ranked],
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
            "surest": places(gallery.surest_correct(rows, record.labels)),
            "least_sure": places(gallery.least_sure(rows)),
        },
        "matrix": _matrix_data(matrix),
        **suspects_data(extras),
        "charts": _charts(record, rows),
    }


def suspects_data(extras: Extras) -> dict[str, Any]:
    """Returns what the page's script reads of likely wrong labels."""
    return {
        "suspects": [[s.path, s.label, s.suggested, s.probability] for s in extras.suspects],
        "annotate_url": extras.annotate_url,
    }


def _charts(record: RunRecord, rows: Sequence[Prediction]) -> dict[str, charts.Figure]:
    figures = {
        "reliability": charts.reliability(record.metrics[rows[0].part]),
        "coverage": charts.accuracy_by_coverage(rows),
    }
    if record.epochs:
        figures |= charts.learning_curves(record.epochs)
    if record.split:
        figures["collection"] = charts.photos_by_label(prove_split(record.split).by_label)
    return figures


def _matrix_data(matrix: Integers) -> dict[str, Any]:
    chosen = list(range(len(matrix)))
    if len(matrix) > MAX_MATRIX:
        chosen = confusion_order.most_confused(matrix, MAX_MATRIX)
    part = matrix[np.ix_(chosen, chosen)]
    return {
        "labels": chosen,
        # A label's photos on the axis may be more than its row adds up to, where labels are left
        # out; shares are of all its photos.
        "photos": matrix.sum(axis=1)[chosen].tolist(),
        "counts": part.tolist(),
        "orders": {
            "confusion": confusion_order.by_confusion(part),
            "recall": confusion_order.by_recall(part),
            "labels": list(range(len(chosen))),
        },
    }


def template_values(
    record: RunRecord, part: str, matrix: Integers, extras: Extras
) -> dict[str, Any]:
    """Returns what the page's template reads."""
    metrics = record.metrics[part]
    wrong = int(matrix.sum() - matrix.trace())
    return {
        **shared_values(record, part, extras),
        "figures": formatting.key_figures(metrics),
        "findings": formatting.findings(record, metrics, matrix),
        "labels": _label_rows(record, metrics, matrix),
        "wrong": wrong,
        "matrix_cut": len(matrix) > MAX_MATRIX,
        "max_matrix": MAX_MATRIX,
        "folds": formatting.folds(record.config.get("folds")),
    }


def shared_values(record: RunRecord, part: str, extras: Extras) -> dict[str, Any]:
    """Returns what the pages of runs of one label and of several labels a photo both read."""
    return {
        "record": record,
        "part": part,
        "suspects": extras.suspects,
        "part_words": formatting.PART_WORDS.get(part, "photos"),
        "metrics": record.metrics[part],
        "other_parts": [
            (name, values)
            for name, values in record.metrics.items()
            if name != part and values.get("photos")
        ],
        "facts": facts_of(record),
        "epochs": record.epochs,
        "best_epoch": best_epoch(record),
        "kept_weights": kept_weights(record),
        "training_time": formatting.duration(
            sum(float(e.get("seconds") or 0) for e in record.epochs)
        ),
        "proof": prove_split(record.split) if record.split else None,
        "sections": setting_sections(record.config),
        "has_overlays": bool(extras.overlays),
        "percent": formatting.percent,
        "number": formatting.number,
        "count": formatting.count,
        "interval": formatting.interval,
    }


def facts_of(record: RunRecord) -> list[str]:
    """Returns what stands under a report's title: model, mode, device, day, size."""
    found = []
    for name in ("model", "mode", "device"):
        value = find_setting(record.config, name)
        if isinstance(value, str) and value:
            found.append(value)
    started = find_setting(record.config, "started")
    if isinstance(started, str):
        found.append(started[:10])
    if record.parameters is not None:
        found.append(f"{record.parameters / 1e6:.1f} million parameters")
    return found


def best_epoch(record: RunRecord) -> int | None:
    """Returns the epoch whose weights were kept, from 1; None where nothing says so."""
    told = record.config.get("best_epoch")
    if isinstance(told, int):
        return told
    scored = [e for e in record.epochs if e.get("validation_accuracy") is not None]
    if not scored:
        return None
    chosen = [e for e in scored if e.get("best")]
    if chosen:
        return int(chosen[-1]["epoch"])
    return int(max(scored, key=lambda e: (e["validation_accuracy"], -e["epoch"]))["epoch"])


def kept_weights(record: RunRecord) -> str:
    """Returns which weights became the model, in a sentence; empty where nothing says so."""
    epoch = best_epoch(record)
    if epoch is None:
        return ""
    share = record.config.get("share_of_training", 1.0)
    of_epoch = f"epoch {epoch}, the best on the validation photos"
    if share == 1:
        return f"The weights are those of {of_epoch}."
    if share == 0:
        return (
            "The weights are those before the first epoch, with the head that learned on the "
            "frozen backbone: the validation photos liked none better."
        )
    return (
        f"The weights lie at {share:.0%} of the way from the start to {of_epoch}: there they suit "
        "those photos best."
    )


def _label_rows(
    record: RunRecord, metrics: Mapping[str, Any], matrix: Integers
) -> list[dict[str, Any]]:
    found = []
    for k, label in enumerate(record.labels):
        wrong = matrix[k].copy()
        wrong[k] = 0
        worst = int(wrong.argmax()) if wrong.any() else None
        found.append(
            {
                "index": k,
                "label": label,
                "taken_for": record.labels[worst] if worst is not None else None,
                "taken_photos": int(wrong[worst]) if worst is not None else 0,
                **dict.fromkeys(("precision", "recall", "f1", "average_precision")),
                "precision_interval": None,
                "recall_interval": None,
                "photos": int(matrix[k].sum()),
                **(metrics.get("labels") or {}).get(label, {}),
            }
        )
    return found


def media_type(content: bytes) -> str:
    """Returns the media type of an encoded JPEG, PNG or WebP image."""
    if content.startswith(b"\x89PNG"):
        return "image/png"
    if content[8:12] == b"WEBP":
        return "image/webp"
    return "image/jpeg"

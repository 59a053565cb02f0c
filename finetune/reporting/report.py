"""Report of a run as one HTML file that works offline."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from finetune.errors import RunError
from finetune.evaluation.confusion import (
    confusion_matrix,
    most_confused,
    order_by_confusion,
    order_by_recall,
)
from finetune.evaluation.learning_curve import LearningCurve
from finetune.evaluation.predictions import Prediction
from finetune.evaluation.probabilities import Integers
from finetune.formatting import duration
from finetune.messages import text
from finetune.photos.split.leakage import prove_split
from finetune.reporting import charts, gallery, summary
from finetune.reporting.chart import Chart
from finetune.reporting.outlook import (
    HarmfulPhoto,
    label_rows,
    learning_curve_chart,
    pair_rows,
)
from finetune.reporting.page import ANNOTATE_URL, write_page
from finetune.reporting.pictures import write_pictures
from finetune.reporting.run_record import RunRecord, find_setting, read_run, setting_sections
from finetune.reporting.tree import tree_rows
from finetune.runs.folder import RunFolder
from finetune.runs.outlook import curve_sentences, read_curve

MAX_PHOTOS = 500
"""Default maximum number of photos in a page; about 10 KB each."""

MAX_ROWS = 20_000
"""Maximum number of photos listed by name; correct ones without a thumbnail are left out first."""

MAX_MATRIX = 150
"""Maximum number of labels in the confusion matrix; those with the most mistakes are kept."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Photo with a likely label error.

    Attributes:
        path: As in the collection.
        label: Doubtful label; None if only a missing label is suggested.
        suggested: Suggested label; None if only `label` is doubted.
        probability: Probability of the suggestion, by a network not trained on this photo.
    """

    path: str
    label: str | None
    suggested: str | None
    probability: float


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Content of a report that is not in the run's files.

    Attributes:
        part: Part to report on; None: the first with photos, see `RunRecord.part`.
        overlays: Encoded images (JPEG, PNG or WebP) with a Grad-CAM overlay, by path.
        suspects: Likely label errors, the likeliest first.
        curve: Learning curve; None: that of the training, if it has one.
        harmful: Training photos that harm most, first.
        annotate_url: Prefix of a photo's path on the annotation page; None omits the links.
    """

    part: str | None = None
    overlays: Mapping[str, bytes] = field(default_factory=dict)
    suspects: Sequence[Suspect] = ()
    curve: LearningCurve | None = None
    harmful: Sequence[HarmfulPhoto] = ()
    annotate_url: str | None = ANNOTATE_URL


@dataclass(frozen=True, kw_only=True)
class Report:
    """Written report.

    Attributes:
        path: The HTML file.
        part: Reported part.
        photos: Photos of that part.
        thumbnails: Photos of that part shown with a thumbnail.
        others: Photos of other parts shown: likely label errors.
        failed: Reasons of photos that could not be opened, by path.
        pictures: Written pictures.
        size_bytes: Size of the file.
    """

    path: Path
    part: str
    photos: int
    thumbnails: int
    others: int
    failed: Mapping[str, str]
    size_bytes: int
    pictures: tuple[Path, ...] = ()


def write_report(
    run_folder: Path,
    *,
    photos_root: Path | None = None,
    max_photos: int = MAX_PHOTOS,
    output: Path | None = None,
    images: Path | None = None,
    extras: Extras | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Writes ``report.html`` of a run.

    Args:
        run_folder: The run.
        photos_root: Root of the collection; None omits the thumbnails.
        max_photos: Maximum number of thumbnails.
        output: The file to write; None: ``report.html`` in the run.
        images: Folder for the report's pictures; None writes none. See `pictures.write_pictures`.
        extras: Content that is not in the run's files.
        progress: Called as ``progress(done, total)`` while thumbnails are made.

    Raises:
        RunError: The folder is no finished run, or was not evaluated.
        StorageError: The file could not be written; an older one is intact.
    """
    extras = extras or Extras()
    record = read_run(run_folder)
    part = record.part(extras.part)
    rows = record.predictions_of(part)
    if not rows:
        raise RunError(
            f"{run_folder} has no predictions of its {part} part. "
            f"Write them again with: finetune evaluate {record.name}"
        )
    matrix = _check_and_count(record, rows)
    curve = extras.curve or read_curve(RunFolder(run_folder))

    place = {row.path: k for k, row in enumerate(rows)}
    first = [place[path] for path in extras.overlays if path in place]
    shown = gallery.choose_photos(rows, record.labels, limit=max(0, max_photos), first=first)
    paths = [rows[k].path for k in shown]
    doubted = [h.path for h in extras.harmful] + [s.path for s in extras.suspects]
    others = dict.fromkeys(doubted)
    paths += [path for path in others if path not in place][: max(0, max_photos)]
    thumbnails: Mapping[str, bytes] = {}
    failed: Mapping[str, str] = {}
    if photos_root:
        thumbnails, failed = gallery.make_thumbnails(photos_root, paths, progress=progress)
    if failed:
        logger.info("%d of %d photos could not be opened", len(failed), len(paths))

    path = write_page(
        output or run_folder / "report.html",
        "report.html.j2",
        scripts=("base.js", "photos.js", "report.js"),
        data={
            "part": part,
            "multi_label": matrix is None,
            "thumbnails": {path: _encoded(jpeg) for path, jpeg in thumbnails.items()},
            "overlays": {
                path: f"data:{_media_type(image)};base64,{_encoded(image)}"
                for path, image in extras.overlays.items()
            },
            "harmful": [[h.path, h.label, h.looks_like, h.harm] for h in extras.harmful],
            "suspects": [[s.path, s.label, s.suggested, s.probability] for s in extras.suspects],
            "annotate_url": extras.annotate_url,
            "photos_url": _relative_url(photos_root, output or run_folder / "report.html"),
            **_photo_data(record, rows, _listed(rows, shown)),
            "matrix": None if matrix is None else _matrix_data(matrix),
        },
        charts=_charts(record, rows)
        | ({} if curve is None else {"learning": learning_curve_chart(curve)}),
        **_template_values(record, part, rows, matrix),
        curve=curve,
        curve_sentences=[] if curve is None else curve_sentences(curve, record.labels),
        curve_labels=[] if curve is None else label_rows(curve, record.labels),
        look_alikes=[] if curve is None else pair_rows(curve, record.labels),
        harmful=extras.harmful,
        steps=summary.next_steps(record, record.metrics[part], rows, suspects=len(extras.suspects)),
        suspects=extras.suspects,
        has_overlays=bool(extras.overlays),
        shown_photos=sum(path in place for path in thumbnails),
        failed_photos=len(failed),
    )
    pictures: list[Path] = []
    if images is not None:
        pictures = write_pictures(images, record, rows, matrix, photos_root=photos_root)
    return Report(
        path=path,
        pictures=tuple(pictures),
        part=part,
        photos=len(rows),
        thumbnails=sum(path in place for path in thumbnails),
        others=sum(path not in place for path in thumbnails),
        failed=failed,
        size_bytes=path.stat().st_size,
    )


def _relative_url(root: Path | None, page: Path) -> str | None:
    """Returns the folder of the photos as seen from a page; None if it has no relative path.

    Relative, so that a report that is passed on does not name folders of this machine.
    """
    if root is None:
        return None
    try:
        return quote(Path(os.path.relpath(root, page.resolve().parent)).as_posix()) + "/"
    except ValueError:  # another drive
        return None


def _check_and_count(record: RunRecord, rows: Sequence[Prediction]) -> Integers | None:
    """Returns the confusion matrix, or None if photos may have several labels.

    Raises:
        RunError: A label is not one of the run's.
    """
    index = {label: k for k, label in enumerate(record.labels)}
    single = all(row.label_set is None for row in rows)
    for row in rows:
        for label in (*row.truth, *(row.predicted_labels if single else ())):
            if label not in index:
                raise RunError(
                    f"{record.name}: predictions.csv has the label {label!r}, which labels.json "
                    f"has not. Write it again with: finetune evaluate {record.name}"
                )
    if not single:
        return None
    return confusion_matrix(
        [index[row.label] for row in rows], [index[row.predicted] for row in rows], len(index)
    )


def _listed(rows: Sequence[Prediction], shown: Sequence[int]) -> list[int]:
    """Returns the positions of the listed photos: those shown, then mistakes, then the others."""
    every = dict.fromkeys([*shown, *gallery.mistakes(rows), *range(len(rows))])
    return sorted(list(every)[:MAX_ROWS])


def _photo_data(
    record: RunRecord, rows: Sequence[Prediction], listed: Sequence[int]
) -> dict[str, Any]:
    index = {label: k for k, label in enumerate(record.labels)}
    position = {row: k for k, row in enumerate(listed)}

    def numbers(labels: Sequence[str]) -> list[int]:
        return [index.get(label, -1) for label in labels]

    return {
        "labels": record.labels,
        "photos": [
            [
                rows[k].path,
                numbers(rows[k].truth),
                [[index.get(name, -1), round(p, 5)] for name, p in rows[k].ranked],
                numbers(rows[k].predicted_labels),
                round(rows[k].probability, 5),
            ]
            for k in listed
        ],
        "galleries": {
            name: [position[k] for k in found if k in position]
            for name, found in (
                ("mistakes", gallery.mistakes(rows)),
                ("most_confident", gallery.most_confident(rows, record.labels)),
                ("least_confident", gallery.least_confident(rows)),
            )
        },
    }


def _matrix_data(matrix: Integers) -> dict[str, Any]:
    chosen = list(range(len(matrix)))
    if len(matrix) > MAX_MATRIX:
        chosen = most_confused(matrix, MAX_MATRIX)
    part = matrix[np.ix_(chosen, chosen)]
    return {
        "labels": chosen,
        # If labels are left out, a row may add up to fewer photos than the label has; shares are
        # of all its photos.
        "photos": matrix.sum(axis=1)[chosen].tolist(),
        "counts": part.tolist(),
        "orders": {
            "confusion": order_by_confusion(part),
            "recall": order_by_recall(part),
            "labels": list(range(len(chosen))),
        },
    }


def _charts(record: RunRecord, rows: Sequence[Prediction]) -> dict[str, Chart]:
    task = record.task
    reliability = charts.reliability(record.metrics[rows[0].part], counted=task.bin_unit)
    figures = {"reliability": reliability}
    coverage = charts.accuracy_by_coverage(rows)
    if coverage is not None:
        figures["coverage"] = coverage
    if record.epochs and not record.fitted:
        figures["loss"] = charts.loss_curves(record.epochs)
        figures["score"] = charts.score_curves(record.epochs, task)
    return figures


def _template_values(
    record: RunRecord, part: str, rows: Sequence[Prediction], matrix: Integers | None
) -> dict[str, Any]:
    metrics = record.metrics[part]
    wrong = sum(not row.correct for row in rows)
    proof = prove_split(record.split) if record.split else None
    return {
        "record": record,
        "task": record.task,
        "part": part,
        "part_note": text(summary.PART_NOTES.get(part, "photos")),
        "metrics": metrics,
        "figures": summary.key_figures(record.task, metrics),
        "highlights": summary.find_highlights(record, metrics, rows, matrix),
        "folds": summary.describe_folds(record.config.get("folds")),
        "other_parts": [
            (name, values)
            for name, values in record.metrics.items()
            if name != part and values.get("photos")
        ],
        "facts": _facts(record),
        "has_matrix": matrix is not None,
        "max_matrix": MAX_MATRIX,
        "wrong": wrong,
        "headline": summary.headline(record, part, metrics, wrong),
        "labels": _label_rows(record, metrics, matrix),
        "tree": tree_rows(record, rows),
        "thresholds_for": record.calibration.get("thresholds_for"),
        "epochs": record.epochs,
        "folded": any(row.fold is not None for row in record.split),
        "weights": summary.describe_weights(record),
        "training_time": duration(sum(float(e.get("seconds") or 0) for e in record.epochs)),
        "proof": proof,
        "photo_bars": charts.photos_by_label(proof.by_label) if proof else None,
        "answer_bars": None
        if matrix is not None
        else charts.answers_by_label(summary.count_answers(record.labels, rows)),
        "unlabeled": sum(not row.labels for row in record.split),
        "sections": setting_sections(record.config),
    }


def _facts(record: RunRecord) -> list[str]:
    found = []
    for name in ("model", "mode", "device"):
        value = find_setting(record.config, name)
        if isinstance(value, str) and value:
            found.append(value)
    started = find_setting(record.config, "started")
    if isinstance(started, str):
        found.append(started[:10])
    if record.parameters is not None:
        found.append(
            text("{millions} million parameters", millions=f"{record.parameters / 1e6:.1f}")
        )
    return found


def _label_rows(
    record: RunRecord, metrics: Mapping[str, Any], matrix: Integers | None
) -> list[dict[str, Any]]:
    """Returns the table of labels; metrics that an older run lacks are None."""
    rows = []
    for k, label in enumerate(record.labels):
        row: dict[str, Any] = {"index": k, "label": label, "photos": 0, "predicted": 0}
        row |= dict.fromkeys(("precision", "recall", "f1", "average_precision", "threshold"))
        row |= {"precision_interval": None, "recall_interval": None}
        row |= {"confused_with": None, "confused_photos": 0}
        if matrix is not None:
            row |= {"photos": int(matrix[k].sum()), "predicted": int(matrix[:, k].sum())}
            wrong = matrix[k].copy()
            wrong[k] = 0
            if wrong.any():
                worst = int(wrong.argmax())
                row["confused_with"] = record.labels[worst]
                row["confused_photos"] = int(wrong[worst])
        rows.append(row | dict((metrics.get("labels") or {}).get(label, {})))
    return rows


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _media_type(image: bytes) -> str:
    if image.startswith(b"\x89PNG"):
        return "image/png"
    return "image/webp" if image[8:12] == b"WEBP" else "image/jpeg"

"""A run's report: one HTML file, offline, that a person would rather read than a log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import RunError
from finetune.evaluation.confusion import confusion_matrix
from finetune.evaluation.predictions import Prediction
from finetune.evaluation.probabilities import Integers
from finetune.reporting import gallery, multi_label_content
from finetune.reporting.gallery import make_thumbnails
from finetune.reporting.page import write_page
from finetune.reporting.report_content import (
    Extras,
    Suspect,
    kept_rows,
    page_data,
    template_values,
)
from finetune.reporting.run_record import RunRecord, read_run

__all__ = ["MAX_PHOTOS", "Extras", "Report", "Suspect", "write_report"]

MAX_PHOTOS = 1000
"""Photos in a page unless asked otherwise; about 12 KB each, beside 5 MB for the rest."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written.

    Attributes:
        path: The HTML file.
        part: The part that it is about.
        photos: Photos of that part.
        thumbnails: Photos that the page shows.
        failed: Why photos are missing from it, by path.
        size_bytes: Of the file.
    """

    path: Path
    part: str
    photos: int
    thumbnails: int
    failed: Mapping[str, str]
    size_bytes: int


def write_report(
    run_folder: Path,
    *,
    photos_root: Path | None = None,
    max_photos: int = MAX_PHOTOS,
    output: Path | None = None,
    extras: Extras | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Writes ``report.html`` of a run and returns what is in it.

    Args:
        run_folder: The run.
        photos_root: Root of the collection that the predictions' paths are below; None: no photos.
        max_photos: Most photos in the page.
        output: The file to write; None: ``report.html`` in the run.
        extras: What the run's own files do not hold.
        progress: Called as ``progress(done, total)`` while thumbnails are made.

    Raises:
        RunError: The folder is no finished run, or was not evaluated.
        MissingExtra: Jinja2 or plotly is not installed.
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
    known = set(record.labels)
    strange = next((name for row in rows for name in row.truth if name not in known), None)
    if record.task.multi_label and strange is not None:
        raise _strange_label(record, repr(strange))
    matrix = None if record.task.multi_label else _matrix(record, rows)

    place = {row.path: k for k, row in enumerate(rows)}
    first = [place[path] for path in extras.overlays if path in place]
    shown = gallery.choose_photos(rows, record.labels, limit=max(0, max_photos), first=first)
    paths = [rows[k].path for k in shown]
    paths += [s.path for s in extras.suspects if s.path not in place][: max(0, max_photos)]
    thumbnails, failed = (
        make_thumbnails(photos_root, paths, progress=progress) if photos_root else ({}, {})
    )
    if failed:
        logger.info("%d of %d photos could not be opened", len(failed), len(paths))

    kept = kept_rows(rows, shown)
    if matrix is None:
        name = "multilabel"
        data = multi_label_content.page_data(record, rows, kept, thumbnails, extras)
        values = multi_label_content.template_values(record, part, rows, extras)
    else:
        name = "report"
        data = page_data(record, rows, kept, matrix, thumbnails, extras)
        values = template_values(record, part, matrix, extras)
    path = write_page(
        output or run_folder / "report.html",
        f"{name}.html.j2",
        scripts=("charts.js", "photos.js", f"{name}.js", "suspects.js", "labels.js"),
        data=data | {"part": part},
        **values,
        shown_photos=len(thumbnails),
        failed_photos=len(failed),
    )
    return Report(
        path=path,
        part=part,
        photos=len(rows),
        thumbnails=len(thumbnails),
        failed=failed,
        size_bytes=path.stat().st_size,
    )


def _matrix(record: RunRecord, rows: Sequence[Prediction]) -> Integers:
    index = {label: k for k, label in enumerate(record.labels)}
    try:
        truth = [index[row.label] for row in rows]
        said = [index[row.predicted] for row in rows]
    except KeyError as error:
        raise _strange_label(record, str(error)) from error
    return confusion_matrix(truth, said, len(record.labels))


def _strange_label(record: RunRecord, label: str) -> RunError:
    return RunError(
        f"{record.name}: predictions.csv has the label {label}, which labels.json has not. "
        f"Write it again with: finetune evaluate {record.name}"
    )

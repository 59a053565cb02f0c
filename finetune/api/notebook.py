"""Live view of a training in a notebook."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.evaluation.confusion import read_confusion_csv, worst_confusions
from finetune.evaluation.probabilities import Integers
from finetune.formatting import percent
from finetune.reporting.summary import column_text
from finetune.runs.folder import RunFolder
from finetune.tasks.base import Column
from finetune.tasks.factory import task_of_metrics
from finetune.training.events import EpochDone, Event, Note, Progressed, StepDone

SECONDS = 0.5
"""Minimum seconds between two updates; each is a message to the browser."""


def in_notebook() -> bool:
    """Returns whether this process is the kernel of a notebook, without importing IPython."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return getattr(running, "kernel", None) is not None


class NotebookView:
    """Callback that shows the events of a training in one output of the cell.

    Raises:
        ImportError: IPython is not installed.
    """

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html: Any = HTML
        self._display: Any = display
        self._handle: Any = None
        self._epochs: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._state = "Starting"
        self._done = 0.0
        self._shown = -SECONDS

    def __call__(self, event: Event) -> None:
        """Receives an event of the training."""
        match event:
            case Note():
                self._notes.append(event.text)
                self._show()
            case Progressed():
                self._state = f"{event.stage}: {event.done:,} of {event.total:,}"
                self._done = event.done / max(1, event.total)
                self._show(now=event.done == event.total)
            case StepDone():
                self._state = (
                    f"Epoch {event.epoch} of {event.epochs}: loss {event.loss:.3f}, "
                    f"{percent(event.accuracy)} right, {event.images_per_second:,.0f} photos/s, "
                    f"{event.seconds_left:,.0f} s left"
                )
                self._done = event.step / max(1, event.steps)
                self._show()
            case EpochDone():
                self._epochs.append(vars(event))
                self._done = event.epoch / max(1, event.epochs)
                self._state = (
                    "Trained" if event.epoch == event.epochs else f"Epoch {event.epoch + 1}"
                )
                self._show(now=event.epoch == event.epochs)

    def finish(self, state: str) -> None:
        """Shows the end of the training, regardless of the time of the last update."""
        self._state, self._done = state, 1.0
        self._show(now=True)

    def _show(self, *, now: bool = False) -> None:
        at = time.monotonic()
        if not now and at - self._shown < SECONDS:
            return
        self._shown = at
        page = self._html(
            training_html(self._epochs, state=self._state, done=self._done, notes=self._notes)
        )
        if self._handle is None:
            self._handle = self._display(page, display_id=True)
        else:
            self._handle.update(page)


MOST_LABELS = 12
"""Maximum number of labels in a confusion matrix; for more, the worst confusions are listed."""

TRAIN, VALIDATION = "#0891b2", "#db2777"

_CELL = "padding:2px 10px;text-align:right;background:none"
_FAINT = "opacity:.7"
_SHADE = (14, 116, 144)


def training_html(
    epochs: Sequence[Mapping[str, Any]],
    *,
    state: str,
    done: float,
    notes: Sequence[str] = (),
    rows: int = 8,
) -> str:
    """Returns the current state of a training as HTML.

    Args:
        epochs: As in ``log.jsonl``, one mapping per epoch.
        state: Current activity.
        done: Share that is done, in [0, 1].
        notes: Notes of the training.
        rows: Maximum number of epochs in the table; the last ones are shown.
    """
    share = max(0.0, min(1.0, done))
    parts = [
        f'<div><progress value="{share:.4f}" max="1" style="width:16em;vertical-align:middle">'
        f"</progress> {html.escape(state)}</div>"
    ]
    if notes:
        lines = "".join(f"<div>{html.escape(note)}</div>" for note in notes)
        parts.append(f'<div style="{_FAINT};font-size:90%;margin:4px 0">{lines}</div>')
    # A head fitted to its minimum has no curve, and a note says how good it is.
    if any(row["lr"] for row in epochs):
        parts.append(
            '<div style="display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start">'
            + _table_of(epochs[-rows:])
            + "<div>"
            + _curve(epochs, "loss", "train_loss", "validation_loss", "{:.3f}")
            + _curve(epochs, "right", "train_accuracy", "validation_accuracy", "{:.0%}")
            + "</div></div>"
        )
    return f'<div style="line-height:1.5">{"".join(parts)}</div>'


def result_html(run: RunFolder, metrics: Mapping[str, Any], *, seconds: float) -> str:
    """Returns metrics, a confusion matrix and a link to the report of a run as HTML.

    Args:
        run: Folder of the run.
        metrics: As in metrics.json.
        seconds: Duration of the training.
    """
    parts = [
        f"<div><b>{html.escape(run.name)}</b> "
        f'<span style="{_FAINT}">{html.escape(str(run.path))}, {seconds:,.0f} s</span></div>',
        _metrics_table(metrics),
    ]
    if run.confusion_file.is_file():
        matrix, labels = read_confusion_csv(run.confusion_file)
        part = "test" if "test" in metrics else next(iter(metrics), "")
        parts.append(_confusion(matrix, labels, part))
    report = run.path / "report.html"
    if report.is_file():
        parts.append(
            f'<div><a href="{html.escape(link_to(report))}" target="_blank">Report</a></div>'
        )
    else:
        parts.append(f'<div style="{_FAINT}">Call result.report() to write its report.</div>')
    return f'<div style="line-height:1.6">{"".join(parts)}</div>'


def link_to(path: Path) -> str:
    """Returns a link to a file for a notebook in this folder, relative if possible."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.resolve().as_uri()


def _table_of(epochs: Sequence[Mapping[str, Any]]) -> str:
    own = sorted({name for row in epochs for name in (row.get("metrics") or {})})
    names = ["epoch", "train loss", "train", "val loss", "val", *own, "s", ""]
    head = "".join(f'<th style="{_CELL}">{html.escape(name)}</th>' for name in names)
    body = ""
    for row in epochs:
        cells = [
            f"{row['epoch']} / {row['epochs']}",
            f"{row['train_loss']:.3f}",
            percent(row["train_accuracy"]),
            f"{row['validation_loss']:.3f}",
            percent(row["validation_accuracy"]),
            *(_number((row.get("metrics") or {}).get(name)) for name in own),
            f"{row['seconds']:.1f}",
            "best" if row.get("best") else "",
        ]
        body += "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"
    return f'<table style="border-collapse:collapse;margin:0"><tr>{head}</tr>{body}</table>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _curve(
    epochs: Sequence[Mapping[str, Any]], title: str, train: str, validation: str, shown: str
) -> str:
    width, height, left, bottom, top = 260, 130, 40, 16, 18
    values = {
        name: [float(row[key]) for row in epochs]
        for name, key in (("train", train), ("val", validation))
    }
    finite = [v for line in values.values() for v in line if abs(v) < float("inf")] or [0.0]
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    plot_width, plot_height = width - left - 8, height - bottom - top

    def point(place: int, value: float) -> str:
        x = left + plot_width * (place / max(1, len(epochs) - 1))
        y = top + plot_height * (1 - (min(max(value, low), high) - low) / span)
        return f"{x:.1f},{y:.1f}"

    lines = ""
    for (name, line), color in zip(values.items(), (TRAIN, VALIDATION), strict=True):
        points = [point(place, value) for place, value in enumerate(line)]
        lines += (
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" '
            f'stroke-width="1.8"><title>{name}</title></polyline>'
        )
        if len(points) == 1:
            x, _, y = points[0].partition(",")
            lines += f'<circle cx="{x}" cy="{y}" r="2.5" fill="{color}"/>'
    style = 'font-size="11" fill="currentColor"'
    last = epochs[-1]["epoch"]
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="{title} by epoch">'
        f'<text x="{left}" y="12" {style}>{title}: '
        f'<tspan fill="{TRAIN}">train</tspan> <tspan fill="{VALIDATION}">val</tspan></text>'
        f'<text x="{left - 4}" y="{top + 8}" text-anchor="end" {style}>{shown.format(high)}</text>'
        f'<text x="{left - 4}" y="{height - bottom}" text-anchor="end" {style}>'
        f"{shown.format(low)}</text>"
        f'<path d="M{left} {top}V{height - bottom}H{width - 8}" fill="none" '
        f'stroke="currentColor" stroke-opacity=".3"/>{lines}'
        f'<text x="{width - 8}" y="{height - 3}" text-anchor="end" {style}>epoch {last}</text>'
        "</svg>"
    )


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    columns: dict[str, Column] = {}
    for values in metrics.values():
        for column in task_of_metrics(values).part_columns:
            if values.get(column.key) is not None:
                columns[column.key] = column
    rows = [["part", "photos", *(column.title for column in columns.values())]]
    rows += [
        [
            part,
            f"{values.get('photos', 0):,}",
            *(column_text(column, values) for column in columns.values()),
        ]
        for part, values in metrics.items()
    ]
    body = ""
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = (f'<{tag} style="{_CELL}">{html.escape(cell)}</{tag}>' for cell in row)
        body += f"<tr>{''.join(cells)}</tr>"
    return f'<table style="border-collapse:collapse;margin:4px 0">{body}</table>'


def _confusion(matrix: Integers, labels: Sequence[str], part: str) -> str:
    if len(labels) > MOST_LABELS:
        return _worst(matrix, labels, part)
    head = "".join(
        f'<th style="{_CELL};max-width:7em;overflow:hidden;text-overflow:ellipsis">'
        f"{html.escape(label)}</th>"
        for label in labels
    )
    body = ""
    for label, row in zip(labels, matrix.tolist(), strict=True):
        total = sum(row) or 1
        cells = ""
        for count in row:
            share = count / total
            shade = ",".join(map(str, _SHADE))
            ink = ";color:#fff" if share > 0.6 else ""
            cells += (
                f'<td style="padding:2px 10px;text-align:center;'
                f'background:rgba({shade},{share:.2f}){ink}">{count or ""}</td>'
            )
        body += f'<tr><th style="{_CELL}">{html.escape(label)}</th>{cells}</tr>'
    return (
        f'<div style="{_FAINT};margin-top:6px">{html.escape(part)}: rows are the correct labels, '
        "columns the predicted ones</div>"
        f'<table style="border-collapse:collapse;margin:2px 0"><tr><th></th>{head}</tr>{body}'
        "</table>"
    )


def _worst(matrix: Integers, labels: Sequence[str], part: str) -> str:
    wrong = worst_confusions(matrix, limit=5)
    if not wrong:
        return f'<div style="{_FAINT}">{html.escape(part)}: no mistakes</div>'
    items = "; ".join(
        f"{html.escape(labels[truth])} mistaken for {html.escape(labels[predicted])} ({count})"
        for truth, predicted, count in wrong
    )
    return f'<div style="{_FAINT}">{html.escape(part)}, most frequent mistakes: {items}</div>'

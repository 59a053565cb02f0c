"""Charts as plotly figures in JSON: ``{"data": [...], "layout": {...}}``.

Colors are CSS variables of the page (``var(--right)``), which its script replaces by those of the
light or dark theme. Text from files and folders is escaped by `chart_text`, since plotly renders
some HTML in labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from finetune.evaluation.calibration import risk_coverage
from finetune.evaluation.predictions import Prediction
from finetune.photos.collection import Part
from finetune.tasks.base import Task

Figure = dict[str, Any]

POINTS = 400
"""Maximum number of points of a curve."""


LEGEND: Figure = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
"""Horizontal legend above a chart."""

_EPOCH_AXIS: Figure = {"title": {"text": "Epoch"}, "rangemode": "tozero", "tickformat": "d"}


def chart_text(text: str) -> str:
    """Returns text escaped for plotly, on one line.

    Example:
        >>> chart_text("<b>gull</b>")
        '&lt;b&gt;gull&lt;/b&gt;'
    """
    one_line = " ".join(text.split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def loss_curves(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Returns the chart of training and validation loss by epoch."""
    return _curves(epochs, "loss", "Loss (nats)", parts=("train", "validation"), share=False)


def score_curves(epochs: Sequence[Mapping[str, Any]], task: Task) -> Figure:
    """Returns the chart of the score by epoch, of the training photos too if it is known."""
    parts = ("train", "validation") if task.photo_score == task.score else ("validation",)
    title = task.score_title if len(parts) == 2 else f"{task.score_title} (validation)"
    return _curves(epochs, "accuracy", title, parts=parts, share=True)


def _curves(
    epochs: Sequence[Mapping[str, Any]],
    name: str,
    title: str,
    *,
    parts: Sequence[str],
    share: bool,
) -> Figure:
    # Dashes distinguish the lines in print and without color vision.
    styles = {"train": ("var(--muted)", "dot"), "validation": ("var(--right)", "solid")}
    lines = []
    for part in parts:
        color, dash = styles[part]
        key = f"{part}_{name}"
        points = [(row["epoch"], row[key]) for row in epochs if row.get(key) is not None]
        lines.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(points) <= 40 else "lines",
                "name": part,
                "x": [x for x, _ in points],
                "y": [y for _, y in points],
                "line": {"color": color, "dash": dash, "width": 2},
                "marker": {"size": 5},
                "hovertemplate": f"epoch %{{x}}: %{{y:{'.1%' if share else '.3f'}}}"
                f"<extra>{part}</extra>",
            }
        )
    return {
        "data": lines,
        "layout": {
            "xaxis": _EPOCH_AXIS,
            "yaxis": {"title": {"text": title}, "tickformat": ".0%" if share else ".2~f"},
            "legend": LEGEND,
        },
    }


def overlaid_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Returns the validation accuracy by epoch of several runs in one chart."""
    dashes = ("solid", "dash", "dot", "dashdot", "longdash")
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": chart_text(name),
                "x": [row["epoch"] for row in epochs],
                "y": [row.get("validation_accuracy") for row in epochs],
                "line": {
                    "color": f"var(--series-{k % 6})",
                    "dash": dashes[k % len(dashes)],
                    "width": 2,
                },
                "marker": {"size": 5, "symbol": k % 8},
                "hovertemplate": "epoch %{x}: %{y:.1%}<extra>%{fullData.name}</extra>",
            }
            for k, (name, epochs) in enumerate(runs.items())
        ],
        "layout": {
            "xaxis": _EPOCH_AXIS,
            "yaxis": {"title": {"text": "Accuracy (validation)"}, "tickformat": ".0%"},
            "legend": LEGEND,
        },
    }


def answers_by_label(counts: Mapping[str, tuple[int, int, int]]) -> Figure:
    """Returns how often each label was found, missed and wrongly predicted, the worst first."""
    order = sorted(counts, key=lambda label: (-sum(counts[label][1:]), label))
    kinds = (
        ("found", "var(--right)", ""),
        ("missed", "var(--wrong)", "/"),
        ("wrongly predicted", "var(--muted)", "x"),
    )
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": list(range(len(order))),
                "x": [counts[label][kind] for label in order],
                # Patterns distinguish the bars in print and without color vision.
                "marker": {"color": color, "pattern": {"shape": shape, "fgopacity": 0.6}},
                "customdata": [chart_text(label) for label in order],
                "hovertemplate": f"%{{customdata}}: {name} %{{x}}×<extra></extra>",
            }
            for kind, (name, color, shape) in enumerate(kinds)
        ],
        "layout": _label_bars(order, height=110 + 22 * len(order)),
    }


def reliability(part: Mapping[str, Any], *, counted: str = "photos") -> Figure:
    """Returns the reliability diagram: observed frequency by predicted probability.

    Args:
        part: The metrics of a part.
        counted: Unit counted by a bin; see `Task.bin_unit`.
    """

    def points(bins: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [item for item in bins if item["photos"]]

    after = points(part.get("reliability") or [])
    before = points((part.get("uncalibrated") or {}).get("reliability") or [])
    most = max((item["photos"] for item in after), default=1)
    lines = [
        {
            "type": "bar",
            "name": counted,
            "x": [(item["low"] + item["high"]) / 2 for item in after],
            "y": [item["photos"] / most * 0.3 for item in after],
            "width": [item["high"] - item["low"] for item in after],
            "marker": {"color": "var(--line)"},
            "customdata": [item["photos"] for item in after],
            "hovertemplate": f"%{{customdata}} {counted}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "perfectly calibrated",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": "var(--muted)", "dash": "dot", "width": 1},
            "hoverinfo": "skip",
        },
    ]
    for name, bins, color, symbol, dash in (
        ("before calibration", before, "var(--wrong)", "diamond-open", "dash"),
        ("after calibration", after, "var(--right)", "circle", "solid"),
    ):
        if bins:
            lines.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": name,
                    "x": [item["confidence"] for item in bins],
                    "y": [item["accuracy"] for item in bins],
                    "line": {"color": color, "dash": dash, "width": 2},
                    "marker": {"symbol": symbol, "size": 8},
                    "customdata": [item["photos"] for item in bins],
                    "hovertemplate": "predicted %{x:.0%}, observed %{y:.0%} of %{customdata} "
                    f"{counted}<extra>{name}</extra>",
                }
            )
    return {
        "data": lines,
        "layout": {
            "xaxis": {
                "title": {"text": "Predicted probability"},
                "range": [0, 1],
                "tickformat": ".0%",
                "dtick": 0.2,
            },
            "yaxis": {
                "title": {"text": "Observed frequency"},
                "range": [0, 1.03],
                "tickformat": ".0%",
            },
            "legend": LEGEND,
        },
    }


def accuracy_by_coverage(predictions: Sequence[Prediction]) -> Figure:
    """Returns the accuracy on the most confident photos by their share of all photos."""
    coverage, risk = risk_coverage(
        [row.probability for row in predictions], [row.correct for row in predictions]
    )
    step = max(1, len(coverage) // POINTS)
    places = sorted({*range(0, len(coverage), step), len(coverage) - 1})
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "x": [float(coverage[k]) for k in places],
                "y": [float(1 - risk[k]) for k in places],
                "line": {"color": "var(--right)", "width": 2},
                "hovertemplate": "coverage %{x:.0%}, accuracy %{y:.1%}<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": {
                "title": {"text": "Coverage"},
                "range": [0, 1],
                "tickformat": ".0%",
            },
            "yaxis": {"title": {"text": "Accuracy"}, "tickformat": ".0%"},
            "showlegend": False,
        },
    }


def photos_by_label(by_label: Mapping[str, Mapping[Part, int]]) -> Figure:
    """Returns the photos of each label, stacked by part, the largest label first."""
    order = sorted(by_label, key=lambda label: (-sum(by_label[label].values()), label))
    present = {part for photos in by_label.values() for part in photos}
    every = get_args(Part)
    parts = [part for part in every if part in present]
    colors = {part: f"var(--series-{k})" for k, part in enumerate(every)}
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": part,
                # Positions instead of names: two labels may be equal after escaping.
                "y": list(range(len(order))),
                "x": [by_label[label].get(part, 0) for label in order],
                "marker": {"color": colors[part]},
                "customdata": [chart_text(label) for label in order],
                "hovertemplate": f"%{{customdata}}: %{{x}} photos<extra>{part}</extra>",
            }
            for part in parts
        ],
        "layout": _label_bars(order, height=90 + 17 * len(order), tickfont={"size": 11}),
    }


def _label_bars(labels: Sequence[str], *, height: int, **axis: Any) -> dict[str, Any]:
    """Returns the layout of stacked bars, one row per label, the first at the top."""
    return {
        "barmode": "stack",
        "height": height,
        "xaxis": {"title": {"text": "Photos"}, "side": "top"},
        "yaxis": {
            "autorange": "reversed",
            "tickmode": "array",
            "tickvals": list(range(len(labels))),
            "ticktext": [chart_text(_shortened(label)) for label in labels],
            "automargin": True,
            **axis,
        },
        "legend": {
            "orientation": "h",
            "y": 0,
            "yanchor": "top",
            "x": 0,
            "traceorder": "normal",
        },
    }


def _shortened(label: str, most: int = 32) -> str:
    return label if len(label) <= most else "…" + label[-most + 1 :]

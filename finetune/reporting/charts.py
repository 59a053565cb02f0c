"""Charts as plain plotly figures: ``{"data": [...], "layout": {...}}``, ready for JSON.

Colors are written as the page's CSS variables (``var(--right)``); the page's script turns them
into those of the light or dark theme. Text from people's folders is escaped by `chart_text`,
since plotly reads a little HTML in every label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from finetune.evaluation.calibration import risk_coverage
from finetune.evaluation.predictions import Prediction
from finetune.photos.collection import Part

Figure = dict[str, Any]

POINTS = 400
"""Most points of a curve."""


def chart_text(text: str) -> str:
    """Returns text that plotly shows as it is, on one line.

    Example:
        >>> chart_text("<b>gull</b>")
        '&lt;b&gt;gull&lt;/b&gt;'
    """
    one_line = " ".join(text.split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def learning_curves(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Returns the charts of loss and accuracy by epoch."""
    return {
        "loss": _curves(epochs, "loss", "Loss (nats)", share=False),
        "accuracy": _curves(epochs, "accuracy", "Right answers", share=True),
    }


def _curves(epochs: Sequence[Mapping[str, Any]], name: str, title: str, *, share: bool) -> Figure:
    # The dash tells the two apart in print and to eyes that do not see the colors.
    lines = []
    for part, color, dash in (
        ("train", "var(--muted)", "dot"),
        ("validation", "var(--right)", "solid"),
    ):
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
            "xaxis": {"title": {"text": "Epoch"}, "rangemode": "tozero", "tickformat": "d"},
            "yaxis": {"title": {"text": title}, "tickformat": ".0%" if share else ".2~f"},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
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
            "xaxis": {"title": {"text": "Epoch"}, "rangemode": "tozero", "tickformat": "d"},
            "yaxis": {"title": {"text": "Right answers (validation)"}, "tickformat": ".0%"},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        },
    }


def score_curve(epochs: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Returns the chart of the figure by which epochs are ranked, where training has none."""
    figure = _curves(epochs, "accuracy", title, share=True)
    return {**figure, "data": figure["data"][1:]}


def answers_by_label(counts: Mapping[str, tuple[int, int, int]]) -> Figure:
    """Returns how often each label was found, missed and wrongly said, worst label first."""
    order = sorted(counts, key=lambda label: (-sum(counts[label][1:]), label))
    kinds = (
        ("found", "var(--right)", ""),
        ("missed", "var(--wrong)", "/"),
        ("wrongly said", "var(--muted)", "x"),
    )
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": list(range(len(order))),
                "x": [counts[label][kind] for label in order],
                # The pattern tells them apart in print and to eyes that do not see the colors.
                "marker": {"color": color, "pattern": {"shape": shape, "fgopacity": 0.6}},
                "customdata": [chart_text(label) for label in order],
                "hovertemplate": f"%{{customdata}}: {name} %{{x}}×<extra></extra>",
            }
            for kind, (name, color, shape) in enumerate(kinds)
        ],
        "layout": _label_bars(order, height=110 + 22 * len(order)),
    }


def reliability(part: Mapping[str, Any], *, counted: str = "photos") -> Figure:
    """Returns the reliability diagram: how sure it was against how often it was right.

    Args:
        part: The metrics of a part.
        counted: What its bins hold: photos, or yes/no answers.
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
            "name": "perfectly honest",
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
                    "hovertemplate": "said %{x:.0%}, right %{y:.0%} of %{customdata} "
                    f"{counted}<extra>{name}</extra>",
                }
            )
    return {
        "data": lines,
        "layout": {
            "xaxis": {
                "title": {"text": "How sure it was"},
                "range": [0, 1],
                "tickformat": ".0%",
                "dtick": 0.2,
            },
            "yaxis": {
                "title": {"text": "How often it was right"},
                "range": [0, 1.03],
                "tickformat": ".0%",
            },
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        },
    }


def accuracy_by_coverage(predictions: Sequence[Prediction]) -> Figure:
    """Returns how often it is right if it answers only where it is surest."""
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
                "hovertemplate": "answers %{x:.0%}, right %{y:.1%}<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": {
                "title": {"text": "Share answered, surest first"},
                "range": [0, 1],
                "tickformat": ".0%",
            },
            "yaxis": {"title": {"text": "Right answers among these"}, "tickformat": ".0%"},
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
                # Places, not names: two labels may look alike once they are escaped.
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
    """Returns the layout of stacked bars, a row a label, the first at the top."""
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

"""Section of a report on the number of photos: learning curve, look-alikes, harmful photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.evaluation.learning_curve import LearningCurve
from finetune.reporting.charts import LEGEND, Figure

MOST_LABELS = 30
"""Rows of the table of labels."""


@dataclass(frozen=True, kw_only=True)
class HarmfulPhoto:
    """Training photo without which the others would be predicted better.

    Attributes:
        path: As in the collection.
        label: Its label.
        looks_like: Label that a head without its group gives it, if it is another; else None.
        harm: By which share of the error of all other photos it, with its group, raises it.
    """

    path: str
    label: str
    looks_like: str | None
    harm: float


def label_rows(curve: LearningCurve, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the labels by how many fewer mistakes twice the photos would bring."""
    return [
        {
            "label": labels[one.label],
            "photos": one.photos,
            "wrong": one.wrong,
            "fewer": one.fewer,
        }
        for one in curve.labels[:MOST_LABELS]
        if one.wrong
    ]


def pair_rows(curve: LearningCurve, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the look-alikes with their names."""
    return [
        {
            "first": labels[pair.labels[0]],
            "second": labels[pair.labels[1]],
            "confused": pair.confused,
            "before": pair.before,
        }
        for pair in curve.look_alikes[:MOST_LABELS]
    ]


def learning_curve_chart(curve: LearningCurve) -> Figure:
    """Returns the chart of the accuracy by the number of photos, with the forecast."""
    last = curve.points[-1]
    lines = [
        _line(
            "cross-validated",
            [point.photos for point in curve.points],
            [point.accuracy for point in curve.points],
            [point.interval for point in curve.points],
            color="var(--right)",
            dash="solid",
        ),
        _line(
            "with twice the photos",
            [last.photos, 2 * last.photos],
            [last.accuracy, curve.forecast],
            [(last.accuracy, last.accuracy), curve.interval],
            color="var(--muted)",
            dash="dot",
        ),
    ]
    return {
        "data": lines,
        "layout": {
            "xaxis": {"title": {"text": "Photos learned"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "Accuracy"}, "tickformat": ".0%"},
            "legend": LEGEND,
        },
    }


def _line(
    name: str,
    x: Sequence[int],
    y: Sequence[float],
    ends: Sequence[tuple[float, float]],
    *,
    color: str,
    dash: str,
) -> Figure:
    pairs = list(zip(y, ends, strict=True))
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(x),
        "y": list(y),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high - value for value, (_, high) in pairs],
            "arrayminus": [value - low for value, (low, _) in pairs],
            "thickness": 1,
        },
        "line": {"color": color, "dash": dash, "width": 2},
        "marker": {"size": 6},
        "hovertemplate": f"%{{x:,}} photos: %{{y:.1%}}<extra>{name}</extra>",
    }

"""Section of a report on the number of photos: learning curve, look-alikes, harmful photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.evaluation.intervals import Interval
from finetune.evaluation.learning_curve import LearningCurve
from finetune.formatting import interval, percent
from finetune.messages import counted, text
from finetune.reporting.chart import DASHES, Axis, Chart, Series

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


def learning_curve_chart(curve: LearningCurve) -> Chart:
    """Returns the chart of the accuracy by the number of photos, with the forecast."""
    last = curve.points[-1]
    return Chart(
        title=text("Accuracy by number of photos"),
        x=Axis(title=text("Photos learned"), kind="integer", from_zero=True),
        y=Axis(title=text("Accuracy"), kind="share"),
        series=[
            _line(
                text("cross-validated"),
                [(point.photos, point.accuracy, point.interval) for point in curve.points],
                color="right",
                dash=DASHES[0],
            ),
            _line(
                text("with twice the photos"),
                [
                    (last.photos, last.accuracy, (last.accuracy, last.accuracy)),
                    (2 * last.photos, curve.forecast, curve.interval),
                ],
                color="muted",
                dash=DASHES[2],
            ),
        ],
    )


def _line(
    name: str,
    points: Sequence[tuple[int, float, Interval]],
    *,
    color: str,
    dash: tuple[float, ...],
) -> Series:
    return Series(
        name=name,
        points=[(float(photos), share) for photos, share, _ in points],
        color=color,
        dash=dash,
        dots=3,
        errors=[ends for _, _, ends in points],
        notes=[
            f"{name}, {counted(photos, 'photo')}: {percent(share)} ({interval(ends)})"
            for photos, share, ends in points
        ],
    )

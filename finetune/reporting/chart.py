"""Chart of lines and bars on two axes, as a drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from finetune.fonts import fitted, text_width
from finetune.formatting import duration, percent
from finetune.reporting.drawing import Box, Dot, Drawing, Line, Point, Shape, Text

WIDE, NARROW = 560, 330
"""Widths of a chart in pixels: a page shows that which fits."""

Kind = Literal["number", "share", "integer", "seconds", "log"]
DASHES: tuple[tuple[float, ...], ...] = ((), (7, 3), (2, 3), (8, 3, 2, 3), (12, 4))
"""Lines differ in their dashes too: for print, and for eyes that see few colors."""

_SIZE = 12.0
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 36000, 86400)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Axis of a chart.

    Attributes:
        title: Words at its side.
        kind: Of its numbers; ``share`` has percentages, ``seconds`` durations.
        ends: First and last value; None: those of the data, widened to round numbers.
        from_zero: Whether the data's axis starts at 0.
        names: Of the values 0, 1, 2 ...; empty: the axis has numbers.
    """

    title: str
    kind: Kind = "number"
    ends: tuple[float, float] | None = None
    from_zero: bool = False
    names: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of a chart.

    Attributes:
        name: In the legend; an empty one is left out.
        points: (x, y).
        color: One of `drawing.PAPER`.
        dash: See `DASHES`.
        joined: Whether a line joins the points.
        dots: Radius of the points; 0 shows none.
        errors: Lower and upper end of each point's interval.
        notes: Shown when a point is pointed at.
    """

    name: str
    points: Sequence[Point]
    color: str = "right"
    dash: tuple[float, ...] = ()
    joined: bool = True
    dots: float = 0.0
    errors: Sequence[tuple[float, float]] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Upright bar from `x0` to `x1`, as high as `y`."""

    x0: float
    x1: float
    y: float
    note: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Chart; `bars` are gray and behind the series, `upright` are marked places of the x axis."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    bars: Sequence[Bar] = ()
    upright: Sequence[tuple[float, str]] = field(default_factory=tuple)
    height: float = 300.0


@dataclass(frozen=True)
class _Scale:
    """Map from values of an axis to pixels."""

    low: float
    high: float
    start: float
    stop: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high = (
            (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        )
        at = math.log10(value) if self.log else value
        return self.start + (at - low) / (high - low) * (self.stop - self.start)


def draw_chart(chart: Chart, width: float = WIDE) -> Drawing:
    """Returns a chart as a drawing, its title left to the page."""
    legend, top = _legend(chart, width)
    xs, x_low, x_high = _ticks(chart.x, [x for s in chart.series for x, _ in s.points], width / 70)
    heights = [y for s in chart.series for _, y in s.points]
    heights += [end for s in chart.series for ends in s.errors for end in ends]
    ys, y_low, y_high = _ticks(chart.y, heights, chart.height / 50)
    names = tick_texts(ys, chart.y.kind)
    below = chart.x.names or tick_texts(xs, chart.x.kind)
    left = max((text_width(name, _SIZE) for name in names), default=0) + 34
    bottom, right = chart.height - 44, width - 16
    x = _Scale(x_low, x_high, left, right, chart.x.kind == "log")
    y = _Scale(y_low, y_high, bottom, top, chart.y.kind == "log")
    shapes: list[Shape] = []
    for value, name in zip(ys, names, strict=True):
        shapes.append(Line(points=[(left, y(value)), (right, y(value))], color="line"))
        shapes.append(Text(x=left - 6, y=y(value) + 4, text=name, anchor="end"))
    last = -math.inf
    for value, full in zip(xs, below, strict=True):
        name = fitted(full, _SIZE, (right - left) / len(xs)) if chart.x.names else full
        room = text_width(name, _SIZE) / 2
        middle = min(x(value), width - room - 2)
        shapes.append(Line(points=[(x(value), bottom), (x(value), bottom + 4)], color="muted"))
        if middle - room > last + 4:
            shapes.append(Text(x=middle, y=bottom + 18, text=name, anchor="middle"))
            last = middle + room
    shapes.append(Line(points=[(left, bottom), (right, bottom)], color="muted"))
    shapes.append(
        Text(x=(left + right) / 2, y=chart.height - 6, text=chart.x.title, anchor="middle")
    )
    shapes.append(
        Text(x=14, y=(top + bottom) / 2, text=chart.y.title, anchor="middle", upright=True)
    )
    for bar in chart.bars:
        height = bottom - y(min(bar.y, y_high))
        shapes.append(
            Box(
                x=x(bar.x0) + 1,
                y=bottom - height,
                width=max(1.0, x(bar.x1) - x(bar.x0) - 2),
                height=height,
                color="line",
                note=bar.note,
            )
        )
    for k, (place, name) in enumerate(chart.upright):
        shapes.append(
            Line(points=[(x(place), top), (x(place), bottom)], color="wrong", dash=(6, 4))
        )
        beyond = x(place) + 8 + text_width(name, _SIZE) > right
        side = -6 if beyond else 6
        shapes.append(
            Text(
                x=x(place) + side,
                y=top + 12 + 15 * k,  # side by side they would overlap
                text=name,
                color="wrong",
                anchor="end" if beyond else "start",
            )
        )
    for series in chart.series:
        shapes += _series(series, x, y)
    return Drawing(width=width, height=chart.height, title=chart.title, shapes=[*shapes, *legend])


def _series(series: Series, x: _Scale, y: _Scale) -> list[Shape]:
    places = [(x(a), y(b)) for a, b in series.points]
    shapes: list[Shape] = []
    if series.joined and len(places) > 1:
        shapes.append(Line(points=places, color=series.color, width=2, dash=series.dash))
    for (across, _), (low, high) in zip(places, series.errors, strict=False):
        shapes.append(Line(points=[(across, y(low)), (across, y(high))], color=series.color))
    radius = series.dots or (3.0 if len(places) == 1 else 0.0)
    for k, (across, up) in enumerate(places):
        note = series.notes[k] if series.notes else ""
        if radius:
            shapes.append(Dot(x=across, y=up, radius=radius, color=series.color, note=note))
        elif note:
            shapes.append(Dot(x=across, y=up, radius=6, color=None, note=note))
    return shapes


def _legend(chart: Chart, width: float) -> tuple[list[Shape], float]:
    """Returns the legend, and the height at which the chart begins."""
    named = [series for series in chart.series if series.name]
    shapes: list[Shape] = []
    left, line = 12.0, 18.0
    for series in named:
        name = fitted(series.name, _SIZE, width - 70)
        room = 34 + text_width(name, _SIZE) + 14
        if left + room > width and left > 12:
            left, line = 12.0, line + 20
        middle = line - 4
        if series.joined:
            ends = [(left, middle), (left + 26, middle)]
            shapes.append(Line(points=ends, color=series.color, width=2, dash=series.dash))
        if series.dots or not series.joined:
            shapes.append(Dot(x=left + 13, y=middle, radius=series.dots or 3, color=series.color))
        shapes.append(Text(x=left + 32, y=line, text=name, color="text"))
        left += room
    return shapes, (line + 14 if named else 14.0)


def _ticks(axis: Axis, values: Sequence[float], most: float) -> tuple[list[float], float, float]:
    """Returns about `most` ticks of an axis at the utmost, and its ends."""
    if axis.names:
        return [float(k) for k in range(len(axis.names))], -0.5, len(axis.names) - 0.5
    finite = [value for value in values if math.isfinite(value)]
    low, high = axis.ends or (min(finite, default=0.0), max(finite, default=1.0))
    if axis.from_zero and axis.ends is None:
        low = min(0.0, low)
    if axis.kind == "log":
        return _log_ticks(low, high)
    if high <= low:
        spread = max(abs(low) * 0.1, 0.01 if axis.kind == "share" else 0.5)
        low, high = low - (0 if axis.from_zero else spread), high + spread
    step = _step((high - low) / max(2.0, most), axis.kind)
    if axis.ends is None:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        if axis.kind == "share":
            low, high = max(0.0, low), min(1.0, high)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first
    return [(first + k) * step for k in range(count + 1)], low, high


def _step(least: float, kind: Kind) -> float:
    """Returns the smallest round step that is at least `least`."""
    if kind == "seconds" and least > 0.5:
        return float(
            next((step for step in _TIMES if step >= least), math.ceil(least / 86400) * 86400)
        )
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    finest = {"integer": 1.0, "share": 1e-4}.get(kind, 0.0)
    return max(finest, step)


def _log_ticks(low: float, high: float) -> tuple[list[float], float, float]:
    if high <= low:
        low, high = low / 2, high * 2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if math.log10(high / low) > 2 else (1, 2, 5)
    every = [factor * 10.0**power for power in powers for factor in factors]
    return (
        [tick for tick in every if low <= tick * (1 + 1e-9) and tick <= high * (1 + 1e-9)],
        low,
        high,
    )


def tick_texts(ticks: Sequence[float], kind: Kind) -> list[str]:
    r"""Returns the numbers at the ticks of an axis, with as many decimals as they need.

    Example:
        >>> tick_texts([0.9, 0.95, 1.0], "share"), tick_texts([0, 1, 2], "integer")
        (['90\u202f%', '95\u202f%', '100\u202f%'], ['0', '1', '2'])
    """
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    if kind == "log":
        return [f"{tick:g}" for tick in ticks]
    if kind == "seconds":
        return ["0" if tick == 0 else duration(tick) for tick in ticks]
    if kind == "share":
        step *= 100
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if kind == "share":
        return [percent(round(tick, 9), decimals) for tick in ticks]
    return [f"{tick:,.{decimals}f}" for tick in ticks]

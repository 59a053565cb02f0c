"""Charts of a search of settings; as `finetune.reporting.charts`, plain plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.experiments.tune.study import Trial
from finetune.reporting.charts import Figure, chart_text

RIGHT = "Right answers"
"""What scores are called, unless photos have several labels."""

MOST_CURVES = 40
"""Learning curves in one chart: those of the best and of the last trials."""

_NAMES = {
    "augment_views": "augmentation of views",
    "backbone_lr_scale": "backbone's learning rate (share of the head's)",
    "ema": "weight average (decay)",
    "lr_factor": "learning rate (times the usual)",
    "size_scale": "image size",
    "augment": "augmentation",
}

_LOGARITHMIC = ("lr_factor", "backbone_lr_scale", "weight_decay", "first_width")


def value_name(name: str) -> str:
    """Returns a searched value's name as a person reads it."""
    model, _, bare = name.rpartition(".")
    words = _NAMES.get(bare, bare.replace("_", " "))
    return f"{words} of {model}" if model else words


def importance_bars(importances: Mapping[str, float]) -> Figure:
    """Returns a bar a value, the most important on top."""
    names = [value_name(name) for name in importances]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": list(range(len(names))),
                "x": list(importances.values()),
                "marker": {"color": "var(--right)"},
                "customdata": [chart_text(name) for name in names],
                "hovertemplate": "%{customdata}: %{x:.0%}<extra></extra>",
            }
        ],
        "layout": {
            "height": 90 + 30 * len(names),
            "xaxis": {
                "title": {"text": "Share of what differs between trials"},
                "tickformat": ".0%",
                "rangemode": "tozero",
            },
            "yaxis": {
                "autorange": "reversed",
                "tickmode": "array",
                "tickvals": list(range(len(names))),
                "ticktext": [chart_text(name) for name in names],
                "automargin": True,
            },
            "showlegend": False,
        },
    }


def history(trials: Sequence[Trial], score: str = RIGHT) -> Figure:
    """Returns the score of each trial by its number, and the best so far."""
    best: list[tuple[int, float]] = []
    for trial in trials:
        if trial.state == "complete" and trial.score is not None:
            best.append((trial.number, max(trial.score, best[-1][1] if best else 0.0)))
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best so far",
            "x": [number for number, _ in best],
            "y": [score for _, score in best],
            "line": {"color": "var(--muted)", "width": 2, "shape": "hv", "dash": "dot"},
            "hovertemplate": "best after trial %{x}: %{y:.1%}<extra></extra>",
        }
    ]
    for state, name, color, symbol in (
        ("complete", "complete", "var(--right)", "circle"),
        ("pruned", "cut short", "var(--wrong)", "x"),
    ):
        found = [t for t in trials if t.state == state and t.score is not None]
        if found:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [t.number for t in found],
                    "y": [t.score for t in found],
                    "marker": {"color": color, "symbol": symbol, "size": 9},
                    "hovertemplate": f"trial %{{x}}: %{{y:.1%}}<extra>{name}</extra>",
                }
            )
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "Trial"}, "tickformat": "d"},
            "yaxis": {
                "title": {"text": f"{score} (validation)"},
                "tickformat": ".0%",
                "range": _shares([t.score for t in trials if t.score is not None]),
            },
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        },
    }


def by_value(trials: Sequence[Trial], name: str, score: str = RIGHT) -> Figure:
    """Returns the score of each complete trial by one searched value."""
    found = [t for t in trials if t.state == "complete" and name in t.values]
    values = [t.values[name] for t in found]
    bare = name.rpartition(".")[2]
    axis: dict[str, Any] = {"title": {"text": chart_text(value_name(name))}}
    if bare in _LOGARITHMIC:
        axis |= {"type": "log", "dtick": 1}
    elif not all(isinstance(value, float) for value in values):
        # Numbers that can only be a few are further apart than they are on a scale.
        order = sorted(set(values), key=lambda v: (isinstance(v, str), v is None, v or 0, str(v)))
        words = {v: "none" if v is None else chart_text(str(v)) for v in order}
        axis |= {"type": "category", "categoryarray": list(words.values())}
        values = [words[value] for value in values]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": values,
                "y": [t.score for t in found],
                "customdata": [t.number for t in found],
                "marker": {"color": "var(--right)", "size": 9, "opacity": 0.75},
                "hovertemplate": "trial %{customdata}: %{x}, %{y:.1%}<extra></extra>",
            }
        ],
        "layout": {
            "height": 260,
            "xaxis": axis,
            "yaxis": {
                "title": {"text": score},
                "tickformat": ".1%",
                "range": _shares([t.score for t in found if t.score is not None]),
            },
            "showlegend": False,
        },
    }


def curves(trials: Sequence[Trial], best: Sequence[Trial], score: str = RIGHT) -> Figure:
    """Returns validation by epoch of the best and of the last trials; the best one stands out."""
    order = [*best[: MOST_CURVES // 2], *reversed(trials)]
    shown = list({t.number: t for t in order if t.curve}.values())[:MOST_CURVES]
    first = best[0].number if best else None
    lines = []
    for trial in sorted(shown, key=lambda t: t.number == first):
        is_best = trial.number == first
        epochs = sorted(trial.curve)
        lines.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"trial {trial.number}",
                "x": epochs,
                "y": [trial.curve[epoch] for epoch in epochs],
                "line": {
                    "color": "var(--right)" if is_best else "var(--muted)",
                    "width": 3 if is_best else 1,
                    "dash": "dot" if trial.state == "pruned" else "solid",
                },
                "opacity": 1 if is_best else 0.6,
                "hovertemplate": f"trial {trial.number}, epoch %{{x}}: %{{y:.1%}}<extra></extra>",
            }
        )
    return {
        "data": lines,
        "layout": {
            "xaxis": {"title": {"text": "Epoch"}, "tickformat": "d"},
            "yaxis": {"title": {"text": f"{score} (validation)"}, "tickformat": ".0%"},
            "showlegend": False,
        },
    }


def _shares(scores: Sequence[float]) -> list[float]:
    """Returns the ends of an axis about some shares: of equal ones plotly would show 0 to 200 %."""
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    room = max(0.02, 0.1 * (high - low))
    return [max(-0.02, low - room), min(1.02, high + room)]

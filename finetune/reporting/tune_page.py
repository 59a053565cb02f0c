"""Page of a hyperparameter search: one HTML file with Optuna's charts, usable offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.experiments.tune.search import TuneResult, summarize
from finetune.reporting.charts import LEGEND, Figure, chart_text
from finetune.reporting.page import write_page

MAX_ROWS = 100
"""Maximum number of trials in the table."""

_NAMES = {
    "augment": "augmentation",
    "augment_views": "augmentation of views",
    "backbone_lr_scale": "backbone's learning rate (share of the head's)",
    "ema": "weight average (decay)",
    "lr_factor": "learning rate (times the default)",
    "size_scale": "image size",
}


def parameter_name(name: str) -> str:
    """Returns a parameter's name in plain words.

    Example:
        >>> parameter_name("simple_cnn.first_width")
        'first width of simple_cnn'
    """
    model, _, bare = name.rpartition(".")
    words = _NAMES.get(bare, bare.replace("_", " "))
    return f"{words} of {model}" if model else words


def write_tune_page(path: Path, result: TuneResult) -> Path:
    """Writes the result of a search with at least one trial as HTML and returns `path`.

    Raises:
        StorageError: The file could not be written; an older one is intact.
    """
    complete = [trial for trial in result.trials if trial.state == "complete"]
    names = dict.fromkeys([*result.importances, *(n for trial in complete for n in trial.values)])
    varied = [name for name in names if len({str(t.values.get(name)) for t in complete}) > 1]
    rest = [trial for trial in result.trials if trial.state in ("pruned", "failed")]
    return write_page(
        path,
        "tune.html.j2",
        scripts=("charts.js",),
        data={"charts": _charts(result, varied)},
        tuned=result,
        rows=[(trial, summarize(trial.flags)) for trial in (*result.best, *rest)][:MAX_ROWS],
        values=[(f"value-{k}", parameter_name(name)) for k, name in enumerate(varied)],
        pruned=sum(trial.state == "pruned" for trial in result.trials),
        failed=sum(trial.state == "failed" for trial in result.trials),
    )


def _charts(result: TuneResult, varied: list[str]) -> dict[str, Figure]:
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import (
        plot_intermediate_values,
        plot_optimization_history,
        plot_param_importances,
        plot_slice,
    )

    study = result.study
    score = result.task.score_title
    scores = [trial.score for trial in result.best if trial.score is not None]
    # Plotly would show equal scores on an axis from 0 to 200 %.
    ends = [max(-0.02, min(scores) - 0.02), min(1.02, max(scores) + 0.02)] if scores else None
    shares = {"title": {"text": f"{score} (validation)"}, "tickformat": ".1%", "range": ends}
    charts: dict[str, Figure] = {}
    if any(trial.curve for trial in result.trials):
        charts["curves"] = _figure(
            plot_intermediate_values(study), "Epoch", {**shares, "range": None}
        )
    if result.best:
        history = plot_optimization_history(study, target_name=score)
        history.update_traces(name="best so far", selector={"name": "Best Value"})
        history.update_layout(legend=LEGEND)
        charts["history"] = _figure(history, "Trial", shares)
    if result.importances:
        evaluator = FanovaImportanceEvaluator(seed=0)
        bars = plot_param_importances(study, evaluator=evaluator)
        bars.update_traces(
            y=[chart_text(parameter_name(name)) for name in bars.data[0].y],
            hovertemplate="%{x:.0%}<extra></extra>",
        )
        bars.update_layout(height=90 + 30 * len(result.importances))
        charts["importances"] = _figure(bars, "Share of the differences between trials", {})
    for k, name in enumerate(varied):
        chart = plot_slice(study, params=[name], target_name=score)
        chart.update_traces(marker_showscale=False)
        chart.update_layout(height=260)
        charts[f"value-{k}"] = _figure(chart, chart_text(parameter_name(name)), shares)
    return charts


def _figure(figure: Any, x_title: str, y_axis: dict[str, Any]) -> Figure:
    """Returns one of Optuna's charts as JSON, for `charts.js` to draw in the page's theme."""
    figure.update_layout(title=None, template=None)
    figure.update_xaxes(title={"text": x_title})
    figure.update_yaxes({"title": {"text": ""}, **y_axis})
    content: Figure = json.loads(figure.to_json(), object_hook=_escape)
    return content


def _escape(values: dict[str, Any]) -> dict[str, Any]:
    """Escapes the categories of an axis, which plotly reads as HTML and Optuna quotes."""
    for name in {"x", "categoryarray"} & values.keys():
        if isinstance(values[name], list):
            values[name] = [
                chart_text(v.strip("'")) if isinstance(v, str) else v for v in values[name]
            ]
    return values

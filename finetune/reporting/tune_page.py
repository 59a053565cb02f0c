"""A search of settings as one HTML file, offline."""

from __future__ import annotations

from pathlib import Path

from finetune.experiments.tune.trials import in_short
from finetune.experiments.tune.tune import Tuned
from finetune.reporting import formatting, tune_charts
from finetune.reporting.page import write_page

MOST_ROWS = 100
"""Trials in the page's table."""


def write_tune_page(path: Path, tuned: Tuned) -> Path:
    """Writes what a search found and returns `path`.

    Args:
        path: The HTML file.
        tuned: The search, with one trial or more.

    Raises:
        MissingExtra: Jinja2 or plotly is not installed.
        StorageError: The file could not be written; an older one is intact.
    """
    complete = [trial for trial in tuned.trials if trial.state == "complete"]
    names = dict.fromkeys([*tuned.importances, *(n for trial in complete for n in trial.values)])
    varied = [name for name in names if len({str(t.values.get(name)) for t in complete}) > 1]
    score = "Mean average precision" if tuned.multi_label else tune_charts.RIGHT
    charts = {
        f"value-{k}": tune_charts.by_value(complete, name, score) for k, name in enumerate(varied)
    }
    charts |= {
        "history": tune_charts.history(tuned.trials, score),
        "curves": tune_charts.curves(tuned.trials, tuned.best, score),
    }
    if tuned.importances:
        charts["importances"] = tune_charts.importance_bars(tuned.importances)
    rest = [trial for trial in tuned.trials if trial.state in ("pruned", "failed")]
    return write_page(
        path,
        "tune.html.j2",
        scripts=("charts.js",),
        data={"charts": charts},
        tuned=tuned,
        rows=[(trial, in_short(trial.flags)) for trial in (*tuned.best, *rest)][:MOST_ROWS],
        values=[(f"value-{k}", tune_charts.value_name(name)) for k, name in enumerate(varied)],
        importances=[(tune_charts.value_name(n), share) for n, share in tuned.importances.items()],
        cut=sum(trial.state == "pruned" for trial in tuned.trials),
        failed=sum(trial.state == "failed" for trial in tuned.trials),
        percent=formatting.percent,
        interval=formatting.interval,
        number=formatting.number,
        count=formatting.count,
        duration=formatting.duration,
    )

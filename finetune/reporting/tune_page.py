"""Page of a hyperparameter search: one HTML file, usable offline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from finetune.experiments.tune.search import TuneResult, describe_gain, summarize
from finetune.experiments.tune.study import Trial
from finetune.formatting import percent
from finetune.reporting.chart import Axis, Chart, Series
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
        scripts=("base.js",),
        data={},
        charts=_charts(result, varied),
        gain=describe_gain(result),
        importances=[(parameter_name(name), share) for name, share in result.importances.items()],
        tuned=result,
        rows=[(trial, summarize(trial.flags)) for trial in (*result.best, *rest)][:MAX_ROWS],
        values=[(f"value-{k}", parameter_name(name)) for k, name in enumerate(varied)],
        pruned=sum(trial.state == "pruned" for trial in result.trials),
        failed=sum(trial.state == "failed" for trial in result.trials),
    )


def _charts(result: TuneResult, varied: Sequence[str]) -> dict[str, Chart]:
    score = Axis(title=f"{result.task.score_title} (validation)", kind="share")
    charts: dict[str, Chart] = {}
    curves = [trial for trial in result.trials if trial.curve]
    if curves:
        last = max(epoch for trial in curves for epoch in trial.curve)
        charts["curves"] = Chart(
            title="Validation by epoch",
            x=Axis(title="Epoch", kind="integer", ends=(min(1, last - 1), last)),
            y=score,
            series=[
                Series(
                    name="",
                    points=[(float(epoch), value) for epoch, value in sorted(trial.curve.items())],
                    color="right" if result.best and trial is result.best[0] else "series-4",
                    dots=2,
                    notes=[
                        f"trial {trial.number}, epoch {epoch}: {percent(value)}"
                        for epoch, value in sorted(trial.curve.items())
                    ],
                )
                for trial in curves
            ],
        )
    complete = sorted(result.best, key=lambda trial: trial.number)
    if complete:
        charts["history"] = _history(complete, score)
    for k, name in enumerate(varied):
        charts[f"value-{k}"] = _values(result.study, complete, name, score)
    return charts


def _history(complete: Sequence[Trial], score: Axis) -> Chart:
    points = [(float(trial.number), trial.score or 0.0) for trial in complete]
    best = list(accumulate((value for _, value in points), max))
    return Chart(
        title="Score by trial",
        x=Axis(title="Trial", kind="integer", ends=(0, max(1.0, points[-1][0]))),
        y=score,
        series=[
            Series(
                name="trial",
                points=points,
                color="series-4",
                joined=False,
                dots=4,
                notes=[f"trial {number:.0f}: {percent(value)}" for number, value in points],
            ),
            Series(
                name="best so far",
                points=[(number, value) for (number, _), value in zip(points, best, strict=True)],
            ),
        ],
    )


def _values(study: Any, complete: Sequence[Trial], name: str, score: Axis) -> Chart:
    tried = [trial for trial in complete if name in trial.values]
    values = [trial.values[name] for trial in tried]
    title = parameter_name(name)
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        log = any(
            getattr(trial.distributions.get(name), "log", False)
            for trial in study.get_trials(deepcopy=False)
        )
        x = Axis(title=title, kind="log" if log else "number")
        places = [float(value) for value in values]
    else:
        names = sorted({str(value) for value in values})
        x = Axis(title=title, names=names)
        places = [float(names.index(str(value))) for value in values]
    return Chart(
        title=title,
        x=x,
        y=score,
        series=[
            Series(
                name="",
                points=[(x, t.score or 0.0) for x, t in zip(places, tried, strict=True)],
                joined=False,
                dots=4,
                notes=[f"trial {t.number}, {t.values[name]}: {percent(t.score)}" for t in tried],
            )
        ],
        height=260,
    )

"""Results of an ablation as an HTML page: accuracy against training time and size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.experiments.ablate import Ablation
from finetune.formatting import percent
from finetune.reporting.chart import Axis, Chart, Series
from finetune.reporting.charts import series_style
from finetune.reporting.page import write_page


def write_ablation_page(path: Path, ablation: Ablation) -> Path:
    """Writes the charts of an ablation as an HTML file and returns `path`; raises StorageError."""
    charts = {
        "time": scatter(ablation, [arm.seconds for arm in ablation.arms], "Training time (s)"),
        "size": scatter(
            ablation, [arm.parameters / 1e6 for arm in ablation.arms], "Parameters (millions)"
        ),
    }
    return write_page(
        path,
        "ablation.html.j2",
        scripts=("base.js",),
        data={},
        charts=charts,
        ablation=ablation,
        score=ablation.task.score_title,
    )


def scatter(ablation: Ablation, across: Sequence[float], title: str) -> Chart:
    """Returns the chart of the arms' scores against a cost, with their spread over the seeds."""
    score = ablation.task.score_title
    return Chart(
        title=f"{score} by {title[0].lower()}{title[1:]}",
        x=Axis(title=title, from_zero=True),
        y=Axis(title=score, kind="share"),
        series=[
            Series(
                name=arm.value,
                points=[(x, arm.mean)],
                joined=False,
                dots=5,
                color=series_style(k)["color"],
                errors=[]
                if arm.spread is None
                else [(arm.mean - arm.spread, arm.mean + arm.spread)],
                notes=[f"{arm.value}: {percent(arm.mean)} at {x:.3g}"],
            )
            for k, (arm, x) in enumerate(zip(ablation.arms, across, strict=True))
        ],
        height=400,
    )

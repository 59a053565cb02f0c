"""Results of an ablation as an HTML page: accuracy against training time and size."""

from __future__ import annotations

from pathlib import Path

from finetune.experiments.ablate import Ablation, Arm
from finetune.reporting.charts import LEGEND, Figure, chart_text
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
        scripts=("charts.js",),
        data={"charts": charts},
        ablation=ablation,
        score=ablation.task.score_title,
    )


def scatter(ablation: Ablation, across: list[float], title: str) -> Figure:
    """Returns the chart of the arms' scores against a cost, with their spread over the seeds."""

    def bar(arm: Arm) -> Figure:
        return {"type": "data", "array": [arm.spread or 0.0], "visible": arm.spread is not None}

    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "name": chart_text(arm.value),
                "x": [x],
                "y": [arm.mean],
                "error_y": bar(arm),
                "marker": {"size": 11, "color": f"var(--series-{k % 6})", "symbol": k % 8},
                "hovertemplate": "%{x:.3g}: %{y:.1%}<extra>%{fullData.name}</extra>",
            }
            for k, (arm, x) in enumerate(zip(ablation.arms, across, strict=True))
        ],
        "layout": {
            "height": 420,
            "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": ablation.task.score_title}, "tickformat": ".1%"},
            "legend": LEGEND,
        },
    }

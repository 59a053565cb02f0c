"""Table of metrics, shared by train, cross-validation and evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from finetune.cli.console import make_table, output


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Returns a table of the main metrics, one row per part."""
    if all("top1" not in values for values in metrics.values()):
        return _multilabel_table(metrics)
    numbers = ("photos", "right", "balanced", "log loss", "ECE (by chance)")
    table = make_table("part", *numbers[:2], "95 % interval", *numbers[2:], right=numbers)
    for name, values in metrics.items():
        low, high = values["top1_interval"]
        balanced = values["balanced_accuracy"]
        table.add_row(
            output.plain(name),
            f"{values['photos']:,}",
            f"{values['top1']:.1%}",
            f"{low:.1%} to {high:.1%}",
            "" if balanced is None else f"{balanced:.1%}",
            f"{values['log_loss']:.3f}",
            f"{values['ece']:.3f} ({values['ece_honest']:.3f})",
        )
    return table


def _multilabel_table(metrics: Mapping[str, Any]) -> Table:
    names = ("photos", "mAP", "95 % interval", "macro F1", "micro F1", "all right", "ECE")
    table = make_table("part", *names, right=(*names[:2], *names[3:]))
    for name, values in metrics.items():
        ends = values["mean_average_precision_interval"]
        shares = [
            "" if values[key] is None else f"{values[key]:.1%}"
            for key in ("mean_average_precision", "macro_f1", "micro_f1", "exact_match")
        ]
        table.add_row(
            output.plain(name),
            f"{values['photos']:,}",
            shares[0],
            f"{ends[0]:.1%} to {ends[1]:.1%}" if ends else "",
            *shares[1:],
            f"{values['ece']:.3f}",
        )
    return table

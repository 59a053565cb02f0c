"""The part of ``finetune train`` that cross-validates, with ``--folds``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finetune.cli.console import make_table, output
from finetune.cli.evaluate import metrics_table
from finetune.config import TrainConfig
from finetune.formatting import duration, interval, percent

if TYPE_CHECKING:
    from finetune.evaluation.intervals import Interval
    from finetune.experiments.cross_validate import CrossValidation
    from finetune.training.events import Event

MAX_LABELS = 12
"""Rows of the table of labels; those with the lowest recall come first."""


def is_cross_validation(path: Path | None) -> bool:
    """Returns whether a folder is that of a cross-validation, without loading torch."""
    return path is not None and (path / "folds.json").is_file()


def train_folds(
    photos: Path, settings: TrainConfig, options: dict[str, Any], run: str | None
) -> None:
    """Runs a cross-validation and prints its results."""
    from finetune.experiments.cross_validate import FoldConfig, cross_validate

    folds = FoldConfig(**options)
    _run(lambda callback: cross_validate(photos, settings, folds, run=run, callback=callback))


def resume_folds(path: Path) -> None:
    """Resumes an interrupted cross-validation and prints its results."""
    from finetune.experiments.cross_validate import resume_folds

    _run(lambda callback: resume_folds(path, callback=callback))


def _run(work: Callable[[Callable[[Event], None]], CrossValidation]) -> None:
    from finetune.cli.training_progress import TrainingView
    from finetune.training.events import EpochDone

    with TrainingView(output) as view:

        def callback(event: Event) -> None:
            # A row per epoch and fold would bury the rest.
            if not isinstance(event, EpochDone):
                view(event)

        result = work(callback)
    output.document(result.to_json())
    metrics = {f"fold {fold.number}": fold.metrics for fold in result.folds}
    if result.pooled is not None:
        metrics["all folds"] = result.pooled
    if metrics:
        output.print(metrics_table(metrics))
    if result.statistics is not None and result.pooled is not None:
        _print_statistics(result)
        _print_labels(result.pooled)
    _print_end(result)
    if result.interrupted:
        raise typer.Exit(130)


def _print_statistics(result: CrossValidation) -> None:
    statistics, pooled = result.statistics, result.pooled
    if statistics is None or pooled is None:
        return
    score = result.task.score_name
    _print(
        f"Mean of the {len(result.folds)} folds: {percent(statistics.mean)} {score}, standard "
        f"deviation {100 * statistics.spread:.1f} points. Student's t interval of the mean (95 %): "
        f"{_interval(statistics.interval)}; usually too narrow, since the folds share training "
        "photos (Bengio & Grandvalet 2004)."
    )
    name, text = result.task.photo_score, result.task.photo_score_name
    _print(
        f"All {pooled['photos']:,} held-out photos: {percent(pooled[name])} {text}. Wilson's "
        f"interval (95 %): {_interval(pooled[f'{name}_interval'])}."
    )


def _print_labels(pooled: Any) -> None:
    rows = sorted(
        (metrics["recall"], label, metrics)
        for label, metrics in pooled["labels"].items()
        if metrics.get("recall") is not None
    )
    table = make_table("label", "photos", "found", "95 % interval", right=("photos", "found"))
    for recall, label, metrics in rows[:MAX_LABELS]:
        ends = metrics.get("recall_interval")
        table.add_row(
            output.literal(label),
            f"{metrics['photos']:,}",
            percent(recall),
            _interval(ends) if ends else "",
        )
    output.print(table)
    if len(rows) > MAX_LABELS:
        _print(f"and {len(rows) - MAX_LABELS:,} more labels that are found at least as often.")


def _print_end(result: CrossValidation) -> None:
    folder = result.folder.path
    if result.interrupted:
        done = f"{len(result.folds)} of {result.config.folds} folds"
        output.text(f"Interrupted: {done} are done.\nNext: finetune train --resume {folder}")
        return
    if result.test is not None:
        name = result.task.score
        score = f"{percent(result.test.get(name) or 0.0)} {result.task.score_name}"
        ends = result.test.get(f"{name}_interval")
        between = f" ({_interval(ends)})" if ends else ""
        photos = f"{result.test['photos']:,} photos"
        _print(f"The final model on the collection's own test folder: {score} of {photos}{between}")
    what = "final model is" if result.config.final else "results are"
    output.text(f"Done in {duration(result.seconds)}; the {what} in {folder}")
    if result.config.final:
        output.text("Next: finetune predict photo.jpg")


def _interval(ends: Interval) -> str:
    """Returns an interval of a share, clipped to 0 and 1, which a t interval may exceed."""
    low, high = max(0.0, ends[0]), min(1.0, ends[1])
    return interval((low, high))


def _print(text: str) -> None:
    output.print(output.literal(text))

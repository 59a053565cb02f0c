"""``finetune train --folds K``: shows a cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finetune.cli.console import make_table, output
from finetune.config import TrainConfig

if TYPE_CHECKING:
    from finetune.evaluation.intervals import Interval
    from finetune.experiments.cross_validate import FoldStudy
    from finetune.training.events import Event

MOST_LABELS = 12
"""Rows of the table of labels; those that are found least often come first."""


def is_study(path: Path | None) -> bool:
    """Returns whether a folder is that of a cross-validation, without loading torch."""
    return path is not None and (path / "folds.json").is_file()


def train_folds(photos: Path, settings: TrainConfig, plan: dict[str, Any], run: str | None) -> None:
    """Runs a cross-validation and prints what came out."""
    from finetune.experiments.cross_validate import FoldPlan, cross_validate

    chosen = FoldPlan(**plan)
    _show(lambda callback: cross_validate(photos, settings, chosen, run=run, callback=callback))


def resume_study(path: Path) -> None:
    """Goes on with an interrupted cross-validation and prints what came out."""
    from finetune.experiments.cross_validate import resume_folds

    _show(lambda callback: resume_folds(path, callback=callback))


def _show(work: Any) -> None:
    from finetune.cli.training_progress import TrainingView
    from finetune.experiments.cross_validate import to_json
    from finetune.training.events import EpochDone

    with TrainingView(output) as view:

        def callback(event: Event) -> None:
            # A row an epoch and fold would bury what matters here.
            if not isinstance(event, EpochDone):
                view(event)

        study: FoldStudy = work(callback)
    output.document(to_json(study))
    _print_folds(study)
    if study.figures is not None and study.pooled is not None:
        _print_figures(study)
        _print_labels(study.pooled)
    _print_end(study)
    if study.interrupted:
        raise typer.Exit(130)


def _print_folds(study: FoldStudy) -> None:
    scores = ("mAP",) if study.multi_label else ("right", "balanced")
    names = ("fold", "held out", *scores, "log loss", "time")
    table = make_table(*names, right=names)
    from finetune.cli.training_progress import duration

    for fold in study.folds:
        table.add_row(
            str(fold.number),
            f"{fold.photos:,}",
            f"{fold.score:.1%}",
            *(() if fold.balanced_accuracy is None else (f"{fold.balanced_accuracy:.1%}",)),
            "" if fold.log_loss is None else f"{fold.log_loss:.3f}",
            duration(fold.seconds),
        )
    output.print(table)


def _print_figures(study: FoldStudy) -> None:
    figures, pooled = study.figures, study.pooled
    if figures is None or pooled is None:
        return
    what = "mAP" if study.multi_label else "right"
    _say(
        f"Mean of the {len(study.folds)} folds: {figures.mean:.1%} {what}, give or take "
        f"{100 * figures.spread:.1f} points from fold to fold."
    )
    _say(
        f"  {_ends(figures.interval)} is Student's t interval of that mean (95 %). It is mostly "
        "too narrow, since the folds train on much the same photos (Bengio & Grandvalet 2004)."
    )
    name, said = ("exact_match", "all labels right") if study.multi_label else ("top1", "right")
    _say(f"All {pooled['photos']:,} held-out photos together: {pooled[name]:.1%} {said}.")
    _say(
        f"  {_ends(pooled[f'{name}_interval'])} is Wilson's interval of that share (95 %): how "
        "far so many photos can be trusted."
    )


def _print_labels(pooled: Any) -> None:
    rows = [
        (figures["recall"], label, figures)
        for label, figures in pooled["labels"].items()
        if figures.get("recall") is not None
    ]
    rows.sort(key=lambda row: (row[0], row[1]))
    table = make_table("label", "photos", "found", "95 % interval", right=("photos", "found"))
    for recall, label, figures in rows[:MOST_LABELS]:
        ends = figures.get("recall_interval")
        table.add_row(
            output.plain(label),
            f"{figures['photos']:,}",
            f"{recall:.1%}",
            _ends(ends) if ends else "",
        )
    output.print(table)
    if len(rows) > MOST_LABELS:
        _say(f"and {len(rows) - MOST_LABELS:,} labels more that are found as often or oftener.")


def _print_end(study: FoldStudy) -> None:
    from finetune.cli.training_progress import duration

    folder = study.folder.path
    if study.interrupted:
        done = f"{len(study.folds)} of {study.plan.folds} folds"
        output.text(f"Interrupted: {done} are done.\nNext: finetune train --resume {folder}")
        return
    if study.test is not None:
        name = "mean_average_precision" if study.multi_label else "top1"
        score = f"{study.test.get(name) or 0.0:.1%}" + (" mAP" if study.multi_label else "")
        interval = study.test.get(f"{name}_interval")
        _say(
            f"The final model on the collection's own test folder: {score} of "
            f"{study.test['photos']:,} photos {_ends(interval) if interval else ''}".rstrip()
        )
    output.text(
        f"Done in {duration(study.seconds)}; "
        + (
            f"the final model is in {folder}"
            if study.plan.final
            else f"the figures are in {folder}"
        )
    )
    if study.plan.final:
        output.text("Next: finetune predict photo.jpg")


def _ends(interval: Interval) -> str:
    """Writes an interval of a share; none is below 0 or above 1, whatever a formula says."""
    low, high = max(0.0, interval[0]), min(1.0, interval[1])
    return f"{low:.1%} to {high:.1%}"


def _say(text: str) -> None:
    output.print(output.plain(text))

"""``finetune evaluate``: measures a run on its own held-out photos or on other photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from finetune.cli.command import CatalogPath, Device, one_of, team_of
from finetune.cli.console import Json, Quiet, make_table, output
from finetune.errors import ConfigError
from finetune.formatting import interval, number, percent

if TYPE_CHECKING:
    from finetune.runs.evaluate import Evaluation


def evaluate(
    run: Annotated[
        str | None, typer.Argument(help="A run's name or folder; default: the newest.")
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Argument(help="Labeled photos; default: the run's own held-out photos."),
    ] = None,
    own_photos: Annotated[
        Path | None,
        typer.Option("--photos", help="Where the run's own photos are now, if they were moved."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results; default: in the run."),
    ] = None,
    tta: Annotated[
        int, typer.Option(help="Views of a photo to average: 1, 2 (its mirror image too).")
    ] = 1,
    by: Annotated[str, typer.Option(help="What to count: photo, or burst of frames.")] = "photo",
    follow: Annotated[
        bool, typer.Option("--follow", help="During a training: evaluate each new best epoch.")
    ] = False,
    top_k: Annotated[
        str | None,
        typer.Option(
            metavar="K,K",
            help="Show the share of photos whose label is among the K likeliest: 1,3,5.",
        ),
    ] = None,
    catalog: CatalogPath = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the accuracy of a run on labeled photos.

    Labels are matched by name. Photos with labels that the run does not have measure how well it
    recognizes unknown subjects.
    """
    output.json, output.quiet = json, quiet
    if tta not in (1, 2):
        raise ConfigError(f"--tta {tta} is not one of 1, 2.")
    if photos is not None and own_photos is not None:
        raise ConfigError("--photos is where the run's own photos are; leave out the other folder.")
    ranks = parse_top_k(top_k)
    from finetune.prediction.predictions import By
    from finetune.runs.evaluate import EvaluationRequest
    from finetune.runs.evaluate import evaluate as library
    from finetune.runs.folder import find_run
    from finetune.training.device import process_device, require_one_process

    request = EvaluationRequest(
        photos=photos,
        own_photos=own_photos,
        output=folder,
        catalog=catalog,
        tta=tta == 2,
        by_burst=one_of("--by", by, By) == "burst",
        device=str(process_device(device)),
    )
    if follow:
        require_one_process("finetune evaluate --follow")
        from finetune.runs.follow import BestEpoch, follow_run

        if run is None:
            raise ConfigError("--follow needs the name of the run: finetune evaluate RUN --follow")
        for update in follow_run(find_run(run), request):
            if isinstance(update, BestEpoch):
                output.text(f"Epoch {update.epoch}")
                show_evaluation(update.evaluation, ranks)
                output.document({"epoch": update.epoch, "metrics": update.evaluation.metrics})
        return
    with team_of(request.device) as team:
        with output.progress("Evaluating") as advance:
            result = library(find_run(run), request, progress=advance, team=team)
        if not team.is_main:
            return
        show_evaluation(result, ranks)
        output.document(
            {
                "folder": None if result.folder is None else str(result.folder),
                "metrics": result.metrics,
                "unknown_labels": result.unknown_labels,
                "left_out": result.left_out,
                "statuses": result.statuses,
            }
        )


def parse_top_k(text: str | None) -> tuple[int, ...]:
    """Returns the numbers of ``1,3,5``; none for None.

    Raises:
        ConfigError: One is no number from 1 to 5.
    """
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part in ("1", "2", "3", "4", "5") for part in parts):
        raise ConfigError(f"--top-k {text} must be numbers from 1 to 5, such as 1,3,5.")
    return tuple(sorted({int(part) for part in parts}))


def show_evaluation(result: Evaluation, ranks: Sequence[int] = ()) -> None:
    """Prints the figures of an evaluation, with the top-k accuracies of some ranks."""
    from finetune.runs.answers import status_sentences

    output.print(metrics_table(result.metrics, ranks))
    if result.unknown_labels:
        names = ", ".join(f"{label} ({count})" for label, count in result.unknown_labels.items())
        output.text(f"Labels that the run does not have: {names}")
    if result.left_out:
        output.text(f"{result.left_out:,} photos without one label were left out.")
    show_levels(result.metrics)
    if result.statuses is not None:
        for sentence in status_sentences(result.statuses):
            output.text(sentence)
    if result.folder is not None:
        output.text(f"Saved in {result.folder}")


def show_levels(metrics: Mapping[str, Any]) -> None:
    """Prints accuracy and coverage by level of a tree of labels; nothing without one."""
    from finetune.runs.answers import level_sentences

    for name, values in metrics.items():
        if not values.get("levels"):
            continue
        numbers = ("nodes", "right", "reach 95 %", "right of these")
        table = make_table(f"level, {name}", *numbers, right=numbers)
        for row in values["levels"]:
            photos, sure = row["photos"], row["sure"]
            table.add_row(
                output.literal(row["level"]),
                f"{row['nodes']:,}",
                f"{row['right']:,} of {photos:,} ({percent(row['right'] / photos)})",
                f"{sure:,} of {photos:,} ({percent(sure / photos)})",
                percent(row["sure_right"] / sure) if sure else "",
            )
        output.print(table)
        for sentence in level_sentences(values):
            output.text(sentence)


def metrics_table(metrics: Mapping[str, Any], ranks: Sequence[int] = ()) -> Table:
    """Returns a table of the main metrics, one row per part, and top-k accuracies of some ranks."""
    if all("top1" not in values for values in metrics.values()):
        return _multilabel_table(metrics)
    numbers = ("right", "accuracy", "balanced", "log loss", "ECE (chance)")
    tops = [f"top {rank}" for rank in ranks]
    titles = (*numbers[:2], "95 % interval", *tops, *numbers[2:])
    table = make_table("part", *titles, right=(*numbers, *tops))
    for name, values in metrics.items():
        balanced = values["balanced_accuracy"]
        table.add_row(
            output.literal(name),
            f"{round(values['top1'] * values['photos']):,} of {values['photos']:,}",
            percent(values["top1"]),
            interval(values["top1_interval"]),
            *(f"{percent(values[f'top{rank}'])}" for rank in ranks),
            "" if balanced is None else percent(balanced),
            number(values["log_loss"]),
            f"{number(values['ece'])} ({number(values['ece_honest'])})",
        )
    return table


def _multilabel_table(metrics: Mapping[str, Any]) -> Table:
    names = ("photos", "mAP", "95 % interval", "macro F1", "micro F1", "all right", "ECE")
    table = make_table("part", *names, right=(*names[:2], *names[3:]))
    for name, values in metrics.items():
        ends = values["mean_average_precision_interval"]
        shares = [
            "" if values[key] is None else percent(values[key])
            for key in ("mean_average_precision", "macro_f1", "micro_f1", "exact_match")
        ]
        table.add_row(
            output.literal(name),
            f"{values['photos']:,}",
            shares[0],
            interval(ends),
            *shares[1:],
            number(values["ece"]),
        )
    return table

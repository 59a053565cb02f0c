"""``finetune evaluate``: measures a run on its own held-out photos or on other photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.console import Json, Quiet, output
from finetune.cli.metrics_table import metrics_table
from finetune.errors import ConfigError

if TYPE_CHECKING:
    from finetune.runs.evaluate import Evaluation


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    run: Annotated[
        str | None, typer.Argument(help="A run's name or folder; not given: the newest.")
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Argument(help="Labeled photos; not given: the run's validation and test photos."),
    ] = None,
    tta: Annotated[
        int, typer.Option("--tta", help="Views of a photo to average: 1, 2 (its mirror image too).")
    ] = 1,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="During a training: evaluate each new best epoch."),
    ] = False,
    catalog: Annotated[
        Path | None, typer.Option("--catalog", help="Where the folder's catalog is kept.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; not set: the best.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the accuracy of a run on labeled photos.

    Labels are matched by name. Photos with labels that the run does not have measure how well it
    recognizes "none of these".
    """
    output.json, output.quiet = json, quiet
    if tta not in (1, 2):
        raise ConfigError(f"--tta {tta} is none of 1, 2.")
    from finetune.runs.evaluate import EvaluationRequest
    from finetune.runs.evaluate import evaluate as library
    from finetune.runs.folder import find_run
    from finetune.training.device import choose_device

    request = EvaluationRequest(
        photos=photos, catalog=catalog, tta=tta == 2, device=str(choose_device(device))
    )
    if follow:
        from finetune.runs.follow import BestEpoch, follow_run

        if run is None:
            raise ConfigError("--follow needs the name of the run: finetune evaluate RUN --follow")
        for update in follow_run(find_run(run), request):
            if isinstance(update, BestEpoch):
                output.text(f"Epoch {update.epoch}")
                show_evaluation(update.evaluation)
                output.document({"epoch": update.epoch, "metrics": update.evaluation.metrics})
        return
    with output.progress("Evaluating") as advance:
        result = library(find_run(run), request, progress=advance)
    show_evaluation(result)
    output.document(
        {
            "folder": str(result.folder),
            "metrics": result.metrics,
            "foreign_labels": result.unknown_labels,
            "left_out": result.left_out,
            "unknown": result.unknown,
        }
    )


def show_evaluation(result: Evaluation) -> None:
    """Prints the figures of an evaluation."""
    output.print(metrics_table(result.metrics))
    if result.unknown_labels:
        names = ", ".join(f"{label} ({count})" for label, count in result.unknown_labels.items())
        output.text(f"Labels that the run does not have: {names}")
    if result.left_out:
        output.text(f"{result.left_out:,} photos without one label were left out.")
    unknown = result.unknown
    if unknown and unknown["measured_precision"] is not None:
        low, high = unknown["precision_interval"]
        output.text(
            f"With 'none of these': {unknown['answered']:.0%} of the photos of known labels get a "
            f"label, and {unknown['measured_precision']:.1%} of these labels are right "
            f"({low:.1%} to {high:.1%}; target: {unknown['stated_precision']:.0%})"
        )
        if unknown["foreign_refused"] is not None:
            output.text(
                f"Of {unknown['foreign_photos']:,} photos of other labels, "
                f"{unknown['foreign_refused']:.0%} are recognized as 'none of these'"
            )
    output.text(f"Saved in {result.folder}")

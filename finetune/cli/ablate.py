"""``finetune ablate``: compares augmentations, or values of another setting, on your photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.console import Json, Quiet, make_table, output
from finetune.cli.options import SetNumbers, photos_folder, with_settings
from finetune.cli.train import settings_of


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("ablate")(with_settings(ablate))


def ablate(
    *,
    photos: Annotated[
        Path | None, typer.Argument(help="As for train; not given: ./photos.")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Trainings per value, each with its own seed.", min=1)
    ] = 3,
    over: Annotated[
        str | None,
        typer.Option(
            "--over",
            metavar="NAME=VALUE,VALUE",
            help="Compare values of another setting: size=32,128,224 or model=resnet18,resnet50.",
        ),
    ] = None,
    name: Annotated[
        Path | None, typer.Option("--name", help="Folder for the runs; not set: runs/ablation.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Settings from a TOML file, or a run's config.json."),
    ] = None,
    set_: SetNumbers = None,
    json: Json = False,
    quiet: Quiet = False,
    flags: dict[str, Any],
) -> None:
    """Compare augmentations, or values of any other setting.

    --augment takes a list: none,standard,mobius. The result has the spread over seeds and a paired
    test on your photos. --over compares values of any other setting of train, or of a recipe.
    """
    output.json, output.quiet = json, quiet
    from finetune.experiments.ablate import parse_sweep

    if over is None:
        values = (flags.pop("augment", None) or "none,standard,mobius").split(",")
        setting, values = "augment", [value.strip() for value in values]
    else:
        setting, values = parse_sweep(over)
    settings = settings_of(config, flags, set_)
    from finetune.cli.training_progress import TrainingView
    from finetune.experiments import ablate as library
    from finetune.reporting.formatting import duration

    with TrainingView(output) as view:
        ablation = library.ablate(
            photos_folder(photos),
            settings,
            values,
            over=setting,
            seeds=seeds,
            folder=name,
            callback=view,
        )
    output.document(library.to_json(ablation))
    title = "augmentation" if setting == "augment" else setting.replace("_", " ")
    score = ablation.task.score_name
    table = make_table(title, score, "spread", "time", right=(score, "spread", "time"))
    for arm in ablation.arms:
        spread = "" if arm.spread is None else f"± {100 * arm.spread:.1f}"
        table.add_row(output.plain(arm.value), f"{arm.mean:.1%}", spread, duration(arm.seconds))
    output.print(table)
    if ablation.task.multi_label:
        output.text("A photo counts as right when all its labels are right:")
    for pair in ablation.differences:
        low, high = pair.interval
        verdict = (
            "no clear difference on these photos"
            if low <= 0 <= high
            else ("better" if pair.points > 0 else "worse")
        )
        output.text(
            f"{pair.second} against {pair.first}: {pair.points:+.1f} points ({low:+.1f} to "
            f"{high:+.1f}; {pair.photos:,} predictions, McNemar p = {pair.p_value:.2g}): {verdict}"
        )
    output.text(f"The runs are in {ablation.folder}")

"""``finetune ablate`` and ``finetune lr-find``: compares settings, and finds a learning rate."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.command import ConfigFile, Photos, SetNumbers, photos_folder, with_settings
from finetune.cli.console import Json, Quiet, make_table, output
from finetune.cli.train import settings_of
from finetune.formatting import duration, percent, signed


@with_settings()
def ablate(
    *,
    photos: Photos = None,
    seeds: Annotated[
        int, typer.Option(help="Trainings per value, each with its own seed.", min=1)
    ] = 3,
    over: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,VALUE",
            help="Compare values of another setting: size=32,128,224, or networks with their "
            "weights: model=resnet18:FILE,efficientnet_b0:FILE.",
        ),
    ] = None,
    name: Annotated[
        Path | None, typer.Option(help="Folder for the runs; default: runs/ablation.")
    ] = None,
    config: ConfigFile = None,
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
    from finetune.reporting.ablation_page import write_ablation_page

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
    figures = (score, "spread", "time", "parameters")
    table = make_table(title, *figures, right=figures)
    for arm in ablation.arms:
        spread = "" if arm.spread is None else f"± {100 * arm.spread:.1f}"
        table.add_row(
            output.literal(arm.value),
            percent(arm.mean),
            spread,
            duration(arm.seconds),
            f"{arm.parameters / 1e6:.2f} M",
        )
    output.print(table)
    if ablation.task.comparison_note:
        output.text(ablation.task.comparison_note)
    for pair in ablation.differences:
        low, high = pair.interval
        verdict = (
            "no clear difference on these photos"
            if low <= 0 <= high
            else ("better" if pair.points > 0 else "worse")
        )
        output.text(
            f"{pair.second} against {pair.first}: {signed(pair.points)} points ({signed(low)} to "
            f"{signed(high)}; {pair.photos:,} predictions, McNemar p = {pair.p_value:.2g}): "
            f"{verdict}"
        )
    page = write_ablation_page(ablation.folder / "ablation.html", ablation)
    output.text(f"The runs are in {ablation.folder}, charts by time and size in {page}")


@with_settings()
def lr_find(
    *,
    photos: Photos = None,
    steps: Annotated[int, typer.Option(help="Steps of the sweep, one at each rate.", min=20)] = 100,
    plots: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", help="Write the plot to this file, .html or .png."),
    ] = None,
    config: ConfigFile = None,
    set_: SetNumbers = None,
    json: Json = False,
    quiet: Quiet = False,
    flags: dict[str, Any],
) -> None:
    """Find a good learning rate with a short sweep of rates.

    It takes the settings of train, and writes nothing but the caches that train uses as well.
    """
    output.json, output.quiet = json, quiet
    settings = settings_of(config, flags, set_)
    from finetune.cli.training_progress import TrainingView
    from finetune.experiments import lr_find as library
    from finetune.reporting import lr_find_page

    with TrainingView(output) as view:
        found = library.find_lr(photos_folder(photos), settings, steps=steps, callback=view)
    for file in plots or ():
        is_picture = file.suffix.lower() == ".png"
        write = lr_find_page.write_lr_picture if is_picture else lr_find_page.write_lr_page
        write(file, found)
    output.document(dataclasses.asdict(found))
    for line in lr_find_page.text_chart(found):
        output.text(line)
    output.text(lr_find_page.why(found))
    for file in plots or ():
        output.text(f"The plot is in {file}")
    output.text(f"Next: finetune train --mode {found.mode} --lr {found.suggestion.lr:.2g}")

"""``finetune lr-find``: suggests a learning rate for a network and a collection."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.console import Json, Quiet, output
from finetune.cli.options import SetNumbers, photos_folder, with_settings
from finetune.cli.train import settings_of


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("lr-find")(with_settings(lr_find))


def lr_find(
    *,
    photos: Annotated[
        Path | None, typer.Argument(help="As for train; not given: ./photos.")
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", help="Steps of the sweep, one at each rate.", min=20)
    ] = 100,
    plots: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", help="Write the plot to this file, .html or .png."),
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
    output.text(f"Next: finetune train --lr {found.suggestion.lr:.2g}")

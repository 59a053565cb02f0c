"""Command line: each command parses, calls the library, and prints through `console`."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from finetune.cli.command import Command, Group

COMMANDS = {
    "Start here": "train.train predict.predict demo.demo doctor.doctor",
    "Your photos": (
        "annotate.annotate scan.scan duplicates.duplicates similar.similar crop.crop split.split "
        "import_export.export_photos import_export.import_"
    ),
    "Training": (
        "watch.watch preview.preview experiments.lr_find experiments.ablate tune.tune "
        "models.models models.summary"
    ),
    "Results": "evaluate.evaluate report.report compare.compare export.export serve.serve",
}
"""Functions in the modules of this package, by panel of the help; each is a command."""

app = typer.Typer(
    cls=Group,
    name="finetune",
    help="Turn your own photos into a classifier that you can trust.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(requested: bool) -> None:
    if requested:
        from finetune.cli.command import version_lines

        typer.echo("\n".join(version_lines()))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            metavar="",
            help="Show versions and the device.",
        ),
    ] = False,
) -> None:
    """Turn your own photos into a classifier that you can trust."""


for _panel, _functions in COMMANDS.items():
    for _path in _functions.split():
        _module, _function = _path.split(".")
        app.command(_function.strip("_").replace("_", "-"), cls=Command, rich_help_panel=_panel)(
            getattr(importlib.import_module(f"finetune.cli.{_module}"), _function)
        )

"""The command line: each command parses, calls the library, and prints through `console`."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from finetune.cli.command import Command, Group

COMMANDS = {
    "Start here": ("train", "predict", "demo"),
    "Your photos": ("annotate", "scan", "duplicates", "similar", "crop", "split", "import_export"),
    "Training": ("watch", "preview", "lr_find", "ablate", "tune", "models", "summary"),
    "Results": ("evaluate", "report", "compare", "export", "serve"),
}
"""Modules of this package by panel of the help; each has ``register(app)``."""

app = typer.Typer(
    cls=Group,
    name="finetune",
    help="Turn your own photos into a classifier that you can trust.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from finetune.cli.version import version_lines

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


for _panel, _names in COMMANDS.items():
    for _name in _names:
        _before = len(app.registered_commands)
        importlib.import_module(f"finetune.cli.{_name}").register(app)
        for _command in app.registered_commands[_before:]:
            _command.rich_help_panel = _panel
            _command.cls = Command

"""The command line: each command parses, calls the library, and prints through `console`."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import typer
import typer.core

from finetune.cli.console import output
from finetune.errors import FinetuneError, MissingExtra

COMMANDS = {
    "Start here": ("train", "predict", "demo"),
    "Your photos": ("annotate", "scan", "duplicates", "similar", "crop", "split", "import_export"),
    "Training": ("watch", "preview", "lr_find", "ablate", "tune", "models", "summary"),
    "Judging": ("evaluate", "report", "compare"),
    "In use": ("export", "serve"),
}
"""Modules of this package by panel of the help; each has ``register(app)``."""


EXTRAS = {
    "jinja2": "web",
    "mlflow": "mlflow",
    "multipart": "web",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "optuna": "tune",
    "plotly": "report",
    "prometheus_client": "web",
    "python_multipart": "web",
    "starlette": "web",
    "tensorboard": "tensorboard",
    "uvicorn": "web",
    "wandb": "wandb",
}
"""Which extra brings a package that a command may want."""


class ErrorBoundary(typer.core.TyperGroup):
    """Turns what a person can mend into one line and an exit code; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the chosen command; exits 1 on a FinetuneError, 130 when interrupted."""
        output.listen_to_library()
        try:
            return super().invoke(ctx)
        except FinetuneError as error:
            output.error(str(error))
            raise typer.Exit(1) from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS:
                raise
            missing = MissingExtra(package, EXTRAS[package], f"finetune {ctx.invoked_subcommand}")
            output.error(str(missing))
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            output.error("Interrupted.")
            raise typer.Exit(130) from error


class Command(typer.core.TyperCommand):
    """A command in whose help an option that is there or not has no type beside it."""

    def get_params(self, ctx: Any) -> Any:
        """Returns the options, `--help` among them."""
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "is_bool_flag", False) and param.metavar is None:
                param.metavar = ""
        return params


app = typer.Typer(
    cls=ErrorBoundary,
    name="finetune",
    help="Turn your own photos into a classifier that you can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def paragraphs(docstring: str | None) -> str:
    """Returns a docstring with one line a paragraph, so that only the terminal breaks its lines.

    Typer's help keeps the breaks of the source in every paragraph but the first.
    """
    parts = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts)


for _panel, _names in COMMANDS.items():
    for _name in _names:
        _before = len(app.registered_commands)
        importlib.import_module(f"finetune.cli.{_name}").register(app)
        for _command in app.registered_commands[_before:]:
            _command.rich_help_panel = _panel
            _command.cls = Command
            _command.help = paragraphs(_command.callback.__doc__)


def main() -> None:
    """Entry point of the ``finetune`` command.

    Exit codes: 0 done, 1 a FinetuneError, 2 wrong usage, 130 interrupted.
    """
    app()

"""Command classes: short help, all options with ``--help-all``, and old names of options."""

from __future__ import annotations

import re
import sys
from typing import Any

import typer.core

from finetune.cli.console import output
from finetune.errors import FinetuneError, MissingExtra

MORE = "More options"
"""Help panel of options that only ``--help-all`` shows, as it does those of any named panel."""

RENAMED: dict[str, dict[str, str]] = {
    "ablate": {"--run": "--name"},
    "annotate": {"--take-back": "--undo", "--browser": "--open", "--no-browser": "--no-open"},
    "crop": {"--html": "--output", "--png": "--output"},
    "demo": {"--photos": "--per-label"},
    "duplicates": {"--html": "--output"},
    "export": {"--out": "--output"},
    "lr-find": {"--html": "--output", "--png": "--output"},
    "predict": {"--undo-sort": "--undo --sort-into"},
    "scan": {"--html": "--output"},
    "similar": {"--html": "--output"},
    "train": {"--run": "--name"},
}
"""Old option names by command; accepted with a note for one release."""

EXTRAS = {
    "hypercorn": "web",
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
    "wandb": "wandb",
}
"""Optional dependency group that installs a package."""

_ALL = "finetune.help_all"


class Command(typer.core.TyperCommand):
    """Command whose ``--help`` lists the main options and ``--help-all`` lists all of them.

    Options in a named help panel are shown by ``--help-all`` only.
    """

    def get_params(self, ctx: Any) -> Any:
        """Returns the parameters; arguments are named in capitals, switches have no type."""
        params: Any = super().get_params(ctx)
        for param in params:
            if param.metavar is None and param.param_type_name == "argument":
                param.metavar = param.name.upper()
            elif param.metavar is None and getattr(param, "is_bool_flag", False):
                param.metavar = ""
        return params

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parses the words of a command, with old option names replaced."""
        if "--help-all" in args:
            ctx.meta[_ALL] = True
            args = ["--help"]
        return super().parse_args(ctx, current_names(self.name or "", args))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments and options panel by panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                names, text = record
                argument = param.param_type_name == "argument"
                panel = "Arguments" if argument else getattr(param, "rich_help_panel", None)
                names = re.sub(" ?<(.*)>", "" if argument else _short_type, names)
                panels.setdefault(panel or "Options", []).append((names, text))
        for panel, records in panels.items():
            if panel in ("Arguments", "Options") or ctx.meta.get(_ALL):
                with formatter.section(panel):
                    formatter.write_dl(records)
        if not ctx.meta.get(_ALL) and not {"Arguments", "Options"}.issuperset(panels):
            takes_settings = "Machine" in panels and self.name != "train"
            more = "Options of train work here too" if takes_settings else "All options"
            formatter.write(f"\n{more}: finetune {self.name} --help-all\n")


class Group(typer.core.TyperGroup):
    """Root command: reports expected errors in one line; a bug keeps its traceback."""

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

    def get_params(self, ctx: Any) -> Any:
        """Returns the options of the root command, each with one line of help."""
        params: Any = super().get_params(ctx)
        for param in params:
            if param.name == "show_completion":
                param.help = "Show the completion script of the current shell."
        return params

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands panel by panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            limit = formatter.width - 6 - max(map(len, self.commands))
            line = (name, command.get_short_help_str(limit))
            panels.setdefault(command.rich_help_panel or "Commands", []).append(line)
        for panel, lines in panels.items():
            with formatter.section(panel):
                formatter.write_dl(lines)


def _short_type(found: re.Match[str]) -> str:
    """Returns a short name for a type as typer shows it, such as ``<int range>``."""
    kinds = {"int": "N", "float": "X", "path": "PATH"}
    return " " + next((name for kind, name in kinds.items() if kind in found[1].lower()), "TEXT")


def current_names(command: str, args: list[str]) -> list[str]:
    """Returns the words of a command line with old option names replaced by the current ones.

    Each replacement is noted on stderr. Words after ``--`` are left alone.

    Example:
        >>> current_names("export", ["garden", "--output=model.onnx"])
        ['garden', '--output=model.onnx']
    """
    renamed = RENAMED.get(command, {})
    end = args.index("--") if "--" in args else len(args)
    words: list[str] = []
    for place, word in enumerate(args[:end]):
        name, equals, value = word.partition("=")
        following = args[place + 1] if place + 1 < end else ""
        if name in renamed:
            sys.stderr.write(
                f"Note: {name} is now {renamed[name]}; the old name will stop working in the next "
                "release.\n"
            )
            *switches, name = renamed[name].split()
            words.extend(switches)
        words.append(name + equals + value)
        if command == "evaluate" and word == "--tta" and not following.isdigit():
            sys.stderr.write("Note: --tta now takes a number of views; --tta 2 is used.\n")
            words.append("2")
    return words + args[end:]

"""Command classes: short help, all options with ``--help-all``, and old names of options."""

from __future__ import annotations

import contextlib
import functools
import inspect
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
import typer.core

from finetune import __version__
from finetune.cli.console import BROKEN_PIPE, output
from finetune.config_io import Setting, choices, settings, strip_none
from finetune.errors import ConfigError, FinetuneError, MissingExtra
from finetune.files import NO_SPACE
from finetune.processes import ALONE, Team, launched

if TYPE_CHECKING:
    from finetune.photos.collection import Collection

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
    "mlflow": "mlflow",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "optuna": "tune",
    "pyarrow": "parquet",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}
"""Optional dependency group that installs a package."""

HUB_COMMANDS = ("predict", "serve")
"""Commands that open a run on the Hugging Face hub by its address."""

_ALL = "finetune.help_all"

_ADDRESS = re.compile(r"(https?|ftps?|s3|gs|hf)://", re.IGNORECASE)


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
        """Parses the arguments of a command, with old option names replaced."""
        for word in args:
            if _ADDRESS.match(word) and not (
                self.name in HUB_COMMANDS and word.startswith("hf://")
            ):
                raise ConfigError(
                    f"{word} is an address on the web, not a file. Download it first, and give the "
                    "path of the file."
                )
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
        """Runs the chosen command; exits 1 on a FinetuneError, 130 when interrupted.

        With 141 when the reader of the output has gone, which typer would call a failure.
        """
        output.show_library_warnings()
        try:
            return super().invoke(ctx)
        except FinetuneError as error:
            output.error(str(error))
            raise typer.Exit(1) from error
        except BrokenPipeError as error:
            raise typer.Exit(BROKEN_PIPE) from error
        except OSError as error:
            # Writes that no module expects to fail, such as of the standard output.
            if error.errno not in NO_SPACE:
                raise
            output.error("The disk is full. Free some space and run the same command again.")
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
        """Returns the options of the root command; the help leaves out the rarely used one."""
        params: Any = super().get_params(ctx)
        for param in params:
            if param.name == "show_completion":
                param.hidden = True
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
    """Returns the arguments of a command with old option names replaced by the current ones.

    Each replacement is noted on stderr. Words after ``--`` are left alone.

    Example:
        >>> current_names("export", ["garden", "--output=model.onnx"])
        ['garden', '--output=model.onnx']
    """
    renamed = RENAMED.get(command, {})
    end = args.index("--") if "--" in args else len(args)
    arguments: list[str] = []
    for place, word in enumerate(args[:end]):
        name, equals, value = word.partition("=")
        following = args[place + 1] if place + 1 < end else ""
        if name in renamed:
            sys.stderr.write(
                f"Note: {name} is now {renamed[name]}; the old name will stop working in the next "
                "release.\n"
            )
            *switches, name = renamed[name].split()
            arguments.extend(switches)
        arguments.append(name + equals + value)
        if command == "evaluate" and word == "--tta" and not following.isdigit():
            sys.stderr.write("Note: --tta now takes a number of views; --tta 2 is used.\n")
            arguments.append("2")
    return arguments + args[end:]


def version_lines() -> list[str]:
    """Returns the lines of ``finetune --version``: versions and the default device.

    torch is imported only where its build and the machine may have an accelerator; that takes
    seconds.
    """
    torch = _version("torch")
    return [
        f"finetune {__version__}",
        f"Python {platform.python_version()}",
        f"torch {torch}",
        f"timm {_version('timm')}",
        f"device {_device(torch)}",
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device(torch: str) -> str:
    gpu = Path("/proc/driver/nvidia/version").exists() or Path("/dev/kfd").exists()
    if torch == "not installed" or "+cpu" in torch or (platform.system() == "Linux" and not gpu):
        return "cpu"
    from finetune.training.device import choose_device

    return str(choose_device(None))


_PANELS = {
    "collection": "Photos",
    "pixels": "Pixels",
    "model": "Model",
    "augmentation": "Augmentation",
    "training": "Training",
    "optimization": "Optimization",
    "labels": "Labels",
    "machine": "Machine",
    "tracking": "Tracking",
}


Photos = Annotated[
    Path | None, typer.Argument(help="Folder of photos; default: ./photos, else this folder.")
]
CatalogPath = Annotated[
    Path | None, typer.Option(help="Where the catalog is kept; default: PHOTOS/.finetune.")
]
ConfigFile = Annotated[
    Path | None, typer.Option(help="Settings from a TOML file, or a run's config.json.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; default: the best.")]
SurePrecision = Annotated[
    float,
    typer.Option("--precision", help="Share of sure labels that should be right."),
]
FalseAlarms = Annotated[
    float,
    typer.Option(help="Share of photos of known labels that may be taken for unknown; 0: none is."),
]
SureThreshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="Probability of a sure label; default: by --precision.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.", min=0)]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")]
Language = Annotated[
    str | None,
    typer.Option(metavar="en|ja", help="Language of the page; not set: English."),
]
SetNumbers = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A value of the augmentation recipe, such as mobius_bound=1.5.",
        rich_help_panel=MORE,
    ),
]


_MODEL_ARG = typer.Option(
    "--model-arg",
    metavar="NAME=VALUE",
    help="An argument of the network itself: --model-arg widths=16,32,64",
    show_default=False,
    rich_help_panel=_PANELS["model"],
)


def with_settings(*main: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that adds an option for each training setting to a command.

    The command receives ``flags``, ``{name: value}`` of the settings on the command line.

    Args:
        *main: Settings that ``--help`` shows, in this order; ``--help-all`` shows all.
    """
    named = {setting.name: setting for setting in settings()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            flags = {name: values.pop(name, None) for name in named}
            flags["model_arg"] = model_arguments(values.pop("model_arg") or ()) or None
            given = {name: value for name, value in flags.items() if value is not None}
            command(**values, flags=given)

        own = inspect.signature(command, eval_str=True).parameters
        photos, *others = (parameter for name, parameter in own.items() if name != "flags")
        parameters = [
            photos,
            *(_parameter(named[name], is_main=True) for name in main),
            *others,
            *(_parameter(item, is_main=False) for name, item in named.items() if name not in main),
            _keyword("model_arg", list[str], _MODEL_ARG),
        ]
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {item.name: item.annotation for item in parameters}
        return wrapped

    return decorate


def recipe_numbers(pairs: list[str]) -> dict[str, Any]:
    """Returns ``{name: value}`` of the values of ``--set``.

    Raises:
        ConfigError: A value is not NAME=VALUE.
    """
    numbers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {pair} is not NAME=VALUE, such as mobius_bound=1.5.")
        numbers[name.strip().replace("-", "_")] = _value(value.strip())
    return numbers


def model_arguments(pairs: Iterable[str]) -> dict[str, Any]:
    """Returns ``{name: value}`` of the values of ``--model-arg``.

    A value is read as TOML has it (integer, number, true, false, a list in brackets); numbers
    with commas between them are a list, and anything else is text.

    Raises:
        ConfigError: A value is not NAME=VALUE.

    Example:
        >>> model_arguments(["widths=16,32", "kernel_size=3", "activation=tanh"])
        {'widths': [16, 32], 'kernel_size': 3, 'activation': 'tanh'}
    """
    given = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"--model-arg {pair} is not NAME=VALUE, such as widths=16,32.")
        given[name.strip().replace("-", "_")] = _toml_value(value.strip())
    return given


def _toml_value(text: str) -> Any:
    for candidate in (text, f"[{text}]"):
        try:
            return tomllib.loads(f"value = {candidate}")["value"]
        except tomllib.TOMLDecodeError:
            continue
    return text


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _parameter(setting: Setting, *, is_main: bool) -> inspect.Parameter:
    allowed = choices(setting.type)
    kind = str if allowed else strip_none(setting.type)
    shown = "" if setting.default is None else f" (default: {setting.default})"
    info = typer.Option(
        setting.flag,
        help=setting.help + shown,
        metavar="|".join(allowed) if allowed else None,
        show_default=False,
        rich_help_panel=None if is_main else _PANELS[setting.concern],
    )
    return _keyword(setting.name, kind, info)


def _keyword(name: str, kind: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, info],
    )


def photos_folder(photos: Path | None) -> Path:
    """Returns the given folder, else ``./photos`` if it exists, else the current folder."""
    default = Path("photos")
    return photos or (default if default.is_dir() else Path())


def read_collection(root: Path, catalog: Path | None = None, **options: Any) -> Collection:
    """Scans a folder of photos behind a progress bar."""
    from finetune.photos.scan import scan

    with output.progress("Reading photos") as advance:
        return scan(root, catalog=catalog, progress=advance, **options)


@contextlib.contextmanager
def team_of(device: str | None) -> Iterator[Team]:
    """Yields the processes that ``torchrun`` or ``accelerate launch`` started for this command.

    All but the main one are quiet. At the end they wait for each other.

    Raises:
        DeviceError: The device does not exist.
    """
    if launched().count == 1:
        yield ALONE
        return
    from finetune.config import MachineConfig
    from finetune.training.device import join_processes
    from finetune.training.distributed import end_processes

    team = join_processes(MachineConfig(device=device))
    output.quiet = output.quiet or not team.is_main
    yield team
    end_processes()


def one_of(flag: str, value: str, allowed: Any) -> Any:
    """Returns the value of an option if it is one of a literal type's.

    Raises:
        ConfigError: It is another.
    """
    if value not in get_args(allowed):
        raise ConfigError(f"{flag} {value} is not one of {', '.join(get_args(allowed))}.")
    return value


def open_page(path: Path) -> None:
    """Opens an HTML file in a browser."""
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        output.warn(f"No browser could be opened. Open {path} in one.")

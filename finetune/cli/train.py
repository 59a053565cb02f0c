"""``finetune train``: from a folder of photos to a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from finetune.cli.console import Json, Quiet, make_table, output
from finetune.cli.options import SetNumbers, photos_folder, recipe_numbers, with_settings
from finetune.config import TrainConfig
from finetune.errors import ConfigError
from finetune.files import read_json
from finetune.settings import read_toml, resolve

if TYPE_CHECKING:
    from finetune.runs.train import RunResult


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("train")(with_settings(train))


def train(
    *,
    photos: Annotated[
        Path | None,
        typer.Argument(help="Folder with one folder of photos a label; not given: ./photos."),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run; not set: date, model and mode.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Settings from a TOML file, or a run's config.json."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with this interrupted run.")
    ] = None,
    set_: SetNumbers = None,
    json: Json = False,
    quiet: Quiet = False,
    flags: dict[str, Any],
) -> None:
    """Train a classifier on your photos.

    The photos lie in one folder a label, or in train/ val/ test/ folders of such. What comes out
    is a folder in ./runs that holds all that the model is.
    """
    output.json, output.quiet = json, quiet
    if resume is not None:
        _refuse_with_resume(photos, run, config, flags, set_)
    else:
        settings = settings_of(config, flags, set_)
    # Checked before torch is loaded: a typing mistake is answered at once.
    from finetune.cli.watching import TrainingView
    from finetune.runs import train as library

    with TrainingView(output) as view:
        if resume is not None:
            result = library.resume(resume, listen=view)
        else:
            result = library.train(photos_folder(photos), settings, run=run, listen=view)
    output.document(
        {
            "run": str(result.run.path),
            "metrics": result.metrics,
            "best_epoch": result.best_epoch,
            "seconds": round(result.seconds, 3),
            "interrupted": result.interrupted,
        }
    )
    show_result(result)
    if result.interrupted:
        raise typer.Exit(130)


def settings_of(
    config: Path | None, flags: dict[str, Any], numbers: list[str] | None
) -> TrainConfig:
    """Returns the checked settings of a command: defaults, then a file, then the flags."""
    from_file: dict[str, Any] = {}
    if config is not None:
        from_file = _read_config(config)
    if numbers:
        from_file["recipe"] = {**from_file.get("recipe", {}), **recipe_numbers(numbers)}
    return resolve(from_file, flags)


def _read_config(path: Path) -> dict[str, Any]:
    if path.suffix != ".json":
        return read_toml(path)
    try:
        content = read_json(path)
        settings: dict[str, Any] = content["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--config {path} is not the config.json of a run.") from error
    return settings


def _refuse_with_resume(
    photos: Path | None,
    run: str | None,
    config: Path | None,
    flags: dict[str, Any],
    numbers: list[str] | None,
) -> None:
    given = [f"--{name.replace('_', '-')}" for name in flags]
    given += ["PHOTOS"] * (photos is not None) + ["--run"] * (run is not None)
    given += ["--config"] * (config is not None) + ["--set"] * bool(numbers)
    if given:
        raise ConfigError(
            f"--resume goes on with the settings of the run; leave out {', '.join(given)}."
        )


def show_result(result: RunResult, *, follow: bool = True) -> None:
    """Prints what a training came to, and what to do next unless `follow` is False."""
    from finetune.cli.watching import duration

    part = "test" if "test" in result.metrics else "validation"
    metrics = result.metrics[part]
    output.print(metrics_table(result.metrics))
    weak = sorted(
        (
            (figures["recall"], label, figures["photos"])
            for label, figures in metrics["labels"].items()
            if figures["recall"] is not None and figures["recall"] < 1
        ),
    )[:3]
    if weak:
        named = ", ".join(f"{label} ({recall:.0%} of {count})" for recall, label, count in weak)
        output.text(f"Found least often on {part}: {named}")
    state = "Interrupted after" if result.interrupted else "Done in"
    output.text(f"{state} {duration(result.seconds)}; the model is in {result.run.path}")
    if not follow:
        return
    command = (
        f"finetune train --resume {result.run.path}"
        if result.interrupted
        else "finetune predict photo.jpg"
    )
    output.text(f"Next: {command}")


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Returns a row a part with what matters most of its figures."""
    numbers = ("photos", "right", "balanced", "log loss", "ECE")
    table = make_table(
        "part", "photos", "right", "95 % interval", "balanced", "log loss", "ECE", right=numbers
    )
    for name, figures in metrics.items():
        low, high = figures["top1_interval"]
        balanced = figures["balanced_accuracy"]
        table.add_row(
            output.plain(name),
            f"{figures['photos']:,}",
            f"{figures['top1']:.1%}",
            f"{low:.1%} to {high:.1%}",
            "" if balanced is None else f"{balanced:.1%}",
            f"{figures['log_loss']:.3f}",
            f"{figures['ece']:.3f}",
        )
    return table

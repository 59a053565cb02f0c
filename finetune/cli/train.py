"""``finetune train``: from a folder of photos to a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli import folds as cross_validation
from finetune.cli.command import MORE
from finetune.cli.console import Json, Quiet, output, speaks
from finetune.cli.metrics_table import metrics_table
from finetune.cli.options import SetNumbers, photos_folder, recipe_numbers, with_settings
from finetune.config import TrainConfig
from finetune.config_io import read_toml, resolve
from finetune.errors import ConfigError
from finetune.files import read_json

if TYPE_CHECKING:
    from finetune.training.train import RunResult


MAIN_SETTINGS = (
    "model",
    "weights",
    "mode",
    "epochs",
    "augment",
    "size",
    "batch_size",
    "lr",
    "device",
    "seed",
)
"""Settings that ``finetune train --help`` shows; ``--help-all`` shows all."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("train")(with_settings(train, main=MAIN_SETTINGS))


def train(
    *,
    photos: Annotated[
        Path | None,
        typer.Argument(
            help="Folder with one folder of photos per label; not given: ./photos, or with "
            "--from the photos of that run."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the new run; not set: date, model, mode."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Settings from a TOML file, or a run's config.json.",
            rich_help_panel=MORE,
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Resume this interrupted run.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Start from this finished run, with more photos or other labels.",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option("--folds", help="Cross-validate with this many folds first."),
    ] = None,
    final: Annotated[
        bool,
        typer.Option(
            "--final/--no-final",
            help="With --folds: also train a model on all photos.",
            rich_help_panel=MORE,
        ),
    ] = True,
    keep_folds: Annotated[
        bool,
        typer.Option(
            "--keep-folds",
            help="With --folds: keep the model of each fold.",
            rich_help_panel=MORE,
        ),
    ] = False,
    set_: SetNumbers = None,
    json: Json = False,
    quiet: Quiet = False,
    flags: dict[str, Any],
) -> None:
    """Train a classifier on your photos.

    The photos are in one folder per label, or in train/, val/ and test/ folders of such folders.
    The result is a folder in ./runs with the model and everything that it needs.
    """
    output.json, output.quiet = json, quiet or not speaks()
    if resume is not None:
        _refuse_with_resume(photos, name, from_, config, flags, set_)
        if cross_validation.is_cross_validation(resume):
            cross_validation.resume_folds(resume)
            return
    else:
        settings = settings_of(config, flags, set_)
    if folds is not None:
        if resume is not None or from_ is not None:
            other = "--from" if resume is None else "--resume"
            raise ConfigError(f"--folds begins anew; leave out {other}.")
        plan = {"folds": folds, "final": final, "keep_models": keep_folds}
        cross_validation.train_folds(photos_folder(photos), settings, plan, name)
        return
    # Checked before torch is loaded: a typing mistake is answered at once.
    from finetune.cli.training_progress import TrainingView
    from finetune.training import train as library

    parent = None
    if from_ is not None:
        from finetune.runs.folder import find_run
        from finetune.training.warm_start import inherit, open_parent

        parent = open_parent(find_run(from_))
        said = {*flags, *named_in(config)}
        settings = inherit(settings, parent, explicit=said, same_photos=photos is None)
        photos = photos or parent.photos()
    with TrainingView(output) as view:
        if resume is not None:
            result = library.resume(resume, callback=view)
        else:
            result = library.train(
                photos_folder(photos), settings, run=name, callback=view, parent=parent
            )
    if not speaks():
        return
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


def named_in(path: Path | None) -> set[str]:
    """Returns the names of the settings that a config file gives, whatever their values."""
    sections = {} if path is None else _read_config(path)
    return {name for content in sections.values() for name in content}


def _refuse_with_resume(
    photos: Path | None,
    name: str | None,
    from_: str | None,
    config: Path | None,
    flags: dict[str, Any],
    numbers: list[str] | None,
) -> None:
    given = [f"--{flag.replace('_', '-')}" for flag in flags]
    given += ["PHOTOS"] * (photos is not None) + ["--name"] * (name is not None)
    given += ["--from"] * (from_ is not None)
    given += ["--config"] * (config is not None) + ["--set"] * bool(numbers)
    if given:
        raise ConfigError(
            f"--resume continues with the settings of the run; leave out {', '.join(given)}."
        )


def show_result(result: RunResult, *, follow: bool = True) -> None:
    """Prints what a training came to, and what to do next unless `follow` is False."""
    from finetune.reporting.formatting import duration

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

"""``finetune train``: from a folder of photos to a run."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.command import MORE, SetNumbers, photos_folder, recipe_numbers, with_settings
from finetune.cli.console import Json, Quiet, is_main_process, make_table, output
from finetune.cli.evaluate import metrics_table, show_levels
from finetune.cli.train_folds import is_cross_validation, resume_folds, train_folds
from finetune.config import TrainConfig
from finetune.config_io import read_toml, resolve
from finetune.errors import ConfigError, StorageError
from finetune.files import read_json, user_cache_folder, write_text
from finetune.formatting import duration, interval, number, percent

if TYPE_CHECKING:
    from rich.table import Table

    from finetune.cli.training_progress import TrainingView
    from finetune.experiments.model_search import ModelSearch
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


@with_settings(*MAIN_SETTINGS)
def train(
    *,
    photos: Annotated[
        Path | None,
        typer.Argument(
            help="Folder with one folder of photos per label; default: ./photos, or with "
            "--from the photos of that run."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new run; default: date, model, mode.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings from a TOML file, or a run's config.json.", rich_help_panel=MORE
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Resume this interrupted run.")] = None,
    moved_to: Annotated[
        Path | None,
        typer.Option(
            "--photos",
            help="With --resume: where the photos of the run are now.",
            rich_help_panel=MORE,
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Start from this finished run, with more photos or other labels.",
        ),
    ] = None,
    choose: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="RUN WEIGHTS",
            help="Change the weights of a finished full run: best (of the trained network), head "
            "(on the frozen backbone), or average (of both).",
            rich_help_panel=MORE,
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate with this many folds first.")
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
            "--keep-folds", help="With --folds: keep the model of each fold.", rich_help_panel=MORE
        ),
    ] = False,
    log_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds between two lines with step, loss, speed and time left; 0: none.",
            min=0,
            rich_help_panel=MORE,
        ),
    ] = 60.0,
    set_: SetNumbers = None,
    json: Json = False,
    quiet: Quiet = False,
    flags: dict[str, Any],
) -> None:
    """Train a classifier on your photos.

    The photos are in one folder per label, or in train/, val/ and test/ folders of such folders.
    The result is a folder in ./runs with the model and everything that it needs.
    """
    output.json, output.quiet = json, quiet or not is_main_process()
    if choose is not None:
        given = ["PHOTOS"] * (photos is not None)
        given += _given(name, from_, config, flags, set_) + ["--resume"] * bool(resume)
        if given:
            raise ConfigError(f"--choose trains nothing; leave out {', '.join(given)}.")
        choose_final_weights(*choose)
        return
    if moved_to is not None and resume is None:
        raise ConfigError("--photos is for --resume. Name the photos first: finetune train PHOTOS")
    if resume is not None:
        photos, moved_to = None, moved_to or photos
        _refuse_with_resume(name, from_, config, flags, set_)
        if is_cross_validation(resume):
            if moved_to is not None:
                raise ConfigError(
                    f"{resume} is a cross-validation, whose photos must stay where they were; "
                    f"leave out {moved_to}."
                )
            resume_folds(resume)
            return
    else:
        settings = settings_of(config, flags, set_)
    if folds is not None:
        if resume is not None or from_ is not None:
            other = "--from" if resume is None else "--resume"
            raise ConfigError(f"--folds starts a new training; leave out {other}.")
        plan = {"folds": folds, "final": final, "keep_models": keep_folds}
        train_folds(photos_folder(photos), settings, plan, name)
        return
    # Options are checked before torch is loaded, so that errors appear at once.
    from finetune.cli.training_progress import TrainingView
    from finetune.training import train as library
    from finetune.training.distributed import end_processes

    parent = None
    if from_ is not None:
        from finetune.runs.folder import find_run
        from finetune.training.warm_start import inherit, open_parent

        parent = open_parent(find_run(from_))
        explicit = {*flags, *named_in(config)}
        settings = inherit(settings, parent, explicit=explicit, same_photos=photos is None)
        photos = photos or parent.photos()
    if resume is None:
        folder = photos_folder(photos)
        settings = offer_download(settings)
    with TrainingView(output, log_seconds=log_seconds) as view:
        if resume is not None:
            result = library.resume(resume, photos=moved_to, callback=view)
        elif settings.model.model == "auto" and parent is None:
            result = _train_best_model(folder, settings, name, view)
        else:
            result = library.train(folder, settings, run=name, callback=view, parent=parent)
    end_processes()
    if not is_main_process():
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
    from finetune.cli.fast_predictions import prepare_predictions

    # After the results: torch's exporter takes longer than the training of a head.
    prepare_predictions(result.run)


def _train_best_model(
    photos: Path, settings: TrainConfig, name: str | None, view: TrainingView
) -> RunResult:
    """Searches for a model, prints what was tried, and trains the best."""
    from finetune.experiments.model_search import train_best_model

    return train_best_model(
        photos,
        settings,
        callback=view,
        on_search=lambda search: output.print(_search_table(search)),
        run=name,
    )


def _search_table(search: ModelSearch) -> Table:
    """Returns the table of the models that were tried."""
    columns = ("input", "right", "95 % interval", "log loss", "ms/photo", "MB")
    table = make_table("model", *columns, "", right=columns)
    for index, tried in enumerate(search.candidates):
        if tried.skipped is not None:
            table.add_row(tried.model, f"{tried.size} px", "", "", "", "", "", tried.skipped)
            continue
        table.add_row(
            tried.model,
            f"{tried.size} px",
            percent(tried.accuracy),
            interval(tried.interval),
            number(tried.log_loss),
            number(tried.milliseconds, 0),
            number(tried.megabytes, 0),
            "chosen" if index == search.chosen else "",
        )
    return table


def offer_download(settings: TrainConfig) -> TrainConfig:
    """Asks once, at a terminal, whether to download the stronger default model.

    Asks nothing where a model or weights are named, or the hub cannot be reached.
    """
    model = settings.model
    if model.model or model.weights or model.download or output.json or output.quiet:
        return settings
    if not (output.stderr.is_terminal and sys.stdin.isatty() and is_main_process()):
        return settings
    marker = user_cache_folder() / "weights" / "asked"
    if marker.exists():
        return settings
    from finetune.models.registry import DEFAULT_MODEL, downloadable_model
    from finetune.training.device import choose_device

    offer = downloadable_model(choose_device(settings.machine.device).type)
    if offer is None:
        return settings
    accepted = typer.confirm(
        f"Download {offer.name} ({offer.megabytes:.0f} MB, {offer.license})? "
        f"It is stronger than the installed {DEFAULT_MODEL}, and slower.",
        err=True,
    )
    with contextlib.suppress(StorageError):
        write_text(marker, "")
    return dataclasses.replace(settings, model=dataclasses.replace(model, download=accepted))


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
        settings = read_json(path)["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"--config {path} is not the config.json of a run.") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {path}: its settings are not sections of settings.")
    return settings


def named_in(path: Path | None) -> set[str]:
    """Returns the names of the settings that a config file gives, whatever their values."""
    sections = {} if path is None else _read_config(path)
    return {name for content in sections.values() for name in content}


def choose_final_weights(run: str, choice: str) -> None:
    """Changes the weights of a finished run and prints its metrics with them."""
    from finetune.cli.training_progress import TrainingView
    from finetune.runs.folder import find_run
    from finetune.training.choice import choose_weights
    from finetune.training.final_weights import NAMES

    folder = find_run(run)
    with TrainingView(output) as view:
        metrics = choose_weights(folder, choice, callback=view)
    output.document({"run": str(folder.path), "weights": choice, "metrics": metrics})
    output.print(metrics_table(metrics))
    output.text(
        f"The model in {folder.path} is now {NAMES[choice]}. Make its "  # type: ignore[index]
        "reports and exports again."
    )


def _given(
    name: str | None,
    from_: str | None,
    config: Path | None,
    flags: dict[str, Any],
    numbers: list[str] | None,
) -> list[str]:
    """Returns the names of the options of a new training that were given."""
    given = [f"--{flag.replace('_', '-')}" for flag in flags]
    given += ["--name"] * (name is not None)
    given += ["--from"] * (from_ is not None)
    return given + ["--config"] * (config is not None) + ["--set"] * bool(numbers)


def _refuse_with_resume(*options: Any) -> None:
    given = _given(*options)
    if given:
        raise ConfigError(
            f"--resume continues with the settings of the run; leave out {', '.join(given)}."
        )


def show_result(result: RunResult, *, follow: bool = True) -> None:
    """Prints the result of a training, and unless `follow` is False the next command."""
    from finetune.runs.folder import headline_part

    part = headline_part(result.metrics)
    metrics = result.metrics[part]
    output.print(metrics_table(result.metrics))
    show_levels(result.metrics)
    weak = sorted(
        (
            (figures["recall"], label, figures["photos"])
            for label, figures in metrics["labels"].items()
            if figures["recall"] is not None and figures["recall"] < 1
        ),
    )[:3]
    if weak:
        named = ", ".join(
            f"{label} ({round(recall * count):,} of {count:,})" for recall, label, count in weak
        )
        output.text(f"Found least often on {part}: {named}")
    from finetune.runs.answers import calibration_sentences
    from finetune.runs.outlook import curve_sentences, read_curve

    for sentence in calibration_sentences(result.run.read(result.run.calibration_file)):
        output.text(sentence)
    curve = read_curve(result.run)
    if curve is not None:
        for sentence in curve_sentences(curve, result.run.read(result.run.labels_file)):
            output.text(sentence)
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

"""``finetune tune``: searches the settings that suit your photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from finetune.cli.console import Json, Quiet, make_table, output
from finetune.cli.options import SetNumbers, photos_folder, with_settings
from finetune.cli.train import named_in, settings_of

if TYPE_CHECKING:
    from finetune.experiments.tune.tune import Tuned
    from finetune.training.events import Event

MOST_TRIALS = 8
"""Rows of the table."""

MOST_BARS = 10


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("tune")(with_settings(tune))


def tune(
    *,
    photos: Annotated[
        Path | None, typer.Argument(help="As for train; not given: ./photos.")
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="Trainings that the study is to hold in all.")
    ] = 30,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="Begin no training after so long."),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            "--models", help="Networks to choose from, with commas between; not set: those at hand."
        ),
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option("--modes", help="head, full, gradual to choose from; not set: by machine."),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study", help="Its name; one that exists goes on. Not set: the folder's name."
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", metavar="URL", help="A database that machines share; not set: a file."
        ),
    ] = None,
    final: Annotated[
        bool,
        typer.Option(
            "--final/--no-final", help="Train with the best in the end, and look at the test part."
        ),
    ] = True,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Settings from a TOML file, or a run's config.json."),
    ] = None,
    set_: SetNumbers = None,
    json: Json = False,
    quiet: Quiet = False,
    flags: dict[str, Any],
) -> None:
    """Search the settings that suit your photos best.

    Each trial is a training. What you set is not searched; the rest is: model, mode, learning rate,
    augmentation, image size, batch size and more, for small networks their shape. Trials are judged
    by validation alone; the test part is not looked at until the end. Ctrl-C keeps what is done,
    and the same command goes on.
    """
    output.json, output.quiet = json, quiet
    settings = settings_of(config, flags, set_)
    from finetune.cli.training_progress import TrainingView
    from finetune.experiments.tune import tune as library
    from finetune.training.events import EpochDone

    plan = library.TunePlan(
        study=study,
        trials=trials,
        timeout=timeout,
        models=_words(models),
        modes=cast(Any, _words(modes)),
        fixed=frozenset({*flags, *named_in(config), *(("model_arg",) * bool(settings.model_args))}),
        storage=storage,
        final=final,
    )
    with TrainingView(output) as view:

        def callback(event: Event) -> None:
            # A row an epoch and trial would bury what matters here.
            if not isinstance(event, EpochDone):
                view(event)

        tuned = library.tune(photos_folder(photos), settings, plan, callback=callback)
    page = _write_page(tuned)
    output.document(library.to_json(tuned) | {"page": str(page) if page else None})
    _print_trials(tuned)
    _print_importances(tuned)
    _print_end(tuned, page, photos_folder(photos))
    if tuned.interrupted:
        raise typer.Exit(130)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _write_page(tuned: Tuned) -> Path | None:
    if not tuned.trials:
        return None
    from finetune.errors import MissingExtra
    from finetune.reporting.tune_page import write_tune_page

    try:
        return write_tune_page(tuned.folder / "tune.html", tuned)
    except MissingExtra as error:
        # The search is done and worth its result; the page can be had later.
        output.warn(str(error))
        return None


def _print_trials(tuned: Tuned) -> None:
    if not tuned.best:
        return
    from finetune.cli.training_progress import duration
    from finetune.experiments.tune.trials import in_short

    several = len({trial.flags.get("model") for trial in tuned.trials}) > 1
    hidden = () if several else ("model",)
    score = "mAP" if tuned.multi_label else "right"
    table = make_table(
        "trial", score, "log loss", "time", "settings", right=("trial", score, "log loss")
    )
    for trial in tuned.best[:MOST_TRIALS]:
        shown = {name: value for name, value in trial.flags.items() if name not in hidden}
        table.add_row(
            str(trial.number),
            f"{trial.score:.1%}",
            "" if trial.log_loss is None else f"{trial.log_loss:.3f}",
            "" if trial.seconds is None else duration(trial.seconds),
            output.plain(in_short(shown)),
        )
    output.print(table)
    states = [trial.state for trial in tuned.trials]
    trials = "1 trial" if len(states) == 1 else f"{len(states)} trials"
    _say(
        f"{trials}: {states.count('complete')} complete, {states.count('pruned')} cut short, "
        f"{states.count('failed')} failed. "
        + (
            "mAP: mean average precision on the validation photos."
            if tuned.multi_label
            else "Right: of the validation photos."
        )
    )


def _print_importances(tuned: Tuned) -> None:
    from finetune.reporting.tune_charts import value_name

    if not tuned.importances:
        if len({trial.score for trial in tuned.best}) == 1 and len(tuned.best) > 1:
            _say("All complete trials are equally good: nothing that was tried mattered.")
        return
    hint = " (a hint, with so few trials)" if len(tuned.best) < 20 else ""
    _say(f"What mattered{hint}:")
    table = make_table("setting", "share", "bar", right=("share",))
    table.show_header = False
    room = max(8, min(40, output.stdout.width - 46))
    for name, share in list(tuned.importances.items())[:MOST_BARS]:
        bar = "█" * round(share * room) or "▏"
        table.add_row(output.plain(value_name(name)), f"{share:.0%}", bar)
    output.print(table)


def _print_end(tuned: Tuned, page: Path | None, photos: Path) -> None:
    if not tuned.best:
        more = " Interrupted; the same command goes on." if tuned.interrupted else ""
        output.text(f"No trial is complete.{more}")
        return
    best = tuned.best[0]
    if tuned.final is not None and tuned.final_metrics is not None:
        test = tuned.final_metrics.get("test")
        if test is not None:
            name = "mean_average_precision" if tuned.multi_label else "top1"
            ends = test.get(f"{name}_interval")
            between = f" ({ends[0]:.1%} to {ends[1]:.1%})" if ends else ""
            photos_in_words = f"{test['photos']:,} photos"
            what = (
                f"mAP of {photos_in_words}"
                if tuned.multi_label
                else f"of {photos_in_words} are right"
            )
            _say(
                f"On the test part, which no trial has seen: {test.get(name) or 0.0:.1%} {what}"
                f"{between}. The {best.score:.1%} of validation is the best of "
                f"{len(tuned.best)} figures, and flatters."
            )
        else:
            _say(
                f"There is no test part: the {best.score:.1%} of validation is the best of "
                f"{len(tuned.best)}, and flatters."
            )
        output.text(f"The model is in {tuned.final.path}")
    if tuned.best_file is not None:
        output.text(f"Best settings: {tuned.best_file}")
    if page is not None:
        output.text(f"Page: {page}")
    if tuned.interrupted:
        output.text("Interrupted; the same command goes on.")
    elif tuned.final is not None:
        output.text("Next: finetune predict photo.jpg")
    else:
        output.text(f"Next: finetune train {photos} --config {tuned.best_file}")


def _say(text: str) -> None:
    output.print(output.plain(text))

"""``finetune tune``: searches the hyperparameters that suit a collection best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from finetune.cli.command import ConfigFile, Photos, SetNumbers, photos_folder, with_settings
from finetune.cli.console import Json, Quiet, make_table, output
from finetune.cli.train import named_in, settings_of
from finetune.formatting import count, duration, interval, number, percent

if TYPE_CHECKING:
    from finetune.experiments.tune.search import TuneResult
    from finetune.training.events import Event

MAX_ROWS = 8
"""Trials in the table."""

MAX_BARS = 10
"""Settings in the list of importances."""


@with_settings()
def tune(
    *,
    photos: Photos = None,
    trials: Annotated[
        int, typer.Option(help="Number of trials, those of earlier searches included.")
    ] = 30,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Start no trial after this time.")
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Models to try, separated by commas; default: those on this machine."),
    ] = None,
    modes: Annotated[
        str | None, typer.Option(help="Modes to try: head, full, gradual; default: by machine.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(help="Name of the search; an existing one continues. Not set: the folder's."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database shared by several machines; default: a file."),
    ] = None,
    final: Annotated[
        bool,
        typer.Option("--final/--no-final", help="Train a model with the best settings at the end."),
    ] = True,
    config: ConfigFile = None,
    set_: SetNumbers = None,
    json: Json = False,
    quiet: Quiet = False,
    flags: dict[str, Any],
) -> None:
    """Search for the settings that suit your photos best.

    Each trial is a training. Settings that you give are fixed; the others are searched: model,
    mode, learning rate, augmentation, image size, batch size and more. Trials are compared on
    validation photos; the test photos evaluate the final model only. Ctrl-C keeps finished trials,
    and the same command continues.
    """
    output.json, output.quiet = json, quiet
    settings = settings_of(config, flags, set_)
    from finetune.cli.training_progress import TrainingView
    from finetune.experiments.tune import search as library
    from finetune.training.events import EpochDone

    search = library.TuneConfig(
        study=study,
        trials=trials,
        timeout=timeout,
        models=_names(models),
        modes=cast(Any, _names(modes)),
        fixed=frozenset({*flags, *named_in(config), *(("model_arg",) * bool(settings.model_args))}),
        storage=storage,
        final=final,
    )
    with TrainingView(output) as view:

        def callback(event: Event) -> None:
            # A row per epoch and trial would bury the rest.
            if not isinstance(event, EpochDone):
                view(event)

        result = library.tune(photos_folder(photos), settings, search, callback=callback)
    page = _write_page(result)
    output.document(library.to_json(result) | {"page": str(page) if page else None})
    _print_trials(result)
    _print_importances(result)
    _print_end(result, page, photos_folder(photos))
    if result.interrupted:
        raise typer.Exit(130)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _write_page(result: TuneResult) -> Path | None:
    if not result.trials:
        return None
    from finetune.reporting.tune_page import write_tune_page

    return write_tune_page(result.folder / "tune.html", result)


def _print_trials(result: TuneResult) -> None:
    if not result.best:
        return
    from finetune.experiments.tune.search import describe_gain, summarize

    several = len({trial.flags.get("model") for trial in result.trials}) > 1
    score = result.task.score_name
    table = make_table(
        "trial", score, "log loss", "time", "settings", right=("trial", score, "log loss")
    )
    for trial in result.best[:MAX_ROWS]:
        shown = {k: value for k, value in trial.flags.items() if several or k != "model"}
        table.add_row(
            str(trial.number),
            percent(trial.score),
            "" if trial.log_loss is None else number(trial.log_loss),
            "" if trial.seconds is None else duration(trial.seconds),
            output.literal(summarize(shown)),
        )
    output.print(table)
    states = [trial.state for trial in result.trials]
    trials = count(len(states), "trial")
    _print(
        f"{trials}: {states.count('complete')} complete, {states.count('pruned')} stopped early, "
        f"{states.count('failed')} failed. {result.task.trial_score_note}"
    )
    if gain := describe_gain(result):
        _print(gain)


def _print_importances(result: TuneResult) -> None:
    from finetune.reporting.tune_page import parameter_name

    if not result.importances:
        if len({trial.score for trial in result.best}) == 1 and len(result.best) > 1:
            _print("All complete trials have the same score, so no setting made a difference.")
        return
    _print("Importance of the settings:")
    table = make_table("setting", "share", "bar", right=("share",))
    table.show_header = False
    room = max(8, min(40, output.stdout.width - 46))
    for name, share in list(result.importances.items())[:MAX_BARS]:
        bar = "█" * round(share * room) or "▏"
        table.add_row(output.literal(parameter_name(name)), percent(share, 0), bar)
    output.print(table)


def _print_end(result: TuneResult, page: Path | None, photos: Path) -> None:
    continues = "Interrupted; the same command continues."
    if not result.best:
        output.text("No trial has finished." + (f" {continues}" if result.interrupted else ""))
        return
    if result.final is not None and result.final_metrics is not None:
        best = f"The {percent(result.best[0].score)} on validation"
        optimistic = f"is the best of {len(result.best)} trials, and therefore optimistic."
        test = result.final_metrics.get("test")
        if test is None:
            _print(f"There are no test photos. {best} {optimistic}")
        else:
            name = result.task.score
            ends = test.get(f"{name}_interval")
            between = f" ({interval(ends)})" if ends else ""
            _print(
                f"Test photos, which no trial used: {percent(test.get(name) or 0.0)} "
                f"{result.task.score_name} on "
                f"{test['photos']:,} photos{between}. {best} {optimistic}"
            )
        output.text(f"The model is in {result.final.path}")
    if result.best_file is not None:
        output.text(f"Best settings: {result.best_file}")
    if page is not None:
        output.text(f"Page: {page}")
    if result.interrupted:
        output.text(continues)
    elif result.final is not None:
        output.text("Next: finetune predict photo.jpg")
    else:
        output.text(f"Next: finetune train {photos} --config {result.best_file}")


def _print(text: str) -> None:
    output.print(output.literal(text))

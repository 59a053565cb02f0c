"""``finetune watch``: shows the progress of a training that runs in another terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from finetune.cli.command import Device
from finetune.cli.console import Json, Quiet, make_table, output
from finetune.errors import FinetuneError
from finetune.formatting import duration, interval, percent

if TYPE_CHECKING:
    from finetune.runs.evaluate import EvaluationRequest
    from finetune.runs.folder import RunFolder
    from finetune.runs.follow import BestEpoch, Progress

NARROW_COLUMNS = 64
"""Columns below which the table shows validation alone."""

STYLES = {"running": "bold green", "interrupted": "bold yellow", "finished": "bold"}


def watch(
    run: Annotated[
        str | None, typer.Argument(help="A run's name or folder; default: the latest run.")
    ] = None,
    evaluate: Annotated[
        bool,
        typer.Option("--evaluate/--no-evaluate", help="Evaluate each new best epoch, on test too."),
    ] = True,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Watch a training run in another terminal.

    It only reads the run's folder: Ctrl-C stops watching, not the training. With --json it
    prints one line per epoch and one per evaluation.
    """
    output.json, output.quiet = json, quiet
    from finetune.runs.evaluate import EvaluationRequest
    from finetune.runs.folder import find_run
    from finetune.runs.follow import BestEpoch, newest_run, read_progress
    from finetune.training.device import choose_device

    folder = newest_run() if run is None else find_run(run)
    request = EvaluationRequest(device=str(choose_device(device))) if evaluate else None
    progress = read_progress(folder)
    drawn = not output.json and output.stdout.is_terminal
    notes: list[str] = []
    messages: list[str] = []
    printed = 0
    with _live(folder, notes) if drawn else contextlib.nullcontext():
        try:
            for update in _updates(folder, request, messages):
                if isinstance(update, BestEpoch):
                    notes[:] = evaluation_lines(update)
                    if not drawn:
                        _print_evaluation(update)
                    continue
                progress = update
                if not drawn:
                    printed = _print_epochs(progress, printed)
                if progress.state != "running":
                    break
        except KeyboardInterrupt:
            messages.append(f"{folder.path} is still training. See it with: finetune watch")
    for message in messages:
        output.info(message)
    if progress.state == "interrupted":
        output.info(f"The training was interrupted. Next: finetune train --resume {folder.path}")
    elif progress.state == "finished" and folder.metrics_file.is_file():
        for name, metrics in folder.read(folder.metrics_file).items():
            output.text(metrics_line(name, metrics))
        output.text(f"Next: finetune report {folder.path}")


def _updates(
    run: RunFolder, request: EvaluationRequest | None, messages: list[str]
) -> Iterator[Progress | BestEpoch]:
    """Follows a run; a failed evaluation ends the evaluations alone."""
    from finetune.runs.follow import follow_run

    try:
        yield from follow_run(run, request)
    except FinetuneError as error:
        if request is None:
            raise
        messages.append(f"Evaluation failed: {error}")
        yield from follow_run(run)


def _live(run: RunFolder, notes: Sequence[str]) -> Live:
    """Returns a display that reads the run twice a second, also during an evaluation."""
    from finetune.runs.follow import read_progress

    last: RenderableType = ""

    def render() -> RenderableType:
        nonlocal last
        # Runs in the display's thread; `follow_run` raises the same error in the main thread.
        with contextlib.suppress(FinetuneError):
            console = output.stdout
            last = draw(read_progress(run), console.width, console.height, notes=notes)
        return last

    return Live(
        get_renderable=render,
        console=output.stdout,
        refresh_per_second=2,
        vertical_overflow="crop",
    )


def _print_epochs(progress: Progress, printed: int) -> int:
    """Prints the epochs after `printed`, as text or JSON, and returns the last one."""
    for row in progress.rows:
        if row["epoch"] > printed:
            output.text(epoch_line(row))
            output.line({**row, "state": progress.state})
            printed = row["epoch"]
    return printed


def _print_evaluation(best: BestEpoch) -> None:
    for line in evaluation_lines(best):
        output.text(line)
    output.line({"event": "evaluation", "epoch": best.epoch, "metrics": best.evaluation.metrics})


def draw(
    progress: Progress, width: int, height: int, *, notes: Sequence[str] = ()
) -> RenderableType:
    """Returns a run as a heading, a table of its latest epochs, and notes.

    Args:
        progress: Progress of the run.
        width: Columns of the terminal.
        height: Rows of the terminal.
        notes: Lines below the table.
    """
    done = progress.rows[-1]["epoch"] if progress.rows else 0
    heading = Text.assemble(
        (progress.run.name, "bold"), "  ", (progress.state, STYLES[progress.state])
    )
    if width >= NARROW_COLUMNS:
        heading.append(f"  {progress.model}, {progress.mode}")
    status = [f"epoch {done} of {progress.epochs}"]
    if progress.seconds_left is not None:
        status.append(f"{duration(progress.seconds_left)} left")
    lines = [heading, Text("  ".join(status)), Text("")]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    rows = progress.rows[-max(3, height - 6 - len(notes)) :]
    body = _epoch_table(rows, width) if rows else Text("No epoch has finished yet.")
    return Group(*lines, body, *(Text(note) for note in ("", *notes) if notes))


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "epoch": f"{row['epoch']}",
        "train loss": f"{row['train_loss']:.3f}",
        "train": percent(row["train_accuracy"]),
        "val loss": f"{row['validation_loss']:.3f}",
        "val": percent(row["validation_accuracy"]),
        "photos/s": f"{row['images_per_second']:,.0f}",
        "time": duration(row["seconds"]),
        "": "best" if row.get("best") else "",
    }


def _epoch_table(rows: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    cells = [_cells(row) for row in rows]
    narrow = ("epoch", "val loss", "val", "time", "")
    names = [name for name in cells[0] if width >= NARROW_COLUMNS or name in narrow]
    table = make_table(*names, right=tuple(names[:-1]))
    for row in cells:
        table.add_row(*(row[name] for name in names))
    return table


def epoch_line(row: Mapping[str, Any]) -> str:
    """Returns an epoch, or a head fitted without epochs, as one line of text."""
    cells = _cells(row)
    if row["lr"] == 0:
        return f"head fitted  val loss {cells['val loss']}  val {cells['val']}  {cells['time']}"
    text = (
        f"epoch {cells['epoch']}/{row['epochs']}  loss {cells['train loss']}  "
        f"val loss {cells['val loss']}  val {cells['val']}  {cells['photos/s']} photos/s  "
        f"{cells['time']}  {cells['']}"
    )
    return text.rstrip()


def evaluation_lines(best: BestEpoch) -> list[str]:
    """Returns the metrics of an evaluation, one line per part."""
    metrics = best.evaluation.metrics
    return [f"epoch {best.epoch}, {metrics_line(part, metrics[part])}" for part in metrics]


def metrics_line(part: str, metrics: Mapping[str, Any]) -> str:
    """Returns the headline metric of a part as one line of text."""
    photos = metrics.get("photos", 0)
    if "top1" in metrics:
        text = f"{part}: {percent(metrics['top1'])} of {photos:,} right"
        ends = metrics.get("top1_interval")
        return text + (f" ({interval(ends)})" if ends else "")
    mean = metrics.get("mean_average_precision")
    return f"{part}: {photos:,} photos" + ("" if mean is None else f", mAP {mean:.3f}")

"""``finetune watch``: shows the progress of a training that runs in another terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from finetune.cli.console import Json, Quiet, make_table, output
from finetune.cli.training_progress import duration
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.runs.evaluate import EvaluationRequest
    from finetune.runs.folder import RunFolder
    from finetune.runs.follow import BestEpoch, Progress

NARROW = 64
"""Columns below which the table shows validation alone."""

STYLES = {"running": "bold green", "interrupted": "bold yellow", "finished": "bold"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("watch")(watch)


def watch(
    run: Annotated[
        str | None, typer.Argument(help="A run's name or folder; not given: the latest run.")
    ] = None,
    evaluate: Annotated[
        bool,
        typer.Option("--evaluate/--no-evaluate", help="Evaluate each new best epoch, on test too."),
    ] = True,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Device of the evaluation: cpu, cuda, mps; not set: best."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Watch a training: its epochs, and the accuracy of each new best epoch.

    It only reads the run's folder: Ctrl-C stops watching, and the training goes on. With --json it
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
    view: _LiveView | _LineView = _LiveView(folder) if drawn else _LineView()
    with view:
        try:
            for update in _updates(folder, request, view):
                if isinstance(update, BestEpoch):
                    view.show_evaluation(update)
                    continue
                progress = update
                view.show(progress)
                if progress.state != "running":
                    break
        except KeyboardInterrupt:
            view.messages.append(f"{folder.path} is still training. See it with: finetune watch")
    for message in view.messages:
        output.say(message)
    if progress.state == "interrupted":
        output.say(f"The training was interrupted. Next: finetune train --resume {folder.path}")
    elif progress.state == "finished" and folder.metrics_file.is_file():
        for name, metrics in folder.read(folder.metrics_file).items():
            output.text(metrics_line(name, metrics))
        output.text(f"Next: finetune report {folder.path}")


def _updates(
    run: RunFolder, request: EvaluationRequest | None, view: _LiveView | _LineView
) -> Iterator[Progress | BestEpoch]:
    """Follows a run; a failed evaluation ends the evaluations alone."""
    from finetune.runs.follow import follow_run

    try:
        yield from follow_run(run, request)
    except FinetuneError as error:
        if request is None:
            raise
        view.messages.append(f"Evaluation failed: {error}")
        yield from follow_run(run)


@dataclass
class _LineView(contextlib.AbstractContextManager[None]):
    """Prints each epoch once, as a line of text or of JSON."""

    messages: list[str] = field(default_factory=list)
    _printed: int = 0

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, progress: Progress) -> None:
        """Prints the new epochs."""
        for row in progress.rows:
            if row["epoch"] > self._printed:
                output.text(epoch_line(row))
                output.line({**row, "state": progress.state})
                self._printed = row["epoch"]

    def show_evaluation(self, best: BestEpoch) -> None:
        """Prints the metrics of an evaluation."""
        for line in evaluation_lines(best):
            output.text(line)
        metrics = best.evaluation.metrics
        output.line({"event": "evaluation", "epoch": best.epoch, "metrics": metrics})


class _LiveView(contextlib.AbstractContextManager[None]):
    """Redraws a run twice a second from its folder, also during an evaluation."""

    def __init__(self, run: RunFolder) -> None:
        self.messages: list[str] = []
        self._run = run
        self._notes: Sequence[str] = ()
        self._last: RenderableType = ""
        self._live = Live(
            get_renderable=self._draw,
            console=output.stdout,
            refresh_per_second=2,
            vertical_overflow="crop",
        )

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Does nothing: the drawing reads the folder itself."""

    def show_evaluation(self, best: BestEpoch) -> None:
        """Shows the metrics of the latest evaluation below the epochs."""
        self._notes = evaluation_lines(best)

    def _draw(self) -> RenderableType:
        from finetune.runs.follow import read_progress

        # Called in the drawing's thread; `follow_run` raises the same error in the main thread.
        with contextlib.suppress(FinetuneError):
            console = output.stdout
            progress = read_progress(self._run)
            self._last = draw(progress, console.width, console.height, notes=self._notes)
        return self._last


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
    if width >= NARROW:
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


def _epoch_table(rows: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    names = ["epoch", "train loss", "train", "val loss", "val", "photos/s", "time", ""]
    if width < NARROW:
        names = ["epoch", "val loss", "val", "time", ""]
    table = make_table(*names, right=tuple(names[:-1]))
    for row in rows:
        cells = {
            "epoch": f"{row['epoch']}",
            "train loss": f"{row['train_loss']:.3f}",
            "train": f"{row['train_accuracy']:.1%}",
            "val loss": f"{row['validation_loss']:.3f}",
            "val": f"{row['validation_accuracy']:.1%}",
            "photos/s": f"{row['images_per_second']:,.0f}",
            "time": duration(row["seconds"]),
            "": "best" if row.get("best") else "",
        }
        table.add_row(*(cells[name] for name in names))
    return table


def epoch_line(row: Mapping[str, Any]) -> str:
    """Returns an epoch as one line of text."""
    mark = "  best" if row.get("best") else ""
    return (
        f"epoch {row['epoch']}/{row['epochs']}  loss {row['train_loss']:.3f}  "
        f"val loss {row['validation_loss']:.3f}  val {row['validation_accuracy']:.1%}  "
        f"{row['images_per_second']:,.0f} photos/s  {duration(row['seconds'])}{mark}"
    )


def evaluation_lines(best: BestEpoch) -> list[str]:
    """Returns the metrics of an evaluation, one line per part."""
    metrics = best.evaluation.metrics
    return [f"epoch {best.epoch}, {metrics_line(part, metrics[part])}" for part in metrics]


def metrics_line(part: str, metrics: Mapping[str, Any]) -> str:
    """Returns the headline metric of a part as one line of text."""
    photos = metrics.get("photos", 0)
    if "top1" in metrics:
        text = f"{part}: {metrics['top1']:.1%} of {photos:,} right"
        interval = metrics.get("top1_interval")
        return text + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")
    mean = metrics.get("mean_average_precision")
    return f"{part}: {photos:,} photos" + ("" if mean is None else f", mAP {mean:.3f}")

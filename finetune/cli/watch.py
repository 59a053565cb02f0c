"""``finetune watch``: looks on while a run trains, from another terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.live import Live

from finetune.cli.console import Json, Quiet, output
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.runs.evaluate import EvaluationRequest
    from finetune.runs.folder import RunFolder
    from finetune.runs.progress import Progress

REFRESHES_PER_SECOND = 2


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("watch")(watch)


def watch(
    run: Annotated[
        str | None,
        typer.Argument(help="A run's name or folder; not given: the one where something is new."),
    ] = None,
    evaluate: Annotated[
        bool,
        typer.Option("--evaluate/--no-evaluate", help="Evaluate each new best epoch, on test too."),
    ] = True,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Where it is evaluated: cpu, cuda, mps; not set: the best."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Watch a run train: its epochs, its curves, and how good each new best epoch is.

    It looks at the run's folder only, so Ctrl-C ends the watching and never the training. With
    --json it prints one line an epoch, and one an evaluation.
    """
    output.json, output.quiet = json, quiet
    from finetune.runs.folder import find_run
    from finetune.runs.progress import follow_progress, newest_run, read_progress

    folder = newest_run() if run is None else find_run(run)
    request = None
    if evaluate and read_progress(folder).state == "running":
        request = _request(device)
    evaluations = _Evaluations(folder, request)
    interrupted = False
    with _view(folder) as view:
        try:
            for progress in follow_progress(folder):
                view.show(progress)
                found = evaluations.next() if progress.state == "running" else None
                if found is not None:
                    view.evaluated(*found)
        except KeyboardInterrupt:
            interrupted = True
    if evaluations.failure:
        output.say(evaluations.failure)
    if not interrupted:
        _end(folder, progress)
    elif progress.state == "running":
        output.say(f"{folder.path} goes on training. Look again with: finetune watch")


def _request(device: str | None) -> EvaluationRequest:
    from finetune.runs.evaluate import EvaluationRequest
    from finetune.training.device import choose_device

    return EvaluationRequest(device=str(choose_device(device)))


class _Evaluations:
    """Evaluates a run's new best epochs, one at a time; a failure ends it and not the watching."""

    def __init__(self, run: RunFolder, request: EvaluationRequest | None) -> None:
        self._run = run
        self._request = request
        self._seen = 0
        self.failure: str | None = None

    def next(self) -> tuple[int, dict[str, Any]] | None:
        """Returns the epoch and figures of a new best epoch, or None where there is none."""
        if self._request is None:
            return None
        from finetune.runs.follow import evaluate_newest

        try:
            found = evaluate_newest(self._run, self._request, seen=self._seen)
        except FinetuneError as error:
            self._request, self.failure = None, f"It cannot be evaluated: {error}"
            return None
        if found is None:
            return None
        self._seen, evaluation = found
        return self._seen, evaluation.metrics


class _Lines:
    """Says each epoch once, as a line of text or of JSON."""

    def __init__(self) -> None:
        self._said = 0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, progress: Progress) -> None:
        """Says the epochs that are new."""
        from finetune.cli.watch_view import epoch_line

        for row in progress.rows:
            if row["epoch"] > self._said:
                output.text(epoch_line(row))
                output.line({**row, "state": progress.state})
                self._said = row["epoch"]

    def evaluated(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Says what an evaluation found."""
        from finetune.cli.watch_view import evaluation_lines

        for line in evaluation_lines(epoch, metrics):
            output.text(line)
        output.line({"event": "evaluation", "epoch": epoch, "metrics": metrics})


class _Drawing:
    """Draws the run over itself; it is read again for each drawing, also while one evaluates."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._notes: Sequence[str] = ()
        self._last: RenderableType = ""
        self._live = Live(
            get_renderable=self._draw,
            console=output.stdout,
            refresh_per_second=REFRESHES_PER_SECOND,
            vertical_overflow="crop",
        )

    def __enter__(self) -> _Drawing:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Does nothing: the drawing looks for itself."""

    def evaluated(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Keeps what an evaluation found in sight."""
        from finetune.cli.watch_view import evaluation_lines

        self._notes = evaluation_lines(epoch, metrics)

    def _draw(self) -> RenderableType:
        from finetune.cli.watch_view import Room, draw
        from finetune.runs.progress import read_progress

        console = output.stdout
        room = Room(width=console.width, height=console.height, ascii=console.options.ascii_only)
        # An error is raised where the run is followed; this is called from the drawing's thread.
        with contextlib.suppress(FinetuneError):
            self._last = draw(read_progress(self._run), room, notes=self._notes)
        return self._last


def _view(run: RunFolder) -> _Drawing | _Lines:
    if output.json or not output.stdout.is_terminal:
        return _Lines()
    return _Drawing(run)


def _end(run: RunFolder, progress: Progress) -> None:
    from finetune.cli.watch_view import final_lines

    if progress.state == "interrupted":
        output.say(f"It was interrupted. Go on with: finetune train --resume {run.path}")
    elif run.metrics_file.is_file():
        for line in final_lines(run.read(run.metrics_file)):
            output.text(line)
        output.text(f"Next: finetune report {run.path}")

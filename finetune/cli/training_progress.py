"""Progress of a training on stderr: a bar with the main figures, and one row per epoch."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from finetune.cli.console import Output
from finetune.formatting import duration, percent
from finetune.training.events import EpochDone, Event, Note, Progressed, StepDone

_HEADER = (
    f"{'epoch':>9}  {'train loss':>10}  {'train':>8}  {'val loss':>8}  {'val':>8}  {'time':>7}"
)

_BAR_COLUMNS = 14
"""Columns of a progress line for the bar, a slash and spaces."""


LOG_SECONDS = 60.0
"""Default time between two lines on steps."""


class TrainingView:
    """Callback that draws a training; the bar disappears when the context ends.

    Args:
        output: Destination.
        log_seconds: Time between two lines on steps; 0: none.
    """

    def __init__(self, output: Output, *, log_seconds: float = LOG_SECONDS) -> None:
        self._output = output
        self._log_seconds = log_seconds
        self._logged = time.monotonic()
        self._live = output.stderr.is_terminal and not output.quiet
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24 if output.stderr.width >= 110 else 10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=output.stderr,
            transient=True,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._rows = 0

    def __enter__(self) -> TrainingView:
        # A disabled bar would still print an empty line when it stops.
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Receives an event of the training."""
        match event:
            case Note():
                self._output.info(event.text)
            case Progressed():
                self._show(event.stage, event.done, event.total, event.unit)
            case StepDone():
                room = self._output.stderr.width - len(f"{event.steps}") * 2 - _BAR_COLUMNS
                stage = f"Epoch {event.epoch}/{event.epochs}"
                figures = step_figures(event, room - len(stage))
                self._show(stage, event.step, event.steps, figures)
                now = time.monotonic()
                if self._log_seconds and now - self._logged >= self._log_seconds:
                    self._logged = now
                    self._output.info(step_line(event))
            case EpochDone(fitted=False):
                self._row(event)

    def _show(self, stage: str, done: int, total: int, figures: str) -> None:
        if not self._live or total == 0:
            return
        if stage != self._stage or self._task is None:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(stage, total=total, figures=figures)
            self._stage = stage
        self._bars.update(self._task, completed=done, total=total, figures=figures)

    def _row(self, event: EpochDone) -> None:
        if self._rows == 0:
            self._output.info(_HEADER)
        self._rows += 1
        mark = "  best" if event.best else ""
        self._output.info(
            f"{event.epoch:>4} / {event.epochs:<2}  {event.train_loss:>10.3f}  "
            f"{percent(event.train_accuracy):>8}  {event.validation_loss:>8.3f}  "
            f"{percent(event.validation_accuracy):>8}  {duration(event.seconds):>7}{mark}"
        )


def step_line(event: StepDone) -> str:
    """Returns the figures of a step as a line of a log."""
    return (
        f"step {event.step:,} / {event.steps:,}  loss {event.loss:.3f}  "
        f"{event.images_per_second:,.0f} photos/s  {event.seconds_per_step:.3g} s/batch  "
        f"lr {event.lr:.1e}  {duration(event.seconds_left)} left"
    )


def step_figures(event: StepDone, room: int) -> str:
    """Returns the most important figures of a step that fit in `room` columns.

    It does not wait for the device.
    """
    from finetune.training.device import memory_in_use

    pieces = {
        "loss": f"loss {event.loss:.3f}",
        "right": f"right {percent(event.accuracy)}",
        "left": f"{duration(event.seconds_left)} left",
        "speed": f"{event.images_per_second:,.0f} photos/s",
        "memory": str(memory_in_use()),
        "lr": f"lr {event.lr:.1e}",
    }
    kept: list[str] = []
    for name in ("left", "loss", "right", "speed", "lr", "memory"):
        if len("  ".join([*kept, pieces[name]])) > room:
            break
        kept.append(pieces[name])
    return "  ".join(piece for piece in pieces.values() if piece in kept)

"""Shows a training in a notebook while it goes on."""

from __future__ import annotations

import sys
import time
from typing import Any

from finetune.reporting.notebook_html import training_html
from finetune.training.events import EpochDone, Event, Note, Progressed, StepDone

SECONDS = 0.5
"""Least time between two updates; each is a message to the browser."""


def in_notebook() -> bool:
    """Returns whether this Python is the kernel of a notebook; IPython is not imported for it."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return getattr(running, "kernel", None) is not None


class NotebookView:
    """Listens to a training and keeps one output of the cell up to date.

    Raises:
        ImportError: IPython is not installed, so that this is no notebook.
    """

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html: Any = HTML
        self._display: Any = display
        self._handle: Any = None
        self._epochs: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._state = "Starting"
        self._done = 0.0
        self._shown = -SECONDS

    def __call__(self, event: Event) -> None:
        """Takes an event of the training."""
        match event:
            case Note():
                self._notes.append(event.text)
                self._show()
            case Progressed():
                self._state = f"{event.stage}: {event.done:,} of {event.total:,}"
                self._done = event.done / max(1, event.total)
                self._show(now=event.done == event.total)
            case StepDone():
                self._state = (
                    f"Epoch {event.epoch} of {event.epochs}: loss {event.loss:.3f}, "
                    f"{event.accuracy:.1%} right, {event.images_per_second:,.0f} photos/s, "
                    f"{event.seconds_left:,.0f} s left"
                )
                self._done = event.step / max(1, event.steps)
                self._show()
            case EpochDone():
                self._epochs.append(vars(event))
                self._done = event.epoch / max(1, event.epochs)
                self._state = (
                    "Trained" if event.epoch == event.epochs else f"Epoch {event.epoch + 1}"
                )
                self._show(now=event.epoch == event.epochs)

    def finish(self, state: str) -> None:
        """Shows the training as it ended, whenever it was last shown."""
        self._state, self._done = state, 1.0
        self._show(now=True)

    def _show(self, *, now: bool = False) -> None:
        at = time.monotonic()
        if not now and at - self._shown < SECONDS:
            return
        self._shown = at
        page = self._html(
            training_html(self._epochs, state=self._state, done=self._done, notes=self._notes)
        )
        if self._handle is None:
            self._handle = self._display(page, display_id=True)
        else:
            self._handle.update(page)

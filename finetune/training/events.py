"""Events of a training, sent to callbacks: progress bars, notebooks, logs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from finetune.training.validation import Validation


REPORT_SECONDS = 0.5
"""Time between two step reports; each costs one wait for the device."""


@dataclass
class Meter:
    """Clock of one epoch in this process.

    Attributes:
        epoch: From 0.
        first_step: Step of the epoch at which this process started.
    """

    epoch: int
    epochs: int
    steps_per_epoch: int
    first_step: int
    photos: int = 0
    _started: float = field(default_factory=time.monotonic)
    _reported: float = field(default_factory=time.monotonic)
    _lap: float = field(default_factory=time.monotonic)
    _trained: float = 0.0

    def lap(self) -> float:
        """Returns the seconds since the last lap, or since the start."""
        now = time.monotonic()
        seconds, self._lap = now - self._lap, now
        return seconds

    @property
    def since_lap(self) -> float:
        """Seconds since the last lap, without ending it."""
        return time.monotonic() - self._lap

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def due(self) -> bool:
        """Whether it is time for a report."""
        return time.monotonic() - self._reported > REPORT_SECONDS

    def report(self, step: int, running: Tensor, lr: float) -> StepDone:
        """Returns the figures after `step` steps of the epoch; waits for the device.

        Args:
            step: Steps done in the epoch.
            running: ``(3,)``: loss, correct predictions and photos summed over the epoch.
            lr: Learning rate of the head.
        """
        now = self._reported = time.monotonic()
        loss, right, count = running.tolist()
        steps = self.epochs * self.steps_per_epoch
        done = self.epoch * self.steps_per_epoch + step
        seconds = now - self._started
        return StepDone(
            epoch=self.epoch + 1,
            epochs=self.epochs,
            step=done,
            steps=steps,
            loss=loss / count,
            accuracy=right / count,
            lr=lr,
            images_per_second=self.photos / max(seconds, 1e-9),
            seconds_per_step=seconds / (step - self.first_step),
            seconds_left=(steps - done) * seconds / (step - self.first_step),
        )

    def stop_training(self) -> None:
        """Ends the timing of training photos, before validation."""
        self._trained = self.seconds

    @property
    def images_per_second(self) -> float:
        """Rate of the training steps."""
        return self.photos / max(self._trained, 1e-9)


@dataclass(frozen=True, kw_only=True)
class Note:
    """Message to the user: a chosen default, or a fallback."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """Part of a stage before or after training is done: scanning, features, evaluation."""

    stage: str
    done: int
    total: int
    unit: str = "photos"


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """Some steps are done; means are over the epoch so far.

    Attributes:
        epoch: From 1.
        step: Steps made in all epochs.
        loss: Mean training loss in nats.
        accuracy: Share of training photos predicted correctly.
        images_per_second: Rate of the epoch so far.
        seconds_per_step: Mean duration of a step of the epoch so far.
        seconds_left: Until the last step at that rate.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    lr: float
    images_per_second: float
    seconds_per_step: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Validated:
    """Validation is done; sent just before the `EpochDone` of the epoch.

    Attributes:
        epoch: From 1.
        module: The network (or head) with the validated weights, until the callback returns. Do not
            change it.
    """

    epoch: int
    module: nn.Module
    validation: Validation


@dataclass(frozen=True, kw_only=True)
class EpochDone:
    """An epoch is done, including validation; a line of ``log.jsonl``.

    Attributes:
        epoch: From 1.
        step: Steps made in all epochs.
        train_loss: Mean training loss in nats.
        train_accuracy: Share of training photos predicted correctly.
        validation_loss: In nats, of the saved weights (the moving average with ``--ema``).
        lr: Learning rate of the head at the last step.
        seconds: From the epoch's start to the end of its validation, in this process.
        best: Whether no earlier epoch was better.
    """

    epoch: int
    epochs: int
    step: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    lr: float
    images_per_second: float
    seconds: float
    best: bool
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        """Whether a head was fitted to its minimum instead: it makes no steps, and has no rate."""
        return self.lr == 0


Event = Note | Progressed | StepDone | Validated | EpochDone
Callback = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignores an event."""


def without_repeated_notes(callback: Callback, *, keep: tuple[str, ...] = ()) -> Callback:
    """Returns a callback for several trainings that passes each note on once.

    Args:
        callback: Receives the events.
        keep: Prefixes of notes that are always passed on. Other notes count as repeated if they
            differ only in numbers.
    """
    seen: set[str] = set()

    def filtered(event: Event) -> None:
        if isinstance(event, Note) and not event.text.startswith(keep):
            text = re.sub(r"\d+", "0", event.text)
            if text in seen:
                return
            seen.add(text)
        callback(event)

    return filtered

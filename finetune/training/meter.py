"""Counts photos and time while a training runs, and says how it goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from torch import Tensor

from finetune.training.events import StepDone

REPORT_SECONDS = 0.5
"""Time between two step reports; each costs one wait for the device."""


@dataclass
class Meter:
    """The clock of one epoch, as far as this process has trained it.

    Attributes:
        epoch: From 0.
        epochs: In all.
        steps_per_epoch: Steps in each.
        first_step: Where in the epoch this process began.
        photos: Training photos seen by this process.
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
        """Seconds since the last lap, which goes on."""
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
        """Returns how it goes after `step` steps of the epoch; waits for the device.

        Args:
            step: Steps done in the epoch.
            running: ``(3,)``: loss, right answers and photos summed over the epoch.
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
            seconds_left=(steps - done) * seconds / (step - self.first_step),
        )

    def stop_training(self) -> None:
        """Ends the time in which photos are counted: validation is not training."""
        self._trained = self.seconds

    @property
    def images_per_second(self) -> float:
        """Rate of the training steps."""
        return self.photos / max(self._trained, 1e-9)

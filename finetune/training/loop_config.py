"""What a training is to bring down, how long, how fast, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune.tasks.objective import Objective
from finetune.training.checkpoints import Position
from finetune.training.schedule import Schedule
from finetune.training.soup import Candidate
from finetune.training.validation import Metric


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What a training is to bring down, how long, how fast, and what is kept of it.

    Attributes:
        epochs: Passes over the training photos.
        steps_per_epoch: Steps in each.
        schedule: Learning rate factors by step.
        objective: The loss, and which answers are right.
        by_loss: Rank epochs by their calibrated validation loss, not by accuracy first.
        keep_last: Keep the last epoch, in which the rate has come to rest, whatever it is worth.
        metrics: A person's own figures on the validation photos, by name.
        clip_norm: Longest norm of a step's gradient, or None.
        patience: Epochs without a better one after which the training ends, or None.
        soup: Best epochs that are kept to be averaged; 1: the best alone.
        checkpoint_steps: Steps of an epoch between two checkpoints, or None.
        checkpoint_seconds: Seconds between two checkpoints, or None.
        rest_seconds: Seconds after a checkpoint in which the end of an epoch writes no other, nor
            its weights where only the last epoch's are kept.
        last: Checkpoint file to resume from.
        best: Weights file of the best epoch.
    """

    epochs: int
    steps_per_epoch: int
    schedule: Schedule
    objective: Objective
    by_loss: bool = False
    keep_last: bool = False
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    clip_norm: float | None = None
    patience: int | None = None
    soup: int = 1
    checkpoint_steps: int | None = None
    checkpoint_seconds: float | None = None
    rest_seconds: float = 0.0
    last: Path
    best: Path

    def is_over(self, position: Position) -> bool:
        """Returns whether nothing is left to train."""
        waited = position.epoch - position.best_epoch
        tired = self.patience is not None and position.best_epoch > 0 and waited >= self.patience
        return position.epoch >= self.epochs or tired

    def rank(self, one: Candidate) -> tuple[float, float]:
        """Returns what is higher for an epoch that is rather to be kept."""
        if self.keep_last:
            return (one.epoch, -one.loss)
        return (-one.loss, one.accuracy) if self.by_loss else (one.accuracy, -one.loss)

    def wants_checkpoint(self, step: int, seconds: float) -> bool:
        """Returns whether to write one after `step` steps of the epoch, `seconds` after another."""
        return (self.checkpoint_steps is not None and step % self.checkpoint_steps == 0) or (
            self.checkpoint_seconds is not None and seconds >= self.checkpoint_seconds
        )

"""What a training tells whoever listens: the command line's progress bar, a notebook, a log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from finetune.training.validation import Validation


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something that a person must know: a default that was chosen, a thing done instead."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """Part of a stage before or after training is done: scanning, features, evaluation."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """A few steps have been made; the means are over the epoch so far.

    Attributes:
        epoch: From 1.
        epochs: In all.
        step: Steps made in all epochs.
        steps: Steps of all epochs.
        loss: Mean training loss in nats.
        accuracy: Share of training photos that were right.
        lr: Learning rate of the head.
        images_per_second: Rate of the epoch so far.
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
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The validation photos have been looked at; comes just before the `EpochDone` of its epoch.

    Attributes:
        epoch: From 1.
        module: The network (or head) that answered, with the weights that it answered with, until
            the listener returns. Look at it, and leave it as it is.
        validation: Its answers and their figures.
    """

    epoch: int
    module: nn.Module
    validation: Validation


@dataclass(frozen=True, kw_only=True)
class EpochDone:
    """An epoch has ended and its validation photos have been looked at; a line of ``log.jsonl``.

    Attributes:
        epoch: From 1.
        epochs: In all.
        step: Steps made in all epochs.
        train_loss: Mean training loss in nats.
        train_accuracy: Share of training photos that were right.
        validation_loss: In nats, of the weights that are kept (their average with ``--ema``).
        validation_accuracy: Likewise.
        lr: Learning rate of the head at the last step.
        images_per_second: Rate of the training steps.
        seconds: From the epoch's start to the end of its validation, in this process.
        best: Whether no epoch before was better.
        metrics: A person's own figures on the validation photos.
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


Event = Note | Progressed | StepDone | Validated | EpochDone
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listens to nothing."""

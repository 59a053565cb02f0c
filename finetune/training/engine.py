"""The training loop, whole and visible."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from finetune.training.events import EpochDone, Listener, StepDone
from finetune.training.loss import cross_entropy
from finetune.training.optim import set_lr
from finetune.training.schedule import Schedule
from finetune.training.state import TrainState, save_tensors

if TYPE_CHECKING:
    from accelerate import Accelerator

REPORT_SECONDS = 0.5
"""Time between two step reports; each costs one wait for the device."""


class Material(Protocol):
    """What a training is made of: batches to learn from, and validation photos to be judged by."""

    def batches(self, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields inputs and targets on the device, the epoch's own, from `first_step` on."""
        ...

    def begin_epoch(self, epoch: int) -> None:
        """Freezes or frees what does not or does train in this epoch."""
        ...

    def validate(self) -> tuple[float, float]:
        """Returns loss in nats and accuracy on the validation photos."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast.

    Attributes:
        epochs: Passes over the training photos.
        steps_per_epoch: Steps in each.
        schedule: Learning rate factors by step.
        label_smoothing: As in `cross_entropy`.
        last: Checkpoint file to resume from.
        best: Weights file of the best epoch.
    """

    epochs: int
    steps_per_epoch: int
    schedule: Schedule
    label_smoothing: float
    last: Path
    best: Path


def fit(
    state: TrainState,
    material: Material,
    plan: Plan,
    accelerator: Accelerator,
    *,
    listen: Listener,
    stop: Callable[[], bool],
) -> bool:
    """Trains from wherever `state` is to the end of the plan, or until `stop` says so.

    A checkpoint is written after each epoch, and in the middle of one when stopped; whichever it
    resumes from, the weights come out the same as without the interruption (on the CPU to the last
    bit).

    Returns:
        True when the plan is done, False when it was stopped.

    Raises:
        StorageError: A checkpoint could not be written; the one before it is intact.
    """
    module, optimizer = accelerator.prepare(state.module, state.optimizer)
    position = state.position
    state.running = _on_device(state.running, accelerator.device)
    all_steps = plan.epochs * plan.steps_per_epoch
    while position.epoch < plan.epochs:
        epoch = position.epoch
        material.begin_epoch(epoch)
        started = reported = time.monotonic()
        seen_before = seen = 0
        lr = 0.0
        for inputs, targets in material.batches(epoch, position.step):
            step = epoch * plan.steps_per_epoch + position.step
            lr = set_lr(optimizer, plan.schedule, step)
            logits = module(inputs)  # (B, labels)
            loss = cross_entropy(logits, targets, label_smoothing=plan.label_smoothing)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                right = (logits.argmax(1) == _hard(targets)).sum()
                sums = torch.stack([loss.detach() * len(logits), right])
                state.running[:2] += sums.to(state.running.dtype)
                state.running[2] += len(logits)
            seen += len(logits)
            position.step += 1
            now = time.monotonic()
            if now - reported > REPORT_SECONDS:
                reported = now
                total_loss, total_right, count = state.running.tolist()  # waits for the device
                speed = (seen - seen_before) / (now - started)
                step_seconds = (now - started) / (step + 1 - epoch * plan.steps_per_epoch)
                listen(
                    StepDone(
                        epoch=epoch + 1,
                        epochs=plan.epochs,
                        step=step + 1,
                        steps=all_steps,
                        loss=total_loss / count,
                        accuracy=total_right / count,
                        lr=lr,
                        images_per_second=speed,
                        seconds_left=(all_steps - step - 1) * step_seconds,
                    )
                )
            if stop() and position.step < plan.steps_per_epoch:
                position.seconds += now - started
                state.save(plan.last)
                return False
        trained = time.monotonic() - started
        total_loss, total_right, count = state.running.tolist()
        validation_loss, validation_accuracy = material.validate()
        best = (validation_accuracy, -validation_loss) > (
            position.best_accuracy,
            -position.best_loss,
        )
        if best:
            position.best_accuracy = validation_accuracy
            position.best_loss = validation_loss
            position.best_epoch = epoch + 1
            weights = accelerator.unwrap_model(module).state_dict()
            save_tensors(plan.best, weights, {"epoch": str(epoch + 1)})
        seconds = time.monotonic() - started
        position.epoch, position.step = epoch + 1, 0
        position.seconds += seconds
        state.running.zero_()
        listen(
            EpochDone(
                epoch=epoch + 1,
                epochs=plan.epochs,
                step=(epoch + 1) * plan.steps_per_epoch,
                train_loss=total_loss / count,
                train_accuracy=total_right / count,
                validation_loss=validation_loss,
                validation_accuracy=validation_accuracy,
                lr=lr,
                images_per_second=seen / max(trained, 1e-9),
                seconds=seconds,
                best=best,
            )
        )
        state.save(plan.last)
        if stop() and position.epoch < plan.epochs:
            return False
    return True


def _hard(targets: Tensor) -> Tensor:
    return targets if targets.ndim == 1 else targets.argmax(1)


def _on_device(running: Tensor, device: torch.device) -> Tensor:
    # MPS knows no float64.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return running.to(device=device, dtype=dtype)

"""The training loop, whole and visible."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from finetune.tasks.objective import Objective
from finetune.training.averaging import (
    Candidate,
    best_first,
    candidate_file,
    forget_others,
    greedy_soup,
    read_candidate,
)
from finetune.training.checkpoints import Position, TrainState, save_tensors
from finetune.training.distributed import SINGLE_PROCESS, World
from finetune.training.events import Callback, EpochDone, Meter, Note, Validated
from finetune.training.microbatches import MicroBatch
from finetune.training.optimizer import set_lr
from finetune.training.schedule import Schedule
from finetune.training.validation import (
    Answers,
    Metric,
    Validation,
    assess,
    calibrated_loss,
    plain_loss,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


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


class DataSource(Protocol):
    """What a training is made of: batches to learn from, and validation photos to be judged by."""

    def batches(self, epoch: int, first_step: int) -> Iterator[MicroBatch]:
        """Yields what goes through the network, the epoch's own, from `first_step` on."""
        ...

    def begin_epoch(self, epoch: int) -> None:
        """Freezes or frees what does not or does train in this epoch."""
        ...

    def validate(self) -> Answers:
        """Returns what the module, with the weights that it has now, says of validation."""
        ...


def fit(
    state: TrainState,
    source: DataSource,
    plan: LoopConfig,
    accelerator: Accelerator,
    *,
    callback: Callback,
    stop: Callable[[], bool],
    world: World = SINGLE_PROCESS,
) -> bool:
    """Trains from wherever `state` is to the end of the plan, or until `stop` says so.

    A checkpoint is written after each epoch but those that the plan lets rest, as often within one
    as it says, and when stopped; whichever it resumes from, the weights come out the same as
    without the interruption (on the CPU to the last bit).

    Of several processes each calls this with its own share of the photos; they make each step
    together, and the main one alone writes and speaks.

    Returns:
        True when the plan is done, False when it was stopped.

    Raises:
        StorageError: A checkpoint could not be written; the one before it is intact.
    """
    # Without accelerate's wrapping for several processes: which parameters train changes from
    # epoch to epoch, and gradients are averaged here, where one can see it.
    module = accelerator.prepare_model(state.module, evaluation_mode=True)
    # Without a scaler accelerate's optimizer does what it wraps, and looks for optional packages in
    # every step.
    scaled = accelerator.scaler is not None
    optimizer = accelerator.prepare_optimizer(state.optimizer) if scaled else state.optimizer
    device = accelerator.device
    if not world.is_main:
        # What a checkpoint holds of the epoch under way is the sum over all processes.
        state.running.zero_()
    position = state.position
    objective = plan.objective
    state.running = state.running.to(
        # MPS knows no float64.
        device=accelerator.device,
        dtype=torch.float32 if accelerator.device.type == "mps" else torch.float64,
    )
    written = -math.inf
    while not plan.is_over(position):
        epoch = position.epoch
        source.begin_epoch(epoch)
        meter = Meter(epoch, plan.epochs, plan.steps_per_epoch, position.step)
        lr = 0.0
        for micro_batch in source.batches(epoch, position.step):
            step = epoch * plan.steps_per_epoch + position.step
            lr = set_lr(optimizer, plan.schedule, step)
            logits = module(micro_batch.inputs)  # (B, labels)
            loss = objective.loss(logits, micro_batch.targets)
            if scaled:
                accelerator.backward(loss * micro_batch.share)
            else:
                (loss * micro_batch.share).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                right = objective.right(logits, micro_batch.targets)
                sums = torch.stack([loss.detach() * len(logits), right])
                state.running[:2] += sums.to(state.running.dtype)
                state.running[2] += len(logits)
            meter.photos += len(micro_batch.inputs)
            if not micro_batch.completes:
                continue
            world.average_gradients(state.module.parameters())
            if plan.clip_norm is not None:
                accelerator.clip_grad_norm_(module.parameters(), plan.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if state.average is not None:
                state.average.update(state.module, step)
            position.step += 1
            if meter.due and world.is_main:
                callback(meter.report(position.step, state.running, lr))
            ask = world.may_agree(position.step) or plan.wants_checkpoint(position.step, 0)
            if ask and position.step < plan.steps_per_epoch:
                stopped = world.any(stop(), device)
                wanted = plan.wants_checkpoint(position.step, meter.since_lap)
                if stopped or world.any(wanted, device):
                    position.seconds += meter.lap()
                    _save(state, plan, world)
                if stopped:
                    return False
        meter.stop_training()
        train_loss, train_right, count = world.total(state.running).tolist()
        world.average_buffers(state.module)
        with state.average.in_place_of(state.module) if state.average else nullcontext():
            validation = assess(source.validate(), objective, plan.metrics)
            callback(Validated(epoch=epoch + 1, module=state.module, validation=validation))
        rests = epoch + 1 < plan.epochs and time.monotonic() - written < plan.rest_seconds
        best = _keep(state, plan, validation, world, rests=rests)
        position.epoch, position.step = epoch + 1, 0
        position.seconds += meter.lap()
        state.running.zero_()
        callback(
            EpochDone(
                epoch=epoch + 1,
                epochs=plan.epochs,
                step=(epoch + 1) * plan.steps_per_epoch,
                train_loss=train_loss / count,
                train_accuracy=train_right / count,
                validation_loss=validation.loss,
                validation_accuracy=validation.accuracy,
                lr=lr,
                images_per_second=meter.images_per_second,
                seconds=meter.seconds,
                best=best,
                metrics=validation.metrics,
            )
        )
        rests = world.any(rests, device)
        if not rests:
            _save(state, plan, world)
            written = time.monotonic()
        if world.is_main:
            forget_others(plan.best, position.candidates)
        if world.any(stop(), device) and not plan.is_over(position):
            if rests:
                _save(state, plan, world)
            return False
    if position.epoch < plan.epochs:
        callback(
            Note(
                text=f"No epoch after epoch {position.best_epoch} was better, so the training "
                f"ended after {position.epoch} of {plan.epochs} epochs (--patience "
                f"{plan.patience})."
            )
        )
    if len(position.candidates) > 1:
        world.wait()
        _stir(state, source, plan, world, callback)
    world.wait()
    return True


def _save(state: TrainState, plan: LoopConfig, world: World) -> None:
    """Writes the checkpoint, with the sums of all processes, in the main one."""
    own = state.running
    state.running = world.total(own)
    if world.is_main:
        state.save(plan.last)
    state.running = own


def _keep(
    state: TrainState, plan: LoopConfig, validation: Validation, world: World, *, rests: bool
) -> bool:
    """Keeps the weights of the epoch under way if they are good enough; returns if they are best.

    Files come before the checkpoint that names them, and go after it: a kill in between leaves
    one too many, never one too few.
    """
    position = state.position
    epoch = position.epoch + 1
    # Label smoothing makes a network less sure the longer it trains, and plain losses would rank
    # its first epochs above its best.
    worth = plain_loss if plan.keep_last else calibrated_loss
    here = Candidate(epoch, validation.accuracy, worth(validation.answers, plan.objective))
    before = Candidate(position.best_epoch, position.best_accuracy, position.best_loss)
    best = plan.rank(here) > plan.rank(before)
    if best:
        position.best_accuracy, position.best_loss = here.accuracy, here.loss
        position.best_epoch = epoch
        if world.is_main and not (rests and plan.keep_last):
            save_tensors(plan.best, state.kept_weights(), {"epoch": str(epoch)})
    if plan.soup > 1:
        position.candidates = best_first([*position.candidates, here], plan.rank)[: plan.soup]
        if here in position.candidates and world.is_main:
            file = candidate_file(plan.best, epoch)
            save_tensors(file, state.kept_weights(), {"epoch": str(epoch)})
    return epoch == plan.epochs if plan.keep_last else best


def _stir(
    state: TrainState, source: DataSource, plan: LoopConfig, world: World, callback: Callback
) -> None:
    """Puts the greedy soup of the best epochs in the place of the best epoch's weights."""
    position = state.position

    def judge(tensors: dict[str, torch.Tensor]) -> tuple[float, float]:
        state.module.load_state_dict(tensors)
        validation = assess(source.validate(), plan.objective)
        return calibrated_loss(validation.answers, plan.objective), validation.accuracy

    ranked = best_first(position.candidates, plan.rank)
    soup = greedy_soup(ranked, lambda epoch: read_candidate(plan.best, epoch), judge, plan.rank)
    names = [str(epoch) for epoch in sorted(soup.epochs)]
    if len(names) == 1:
        text = (
            f"Soup: no mean of the {len(ranked)} best epochs is as good on validation as epoch "
            f"{names[0]} alone ({soup.accuracy:.1%}), whose weights are kept."
        )
    else:
        text = (
            f"Soup: the mean of epochs {', '.join(names[:-1])} and {names[-1]} is kept: "
            f"{soup.accuracy:.1%} on validation, the best alone {ranked[0].accuracy:.1%}."
        )
        if world.is_main:
            save_tensors(plan.best, soup.tensors, {"epoch": str(position.best_epoch)})
    callback(Note(text=text))

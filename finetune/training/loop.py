"""Training loop: steps, validation, checkpoints, best weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from finetune.formatting import percent
from finetune.tasks.base import Objective
from finetune.training.averaging import (
    Candidate,
    best_first,
    candidate_file,
    greedy_soup,
    read_candidate,
    remove_other_candidates,
)
from finetune.training.checkpoints import Position, TrainState, save_tensors
from finetune.training.data_source import MicroBatch
from finetune.training.distributed import SINGLE_PROCESS, World
from finetune.training.events import Callback, EpochDone, Meter, Note, Validated
from finetune.training.optimizer import set_lr
from finetune.training.schedule import Schedule
from finetune.training.validation import (
    Metric,
    Outputs,
    Validation,
    calibrated_loss,
    score_outputs,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Loop configuration: loss, schedule, checkpoints.

    Attributes:
        steps_per_epoch: Steps in each.
        by_loss: Rank epochs by calibrated validation loss instead of accuracy.
        soup: Number of best epochs to average; 1: the best alone.
        last: Checkpoint file to resume from.
        best: Weights file of the best epoch.
        steps_folder: Folder for the weights of the latest checkpoints.
        keep_checkpoints: Number of these.
    """

    epochs: int
    steps_per_epoch: int
    schedule: Schedule
    objective: Objective
    by_loss: bool = False
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    clip_norm: float | None = None
    patience: int | None = None
    soup: int = 1
    checkpoint_steps: int | None = None
    checkpoint_seconds: float | None = None
    last: Path
    best: Path
    steps_folder: Path | None = None
    keep_checkpoints: int = 0

    def is_over(self, position: Position) -> bool:
        """Returns whether the training is complete."""
        waited = position.epoch - position.best_epoch
        stalled = self.patience is not None and position.best_epoch > 0 and waited >= self.patience
        return position.epoch >= self.epochs or stalled

    def rank(self, one: Candidate) -> tuple[float, float]:
        """Returns the key by which epochs are ranked; higher is better."""
        return (-one.loss, one.accuracy) if self.by_loss else (one.accuracy, -one.loss)

    def checkpoint_due(self, step: int, seconds: float) -> bool:
        """Returns whether a checkpoint is due at a step, `seconds` after the last one."""
        return (self.checkpoint_steps is not None and step % self.checkpoint_steps == 0) or (
            self.checkpoint_seconds is not None and seconds >= self.checkpoint_seconds
        )


class DataSource(Protocol):
    """Training batches and validation photos of a training."""

    def batches(self, epoch: int, first_step: int) -> Iterator[MicroBatch]:
        """Yields the micro-batches of an epoch, from `first_step` on."""
        ...

    def begin_epoch(self, epoch: int) -> None:
        """Sets which parameters train in this epoch."""
        ...

    def validate(self) -> Outputs:
        """Returns the logits of the validation photos with the current weights."""
        ...


def fit(
    state: TrainState,
    source: DataSource,
    config: LoopConfig,
    accelerator: Accelerator,
    *,
    callback: Callback,
    stop: Callable[[], bool],
    world: World = SINGLE_PROCESS,
) -> bool:
    """Trains from `state` to the last epoch, or until `stop` returns True.

    Checkpoints are written after epochs, at the configured intervals, and when stopped. Resuming
    from any of them gives the same weights as an uninterrupted training (bit by bit on the CPU).

    In a distributed training each process calls this with its shard of the photos; gradients are
    averaged, and only the main process writes and sends events.

    Returns:
        True when complete, False when stopped.

    Raises:
        StorageError: A checkpoint could not be written; the one before it is intact.
    """
    # Not wrapped in DDP: the trainable parameters change between epochs, and gradients are averaged
    # below.
    module = accelerator.prepare_model(state.module, evaluation_mode=True)
    # Without a scaler the wrapper only searches for optional packages in every step.
    scaled = accelerator.scaler is not None
    optimizer = accelerator.prepare_optimizer(state.optimizer) if scaled else state.optimizer
    device = accelerator.device
    if not world.is_main:
        # A checkpoint holds the sums over all processes.
        state.running.zero_()
    position = state.position
    objective = config.objective
    state.running = state.running.to(
        # MPS has no float64.
        device=accelerator.device,
        dtype=torch.float32 if accelerator.device.type == "mps" else torch.float64,
    )
    while not config.is_over(position):
        epoch = position.epoch
        source.begin_epoch(epoch)
        meter = Meter(epoch, config.epochs, config.steps_per_epoch, position.step)
        lr = 0.0
        for micro_batch in source.batches(epoch, position.step):
            step = epoch * config.steps_per_epoch + position.step
            lr = set_lr(optimizer, config.schedule, step)
            logits = module(micro_batch.inputs)  # (B, labels)
            loss = objective.loss(logits, micro_batch.targets)
            if scaled:
                accelerator.backward(loss * micro_batch.share)
            else:
                (loss * micro_batch.share).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                right = objective.correct(logits, micro_batch.targets)
                sums = torch.stack([loss.detach() * len(logits), right])
                state.running[:2] += sums.to(state.running.dtype)
                state.running[2] += len(logits)
            meter.photos += len(micro_batch.inputs)
            if not micro_batch.completes:
                continue
            world.average_gradients(state.module.parameters())
            if config.clip_norm is not None:
                accelerator.clip_grad_norm_(module.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if state.average is not None:
                state.average.update(state.module, step)
            position.step += 1
            if meter.due and world.is_main:
                callback(meter.report(position.step, state.running, lr))
            ask = world.sync_due(position.step) or config.checkpoint_due(position.step, 0)
            if ask and position.step < config.steps_per_epoch:
                stopped = world.any_process(stop(), device)
                due = config.checkpoint_due(position.step, meter.since_lap)
                if stopped or world.any_process(due, device):
                    position.seconds += meter.lap()
                    _save(state, config, world)
                if stopped:
                    return False
        meter.stop_training()
        train_loss, train_right, count = world.total(state.running).tolist()
        world.average_buffers(state.module)
        with state.average.swapped_into(state.module) if state.average else nullcontext():
            validation = score_outputs(source.validate(), objective, config.metrics)
            callback(Validated(epoch=epoch + 1, module=state.module, validation=validation))
        best = _keep_best(state, config, validation, world)
        position.epoch, position.step = epoch + 1, 0
        position.seconds += meter.lap()
        state.running.zero_()
        callback(
            EpochDone(
                epoch=epoch + 1,
                epochs=config.epochs,
                step=(epoch + 1) * config.steps_per_epoch,
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
        _save(state, config, world)
        if world.is_main:
            remove_other_candidates(config.best, position.candidates)
        if world.any_process(stop(), device) and not config.is_over(position):
            return False
    if position.epoch < config.epochs:
        callback(
            Note(
                text=f"No epoch after epoch {position.best_epoch} was better, so the training "
                f"ended after {position.epoch} of {config.epochs} epochs (--patience "
                f"{config.patience})."
            )
        )
    if len(position.candidates) > 1:
        world.barrier()
        _apply_soup(state, source, config, world, callback)
    world.barrier()
    return True


def _save(state: TrainState, config: LoopConfig, world: World) -> None:
    """Writes the checkpoint in the main process, with the sums over all processes."""
    own = state.running
    state.running = world.total(own)
    if world.is_main:
        state.save(config.last)
        _keep_numbered(state, config)
    state.running = own


def _keep_numbered(state: TrainState, config: LoopConfig) -> None:
    """Writes the weights under the number of the step, and deletes all but the latest files."""
    if config.steps_folder is None or config.keep_checkpoints == 0:
        return
    position = state.position
    step = position.epoch * config.steps_per_epoch + position.step
    file = config.steps_folder / f"step-{step:06d}.safetensors"
    save_tensors(file, state.kept_weights(), {"step": str(step)})
    # By number: those of a training that is resumed from an earlier step are written again.
    kept = sorted(config.steps_folder.glob("step-*.safetensors"), key=lambda one: int(one.stem[5:]))
    for old in kept[: -config.keep_checkpoints]:
        old.unlink()


def _keep_best(state: TrainState, config: LoopConfig, validation: Validation, world: World) -> bool:
    """Saves the epoch's weights if they rank high enough; returns whether they are the best.

    Weights are written before the checkpoint that names them and deleted after it, so that a kill
    in between leaves a file too many, never one too few.
    """
    position = state.position
    epoch = position.epoch + 1
    # Label smoothing lowers the confidence the longer a network trains, so uncalibrated losses
    # would rank the first epochs above the best.
    loss = calibrated_loss(validation.outputs, config.objective)
    here = Candidate(epoch, validation.accuracy, loss)
    before = Candidate(position.best_epoch, position.best_accuracy, position.best_loss)
    best = config.rank(here) > config.rank(before)
    if best:
        position.best_accuracy, position.best_loss = here.accuracy, here.loss
        position.best_epoch = epoch
        if world.is_main:
            save_tensors(config.best, state.kept_weights(), {"epoch": str(epoch)})
    if config.soup > 1:
        position.candidates = best_first([*position.candidates, here], config.rank)[: config.soup]
        if here in position.candidates and world.is_main:
            file = candidate_file(config.best, epoch)
            save_tensors(file, state.kept_weights(), {"epoch": str(epoch)})
    return best


def _apply_soup(
    state: TrainState, source: DataSource, config: LoopConfig, world: World, callback: Callback
) -> None:
    """Replaces the best epoch's weights by the greedy soup of the best epochs."""
    position = state.position

    def evaluate(tensors: dict[str, torch.Tensor]) -> tuple[float, float]:
        state.module.load_state_dict(tensors)
        validation = score_outputs(source.validate(), config.objective)
        return calibrated_loss(validation.outputs, config.objective), validation.accuracy

    ranked = best_first(position.candidates, config.rank)
    soup = greedy_soup(
        ranked, lambda epoch: read_candidate(config.best, epoch), evaluate, config.rank
    )
    names = [str(epoch) for epoch in sorted(soup.epochs)]
    if len(names) == 1:
        text = (
            f"Soup: no mean of the {len(ranked)} best epochs is as good on validation as epoch "
            f"{names[0]} alone ({percent(soup.accuracy)}), whose weights are kept."
        )
    else:
        text = (
            f"Soup: the mean of epochs {', '.join(names[:-1])} and {names[-1]} is kept: "
            f"{percent(soup.accuracy)} on validation, the best alone {percent(ranked[0].accuracy)}."
        )
        if world.is_main:
            save_tensors(config.best, soup.tensors, {"epoch": str(position.best_epoch)})
    callback(Note(text=text))

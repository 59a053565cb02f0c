"""Learning rate range test: a step at each of increasing rates, and a suggestion from the losses.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks" (arXiv 1506.01186), section 3.3,
with exponentially increasing rates.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from finetune.config import TrainConfig
from finetune.errors import ConfigError, RunError
from finetune.models.heads import has_linear_head
from finetune.tasks.base import Objective
from finetune.training.checkpoints import TrainState
from finetune.training.data_source import MicroBatch, PhotoSource
from finetune.training.device import make_accelerator, require_one_process
from finetune.training.events import Callback, ignore
from finetune.training.finetune import plan_unfreezing, starts_from_features, train_first_head
from finetune.training.loop import DataSource
from finetune.training.optimizer import make_optimizer
from finetune.training.prepare import prepare
from finetune.training.prepared import Prepared
from finetune.training.resolve import requests_cached_head, uses_cached_features

if TYPE_CHECKING:
    from accelerate import Accelerator

STEPS = 100
"""Steps of a sweep over seven powers of ten."""

LOWEST, HIGHEST = 1e-6, 10.0
"""First and last rate of the head."""

SMOOTHING_STEPS = 6
"""Steps on each side over which losses are smoothed, with triangular weights."""

DIVERGED = 4.0
"""Multiple of the lowest smoothed loss at which the sweep stops (median of the last steps)."""

MIN_DROP = 0.05
"""Relative fall of the loss below which the sweep has no valley."""

NOISE = 1.5
"""Fall that is none, in standard deviations of single losses around the smoothed ones.

Of 100 losses without a trend, the lowest smoothed one is about 0.8 of them below the mean, and the
mean of the first ones, from which a fall is counted, is 0.3 of them off.
"""

STEEP = 0.5
"""Share of the steepest fall that still counts as fast."""

RISE = 0.1
"""Share of the fall by which the smoothed loss rises above its minimum where it diverges."""

SAFETY = 10.0
"""The suggestion is at most this fraction of the rate at which the loss diverges."""

MIN_STEPS = 10
"""Steps with a finite loss that a suggestion needs."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Training loss at each learning rate.

    Attributes:
        rates: Learning rate of the head at each step, increasing.
        losses: Mean training loss of each step in nats.
        smoothed: `losses`, smoothed by `smooth`.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Learning rate that a sweep suggests.

    Attributes:
        lr: The learning rate.
        rule: ``steep``: the highest rate of the range in which the loss falls fast; ``limit``: a
            tenth of the rate at which it diverges, which is lower; ``flat``: the same, as the loss
            hardly falls, as with a trained head.
        steepest: Rate at which the loss falls fastest.
        diverging: Rate from which the loss rises, or the last one.
    """

    lr: float
    rule: Literal["steep", "limit", "flat"]
    steepest: float
    diverging: float


@dataclass(frozen=True, kw_only=True)
class LearningRateResult:
    """Result of a learning rate search.

    Attributes:
        sweep: The losses.
        default_lr: Default learning rate of such a training.
    """

    sweep: Sweep
    suggestion: Suggestion
    default_lr: float
    model: str
    mode: str
    photos: int
    batch_size: int


_NO_RATE = (
    "--mode head fits its head to the minimum and has no learning rate; use --mode full or "
    "--mode gradual."
)


def find_lr(
    photos: Path | str,
    config: TrainConfig | None = None,
    *,
    steps: int = STEPS,
    callback: Callback = ignore,
) -> LearningRateResult:
    """Returns the learning rate suggested by a short sweep of increasing rates.

    It writes only the collection's caches, which a training uses as well.

    Args:
        photos: As for `finetune.train`.
        config: Settings of the training that needs the rate; its mode is ``full`` if not set.
        steps: Steps of the sweep.
        callback: Receives events.

    Raises:
        FinetuneError: As `finetune.train`.
        ConfigError: A head on cached features, which has no learning rate.

    Example:
        >>> find_lr("photos").suggestion.lr  # doctest: +SKIP
        0.0021
    """
    require_one_process("finetune lr-find")
    config = config or TrainConfig()
    if config.training.mode is None:
        training = dataclasses.replace(config.training, mode="full")
        config = dataclasses.replace(config, training=training)
    # Before photos are read, unless it depends on the network.
    if requests_cached_head(config) and config.model.model is None:
        raise ConfigError(_NO_RATE)
    with prepare(Path(photos), config, callback=callback) as prepared:
        if uses_cached_features(
            prepared.config, linear_head=has_linear_head(prepared.loaded.module)
        ):
            raise ConfigError(_NO_RATE)
        sweep = _sweep(prepared, steps)
        training = prepared.config.training
        return LearningRateResult(
            sweep=sweep,
            suggestion=suggest(sweep),
            default_lr=training.lr,
            model=prepared.loaded.name,
            mode=training.mode,
            photos=len(prepared.data_split.samples["train"]),
            batch_size=training.batch_size * prepared.config.optimization.accumulate,
        )


def exponential_rates(steps: int, lowest: float = LOWEST, highest: float = HIGHEST) -> list[float]:
    """Returns rates ``lowest * (highest / lowest)^(t / (steps - 1))`` for t = 0 .. steps - 1."""
    ratio = math.log(highest / lowest)
    return [lowest * math.exp(ratio * t / max(1, steps - 1)) for t in range(steps)]


def smooth(losses: Sequence[float], steps: int = SMOOTHING_STEPS) -> list[float]:
    """Returns weighted means over the steps around each, which do not lag behind the losses.

    The weights are triangular: ``steps + 1 - |d|`` for a step at distance d; the window is cut at
    both ends as far as it reaches beyond the losses, on both sides, so that a slope stays a slope.
    """
    values = np.asarray(losses, np.float64)
    result = []
    for k in range(len(values)):
        reach = min(steps, k, len(values) - 1 - k)
        weights = reach + 1 - np.abs(np.arange(-reach, reach + 1))
        result.append(float(np.average(values[k - reach : k + reach + 1], weights=weights)))
    return result


def sweep_lr(
    state: TrainState,
    source: DataSource,
    objective: Objective,
    accelerator: Accelerator,
    rates: list[float],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sweep:
    """Returns the loss at each rate; restores the module afterwards.

    Each parameter group keeps its ratio to the head's rate.

    Args:
        state: Module and optimizer before the first step.
        source: Training batches; its first epoch is repeated as needed.
        objective: The loss.
        accelerator: Device and precision.
        rates: Increasing rates of the head.
        progress: Called as ``progress(done, total)`` after each step.

    Raises:
        RunError: The loss was finite for less than `MIN_STEPS` steps.
    """
    before = {name: value.detach().clone() for name, value in state.module.state_dict().items()}
    head = next(g["base_lr"] for g in state.optimizer.param_groups if g["part"] == "head")
    scales = [group["base_lr"] / head for group in state.optimizer.param_groups]
    module, optimizer = accelerator.prepare(state.module, state.optimizer)
    losses: list[float] = []
    batches = _repeated(source)
    try:
        for rate in rates:
            for group, scale in zip(optimizer.param_groups, scales, strict=True):
                group["lr"] = rate * scale
            total = 0.0
            for micro_batch in batches:
                loss = objective.loss(module(micro_batch.inputs), micro_batch.targets)
                accelerator.backward(loss * micro_batch.share)
                total += float(loss.detach()) * micro_batch.share  # waits for the device
                if micro_batch.completes:
                    break
            if not math.isfinite(total):
                break
            losses.append(total)
            progress(len(losses), len(rates))
            if len(losses) >= MIN_STEPS and _diverged(losses):
                break
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    finally:
        optimizer.zero_grad(set_to_none=True)
        state.module.load_state_dict(before)
    if len(losses) < MIN_STEPS:
        raise RunError(
            f"The loss was finite for only {len(losses)} steps, too few to find a learning rate. "
            "Check the network's weights, or try --precision fp32."
        )
    done = tuple(losses)
    return Sweep(rates=tuple(rates[: len(done)]), losses=done, smoothed=tuple(smooth(losses)))


def _diverged(losses: Sequence[float]) -> bool:
    recent = float(np.median(losses[-SMOOTHING_STEPS:]))
    return recent > DIVERGED * min(smooth(losses))


def suggest(sweep: Sweep) -> Suggestion:
    """Returns the learning rate that a sweep suggests.

    It is the highest rate of the range in which the smoothed loss falls fast: at least `STEEP`
    times as fast, per factor of the rate, as where it falls fastest. It is at most a tenth of the
    rate at which the loss diverges.
    """
    rates, losses = np.array(sweep.rates), np.array(sweep.smoothed)
    # The first rates are too low to do anything. At the ends there is little to smooth,
    # so that a single batch would be a slope.
    first = min(SMOOTHING_STEPS, len(losses) // 4)
    start = float(np.mean(sweep.losses[: 2 * first + 1]))
    lowest = first + int(losses[first:].argmin())
    drop = start - losses[lowest]
    slopes = np.gradient(losses, np.log(rates))
    fastest = first + int(slopes[first : lowest + 1].argmin())
    steepest = float(rates[fastest])
    noise = float(np.std((np.array(sweep.losses) - losses)[first : max(lowest, len(losses) // 2)]))
    flat = drop < max(MIN_DROP * abs(start), NOISE * noise)
    rise = max(MIN_DROP * abs(start), noise)
    limit = start + rise if flat else losses[lowest] + RISE * drop
    # From the last step below the limit on: single bad batches before it are no divergence.
    above = int(np.flatnonzero(losses <= limit)[-1]) + 1
    diverging = float(rates[min(above, len(rates) - 1)])
    if flat:
        return Suggestion(
            lr=diverging / SAFETY, rule="flat", steepest=steepest, diverging=diverging
        )
    slower = np.flatnonzero(slopes[fastest:] > STEEP * slopes[fastest])
    steep = float(rates[fastest + int(slower[0]) - 1]) if len(slower) else float(rates[-1])
    limited = steep > diverging / SAFETY
    return Suggestion(
        lr=diverging / SAFETY if limited else steep,
        rule="limit" if limited else "steep",
        steepest=steepest,
        diverging=diverging,
    )


def _repeated(source: DataSource) -> Iterator[MicroBatch]:
    for epoch in itertools.count():
        # The trainable parameters are those of the first epoch, for which a learning rate is set.
        source.begin_epoch(0)
        yield from source.batches(epoch, 0)


def _sweep(prepared: Prepared, steps: int) -> Sweep:
    accelerator = make_accelerator(prepared.config.machine)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(prepared.config.machine.seed)
        return _sweep_network(prepared, accelerator, exponential_rates(steps))


def _sweep_network(prepared: Prepared, accelerator: Accelerator, rates: list[float]) -> Sweep:
    device, config = accelerator.device, prepared.config
    module = prepared.loaded.module.to(device)
    if device.type != "mps":
        module = module.to(memory_format=torch.channels_last)
    datasets = prepared.datasets()
    if starts_from_features(prepared):
        train_first_head(prepared, accelerator, datasets)
    unfreezing = plan_unfreezing(prepared, module)
    loading = prepared.loading(device)
    # All layers that train in any epoch: a rate for the head alone may be too high for them.
    everything = unfreezing.trainable(config.training.epochs - 1)
    source = PhotoSource(
        module,
        prepared.preprocessing,
        datasets["train"],
        datasets["validation"],
        augment=prepared.augmentation(),
        trainable=lambda epoch: everything,
        loading=loading,
    )
    state = TrainState(module, make_optimizer(unfreezing.groups, config.optimization.optimizer))
    progress = prepared.progress("Trying learning rates")
    return sweep_lr(state, source, prepared.objective(), accelerator, rates, progress=progress)

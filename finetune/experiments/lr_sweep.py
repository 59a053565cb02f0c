"""A sweep of the learning rate: a step at each of ever larger rates, and what the loss does.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks" (arXiv 1506.01186), section 3.3,
with rates that grow exponentially.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from finetune.errors import RunError
from finetune.tasks.objective import Objective
from finetune.training.checkpoints import TrainState
from finetune.training.loop import DataSource
from finetune.training.microbatches import MicroBatch

if TYPE_CHECKING:
    from accelerate import Accelerator

LOWEST, HIGHEST = 1e-6, 10.0
"""First and last rate of the head."""

SMOOTHING = 0.9
"""Share of the loss so far in the running mean; ten steps or so count."""

TOO_HIGH = 4.0
"""The sweep ends where the smoothed loss is so many times its lowest."""

WORTH = 0.05
"""Share of the loss that a sweep must win for its valley to say anything."""

ENDS = 0.1
"""Share of the fall that is left out at either end: there the loss hardly moves."""

FEWEST = 10
"""Steps without which nothing can be said."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What the loss did.

    Attributes:
        rates: Learning rate of the head at each step, growing.
        losses: Mean training loss of each step in nats.
        smoothed: Their running mean.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What a sweep suggests.

    Attributes:
        lr: The learning rate to take.
        rule: ``valley``: the middle of the stretch in which the loss falls; ``edge``: it hardly
            falls, as with a head that has learned already, so a tenth of the rate at which it
            rises. steepest: Rate at which the loss falls fastest.
        rising: Rate from which the loss rises, or the last one.
    """

    lr: float
    rule: Literal["valley", "edge"]
    steepest: float
    rising: float


def exponential_rates(steps: int, lowest: float = LOWEST, highest: float = HIGHEST) -> list[float]:
    """Returns rates ``lowest * (highest / lowest)^(t / (steps - 1))`` for t = 0 .. steps - 1."""
    ratio = math.log(highest / lowest)
    return [lowest * math.exp(ratio * t / max(1, steps - 1)) for t in range(steps)]


def smooth(losses: list[float], share: float = SMOOTHING) -> list[float]:
    """Returns the running means ``m_t = (s m_(t-1) + (1 - s) x_t)``, each over ``1 - s^t``.

    The division takes out the zero that it starts from (Kingma and Ba 2015, section 3).
    """
    mean, result = 0.0, []
    for t, loss in enumerate(losses, start=1):
        mean = share * mean + (1 - share) * loss
        result.append(mean / (1 - share**t))
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
    """Returns the loss at each rate; the module is afterwards what it was before.

    Every group of the optimizer keeps its share of the head's rate.

    Args:
        state: What trains, before its first step.
        source: What it learns from; its epochs follow one another as far as is needed.
        objective: The loss.
        accelerator: Device and precision.
        rates: Of the head, growing.
        progress: Called after each step.

    Raises:
        RunError: The loss was not finite from the start.
    """
    before = {name: value.detach().clone() for name, value in state.module.state_dict().items()}
    head = next(g["base_lr"] for g in state.optimizer.param_groups if g["part"] == "head")
    shares = [group["base_lr"] / head for group in state.optimizer.param_groups]
    module, optimizer = accelerator.prepare(state.module, state.optimizer)
    losses: list[float] = []
    portions = _endless(source)
    try:
        for rate in rates:
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            total = 0.0
            for micro_batch in portions:
                loss = objective.loss(module(micro_batch.inputs), micro_batch.targets)
                accelerator.backward(loss * micro_batch.share)
                total += float(loss.detach()) * micro_batch.share  # waits for the device
                if micro_batch.completes:
                    break
            if not math.isfinite(total):
                break
            losses.append(total)
            smoothed = smooth(losses)
            progress(len(losses), len(rates))
            if len(losses) >= FEWEST and smoothed[-1] > TOO_HIGH * min(smoothed):
                break
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    finally:
        optimizer.zero_grad(set_to_none=True)
        state.module.load_state_dict(before)
    if len(losses) < FEWEST:
        raise RunError(
            f"The loss was finite for {len(losses)} steps only, too few to find a learning rate. "
            "Check the network's weights, or take --precision fp32."
        )
    done = tuple(losses)
    return Sweep(rates=tuple(rates[: len(done)]), losses=done, smoothed=tuple(smooth(losses)))


def suggest(sweep: Sweep) -> Suggestion:
    """Returns the learning rate that a sweep suggests."""
    rates, losses = np.array(sweep.rates), np.array(sweep.smoothed)
    logs = np.log(rates)
    lowest = int(losses.argmin())
    rising = float(rates[min(lowest + 1, len(rates) - 1)])
    slopes = np.gradient(losses, logs)
    steepest = float(rates[int(slopes[: lowest + 1].argmin())])
    if losses[0] - losses[lowest] < WORTH * abs(losses[0]):
        above = np.flatnonzero(losses > losses[0] * (1 + WORTH))
        rising = float(rates[above[0]]) if len(above) else float(rates[-1])
        return Suggestion(lr=rising / 10, rule="edge", steepest=steepest, rising=rising)
    drop = losses[0] - losses[lowest]
    fall = losses[: lowest + 1]
    first = int(np.flatnonzero(fall >= losses[0] - ENDS * drop)[-1])
    last = int(np.flatnonzero(fall <= losses[lowest] + ENDS * drop)[0])
    # The middle on the scale on which the rates are even.
    middle = float(math.exp((logs[first] + logs[last]) / 2))
    return Suggestion(lr=middle, rule="valley", steepest=steepest, rising=rising)


def _endless(source: DataSource) -> Iterator[MicroBatch]:
    for epoch in itertools.count():
        # Every epoch as the first: that is where a training's rate is set.
        source.begin_epoch(0)
        yield from source.batches(epoch, 0)

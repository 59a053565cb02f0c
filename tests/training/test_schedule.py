from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from finetune.config import ScheduleName
from finetune.training.schedule import Schedule

STEPS = 100


def torch_rates(make: object, steps: int = STEPS) -> list[float]:
    """The rates that one of torch's own schedulers sets at each step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler: LRScheduler = make(optimizer)  # type: ignore[operator]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def warm(optimizer: torch.optim.Optimizer, then: LRScheduler, rising: int) -> LRScheduler:
    # LinearLR's factor at step t is start + t * (1 - start) / total: (t + 1) / rising.
    first = LinearLR(optimizer, start_factor=1 / rising, total_iters=rising - 1)
    return SequentialLR(optimizer, [first, then], milestones=[rising])


def test_cosine_is_torchs_warm_up_and_cosine() -> None:
    rising = 10
    expected = torch_rates(
        lambda o: warm(o, CosineAnnealingLR(o, T_max=STEPS - rising), rising),
    )
    schedule = Schedule(steps=STEPS, warmup=0.1)
    assert [schedule.head(t) for t in range(STEPS)] == pytest.approx(expected, abs=1e-9)


def test_constant_is_torchs_warm_up_and_then_one() -> None:
    expected = torch_rates(lambda o: warm(o, ConstantLR(o, factor=1.0), 20))
    schedule = Schedule(steps=STEPS, warmup=0.2, shape="constant")
    assert [schedule.head(t) for t in range(STEPS)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("warmup", [0.3, 0.1, 0.55])
def test_one_cycle_is_torchs(warmup: float) -> None:
    expected = torch_rates(
        lambda o: OneCycleLR(
            o, max_lr=1.0, total_steps=STEPS, pct_start=warmup, cycle_momentum=False
        ),
    )
    schedule = Schedule(steps=STEPS, warmup=warmup, shape="one_cycle")
    assert [schedule.head(t) for t in range(STEPS)] == pytest.approx(expected, abs=1e-9)


def test_the_rate_follows_the_formula() -> None:
    schedule = Schedule(steps=100, warmup=0.1)
    for step in range(100):
        expected = (step + 1) / 10 if step < 10 else (1 + math.cos(math.pi * (step - 10) / 90)) / 2
        assert schedule.head(step) == pytest.approx(expected, abs=1e-12)
        assert schedule.backbone(step) == schedule.head(step)


def test_the_head_goes_first_alone() -> None:
    schedule = Schedule(steps=30, warmup=0.5, head_steps=10)
    assert [schedule.backbone(step) for step in range(10)] == [0.0] * 10
    assert [schedule.head(step) for step in range(10)] == [1.0] * 10
    assert schedule.backbone(10) == schedule.head(10) == pytest.approx(0.1)
    assert schedule.backbone(19) == pytest.approx(1.0)


def test_a_stage_that_opens_late_has_a_rise_of_its_own() -> None:
    schedule = Schedule(steps=100, warmup=0.1)
    assert [schedule.backbone(step, 40) for step in range(40)] == [0.0] * 40
    for step in range(40, 100):
        rise = min(1.0, (step - 39) / 10)
        assert schedule.backbone(step, 40) == pytest.approx(rise * schedule.head(step), abs=1e-12)


@pytest.mark.parametrize("shape", ["cosine", "one_cycle", "constant"])
def test_short_trainings_have_rates_in_range(shape: ScheduleName) -> None:
    for steps in range(1, 6):
        for warmup in (0.0, 0.1, 0.5, 1.0):
            schedule = Schedule(steps=steps, warmup=warmup, shape=shape)
            rates = [schedule.head(step) for step in range(steps)]
            assert all(0 <= rate <= 1 for rate in rates)
            assert rates[0] > 0

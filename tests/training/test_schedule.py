from __future__ import annotations

import math

import pytest

from finetune.training.schedule import Schedule


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


def test_short_trainings_have_rates_in_range() -> None:
    for steps in range(1, 5):
        for warmup in (0.0, 0.1, 1.0):
            schedule = Schedule(steps=steps, warmup=warmup)
            assert all(0 <= schedule.head(step) <= 1 for step in range(steps))
            assert schedule.head(0) > 0

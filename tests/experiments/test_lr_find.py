from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from finetune.config import MachineConfig
from finetune.config_io import resolve
from finetune.errors import RunError
from finetune.experiments.lr_find import (
    Sweep,
    exponential_rates,
    find_lr,
    smooth,
    suggest,
    sweep_lr,
)
from finetune.photos.scan import scan
from finetune.tasks.data_split import split_collection
from finetune.tasks.single_label import SingleLabel
from finetune.training.checkpoints import TrainState
from finetune.training.data_source import MicroBatch
from finetune.training.device import make_accelerator
from finetune.training.optimizer import make_optimizer, parameter_groups


def test_rates_are_evenly_spaced_on_a_logarithmic_scale() -> None:
    rates = exponential_rates(15, 1e-6, 10.0)
    assert np.allclose(rates, np.logspace(-6, 1, 15))


def test_smoothing_weighs_the_steps_around_each_and_does_not_lag() -> None:
    losses = np.random.default_rng(0).normal(size=40).tolist()
    weights = np.array([1, 2, 3, 4, 3, 2, 1]) / 16
    wanted = np.convolve(losses, weights, mode="valid")
    np.testing.assert_allclose(smooth(losses, 3)[3:-3], wanted)
    slope = np.linspace(3, 1, 40)
    np.testing.assert_allclose(smooth(slope.tolist()), slope)


def curve(low: float, high: float, drop: float) -> Sweep:
    """Returns a flat loss that falls from rate `low` to `high` by `drop`, then rises."""
    rates = exponential_rates(141, 1e-6, 10.0)
    losses = []
    for rate in rates:
        share = (math.log(rate) - math.log(low)) / (math.log(high) - math.log(low))
        losses.append(2 - drop * min(max(share, 0), 1) + max(share - 1, 0) * 10)
    return Sweep(rates=tuple(rates), losses=tuple(losses), smoothed=tuple(losses))


def test_the_end_of_the_steep_range_is_suggested() -> None:
    rates = exponential_rates(141, 1e-6, 10.0)
    # A logistic fall, steepest at 1e-4, and a divergence from 0.1 on.
    losses = [
        2 / (1 + math.exp(3 * math.log10(rate / 1e-4))) + 5 * max(0.0, math.log10(rate / 0.1))
        for rate in rates
    ]
    found = suggest(Sweep(rates=tuple(rates), losses=tuple(losses), smoothed=tuple(losses)))
    assert found.rule == "steep"
    assert found.steepest == pytest.approx(1e-4, rel=0.13)
    # 1 / (1 + e^(3x)) falls half as fast as at x = 0 where e^(3x) = 3 + 2 sqrt 2.
    assert found.lr == pytest.approx(1e-4 * 10 ** (math.log(3 + 2 * math.sqrt(2)) / 3), rel=0.13)
    assert found.diverging == pytest.approx(0.1, rel=0.3)


def test_no_suggestion_is_nearer_to_the_divergence_than_a_tenth() -> None:
    found = suggest(curve(4e-3, 1e-2, drop=1.0))
    assert found.rule == "limit"
    assert found.steepest > 3e-3
    assert found.diverging == pytest.approx(1e-2, rel=0.3)
    assert found.lr == pytest.approx(found.diverging / 10)


def test_a_single_bad_batch_is_no_divergence() -> None:
    sweep = curve(1e-4, 1e-2, drop=1.0)
    bad = list(sweep.losses)
    bad[60] += 3  # at 1e-3, between
    found = suggest(Sweep(rates=sweep.rates, losses=tuple(bad), smoothed=tuple(bad)))
    assert found.diverging == pytest.approx(1e-2, rel=0.3)


def test_a_tenth_of_the_edge_is_suggested_for_a_flat_loss() -> None:
    found = suggest(curve(1e-4, 1e-2, drop=0.01))
    assert found.rule == "flat"
    assert found.diverging == pytest.approx(1e-2, rel=0.4)
    assert found.lr == pytest.approx(found.diverging / 10)


@pytest.mark.parametrize("seed", range(12))
def test_noise_of_a_trained_head_is_no_fall(seed: int) -> None:
    rates = exponential_rates(100, 1e-6, 10.0)
    noise = np.random.default_rng(seed).normal(0, 0.15, 100)
    losses = [
        0.6 + noise[k] + 5 * max(0.0, math.log10(rate / 1e-2)) for k, rate in enumerate(rates)
    ]
    found = suggest(Sweep(rates=tuple(rates), losses=tuple(losses), smoothed=tuple(smooth(losses))))
    assert found.rule == "flat"
    assert 3e-4 < found.lr < 3e-3


class Blobs:
    """Data source of two clouds of points, with two micro-batches per step."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.targets = torch.from_numpy(rng.integers(0, 2, 64))
        centers = np.array([[-2.0, 0.0], [2.0, 0.0]])
        points = rng.normal(size=(64, 2)) + centers[self.targets.numpy()]
        self.inputs = torch.from_numpy(points.astype(np.float32))
        self.epochs = 0

    def begin_epoch(self, epoch: int) -> None:
        self.epochs += 1

    def batches(self, epoch: int, first_step: int) -> Iterator[MicroBatch]:
        for start in range(0, 64, 8):
            rows = slice(start, start + 8)
            yield MicroBatch(
                inputs=self.inputs[rows],
                targets=self.targets[rows],
                share=0.5,
                completes=start % 16 == 8,
            )

    def validate(self) -> None:
        raise AssertionError("a sweep does not validate")


def network() -> TrainState:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    head = parameter_groups(module[2].parameters(), part="head", lr=1.0, weight_decay=0.0)
    rest = parameter_groups(module[:2].parameters(), part="backbone", lr=0.25, weight_decay=0.0)
    return TrainState(module, make_optimizer([*head, *rest], "sgd"))


def test_a_sweep_restores_the_network() -> None:
    state, source = network(), Blobs()
    before = {name: value.clone() for name, value in state.module.state_dict().items()}
    seen: list[tuple[int, int]] = []
    sweep = sweep_lr(
        state,
        source,  # type: ignore[arg-type]
        SingleLabel().objective(),
        make_accelerator(MachineConfig(device="cpu")),
        exponential_rates(60),
        progress=lambda done, total: seen.append((done, total)),
    )
    after = state.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert len(sweep.rates) == len(sweep.losses) == len(sweep.smoothed) == len(seen)
    assert source.epochs == math.ceil(len(sweep.rates) / 4)
    assert min(sweep.smoothed) < 0.8 * sweep.smoothed[0]
    assert 1e-4 < suggest(sweep).lr < 1
    last = {group["part"]: group["lr"] for group in state.optimizer.param_groups}
    assert last["backbone"] == pytest.approx(last["head"] / 4)


def test_a_loss_that_is_never_finite_is_an_error() -> None:
    state, source = network(), Blobs()
    source.inputs[:] = float("nan")
    with pytest.raises(RunError) as error:
        sweep_lr(
            state,
            source,  # type: ignore[arg-type]
            SingleLabel().objective(),
            make_accelerator(MachineConfig(device="cpu")),
            exponential_rates(30),
        )
    assert str(error.value) == (
        "The loss was finite for only 0 steps, too few to find a learning rate. Check the "
        "network's weights, or try --precision fp32."
    )


def test_a_multi_label_sweep_trains_on_the_photos_of_several_labels(
    several_folders: Path, several: dict[str, Any]
) -> None:
    config = resolve({}, {**several, "mode": "full"})
    found = find_lr(several_folders, config, steps=20)
    collection = scan(several_folders)
    split = split_collection(
        collection, config.collection, seed=config.machine.seed, labels=config.labels
    )
    assert any(len(row.labels) > 1 for row in split.rows)
    assert found.photos == len(split.samples["train"])

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from finetune.training.averaging import WeightAverage, decay_at


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def wander(module: nn.Module, rng: np.random.Generator) -> None:
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value += torch.from_numpy(rng.normal(0, 0.1, value.shape).astype(np.float32))
            else:
                value += 1


def test_the_decay_is_that_of_timm() -> None:
    for decay in (0.5, 0.99, 0.9999):
        theirs = ModelEmaV3(nn.Linear(1, 1), decay=decay, use_warmup=True)
        for update in (0, 1, 2, 10, 1_000, 100_000):
            # timm counts updates from 1.
            expected = theirs.get_decay(update + 1)
            assert decay_at(update, decay) == pytest.approx(expected, abs=1e-12)


def test_the_average_is_the_formula_in_float64() -> None:
    module, rng = net(), np.random.default_rng(0)
    average = WeightAverage(module, 0.9)
    expected = {n: v.numpy().astype(np.float64) for n, v in module.state_dict().items()}
    for update in range(40):
        wander(module, rng)
        average.update(module, update)
        d = min(0.9, 1 - (1 + update) ** (-2 / 3))
        for name, value in module.state_dict().items():
            now = value.numpy().astype(np.float64)
            is_float = value.is_floating_point()
            expected[name] = d * expected[name] + (1 - d) * now if is_float else now
    for name, value in average.tensors.items():
        assert value.numpy() == pytest.approx(expected[name], abs=1e-6), name
    assert int(average.tensors["1.num_batches_tracked"]) == 40
    assert not np.allclose(
        average.tensors["1.running_var"].numpy(), module.state_dict()["1.running_var"].numpy()
    )


def test_it_stands_in_for_the_weights_and_leaves_no_trace() -> None:
    module, rng = net(), np.random.default_rng(1)
    average = WeightAverage(module, 0.9)
    for update in range(5):
        wander(module, rng)
        average.update(module, update)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    averaged = {name: value.clone() for name, value in average.tensors.items()}
    places = {name: value.data_ptr() for name, value in module.state_dict().items()}
    with average.in_place_of(module):
        for name, value in module.state_dict().items():
            assert torch.equal(value, averaged[name]), name
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert value.data_ptr() == places[name], "an optimizer's kernels keep these addresses"
        assert torch.equal(average.tensors[name], averaged[name])


def test_a_tensor_with_two_names_comes_back_too() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    average = WeightAverage(module, 0.5)
    wander(module, np.random.default_rng(2))
    before = module[0].weight.detach().clone()
    with average.in_place_of(module):
        assert not torch.equal(module[0].weight, before)
    assert torch.equal(module[0].weight, before)
    assert module[1].weight is module[0].weight


def test_it_comes_back_when_the_block_fails() -> None:
    module = net()
    average = WeightAverage(module, 0.5)
    wander(module, np.random.default_rng(2))
    before = module[0].weight.detach().clone()
    with pytest.raises(KeyError), average.in_place_of(module):
        raise KeyError
    assert torch.equal(module[0].weight, before)

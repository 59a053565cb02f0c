from __future__ import annotations

import numpy as np
import timm
import torch
from torch import nn

from finetune.training.tracking import MOST_VALUES, activations, is_activation


def test_zeros_and_values_are_those_of_the_layers() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Tanh())
    inputs = torch.randn(10, 4, generator=torch.Generator().manual_seed(2))
    found = activations(module, inputs)
    assert [a.layer for a in found] == ["1", "3"]
    first = np.maximum(
        inputs.numpy() @ module[0].weight.detach().numpy().T + module[0].bias.detach().numpy(), 0
    )
    assert found[0].zeros == np.float32((first == 0).mean())
    np.testing.assert_allclose(found[0].values, first.ravel(), atol=1e-6)
    assert found[1].zeros == 0


def test_a_large_layer_gives_an_even_sample() -> None:
    module = nn.Sequential(nn.ReLU())
    inputs = torch.arange(MOST_VALUES * 2 + 1, dtype=torch.float32)[None]
    (found,) = activations(module, inputs)
    assert found.values.tolist() == list(range(0, MOST_VALUES * 2 + 1, 3))


def test_the_network_comes_back_as_it_was() -> None:
    module = timm.create_model("test_resnet", num_classes=3).train()
    module.layer1.eval()
    before = [layer.training for layer in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    found = activations(module, torch.randn(2, 3, 64, 64, generator=torch.Generator()))
    assert found
    assert [layer.training for layer in module.modules()] == before
    assert all(torch.equal(value, state[n]) for n, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(layer._forward_hooks for layer in module.modules())


def test_activation_layers_of_torch_and_timm_are_known() -> None:
    from timm.layers import HardSwish

    assert all(is_activation(layer) for layer in (nn.ReLU(), nn.GELU(), nn.SiLU(), HardSwish()))
    assert not any(is_activation(layer) for layer in (nn.Linear(1, 1), nn.MultiheadAttention(4, 1)))

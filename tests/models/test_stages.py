from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from finetune.models.heads import backbone_parameters
from finetune.models.stages import (
    HEAD_ONLY,
    TrainableStages,
    all_stages,
    backbone_stages,
    is_norm,
    norm_parameters,
    set_trainable,
)


def names_of(module: nn.Module) -> set[str]:
    return {name for name, _ in backbone_parameters(module)}


def test_the_stages_of_a_resnet_are_its_stem_and_its_layers() -> None:
    stages = backbone_stages(timm.create_model("resnet18", num_classes=3))
    assert [{name.split(".")[0] for name in stage} for stage in stages] == [
        {"conv1", "bn1"},
        {"layer1"},
        {"layer2"},
        {"layer3"},
        {"layer4"},
    ]


def test_the_norm_before_a_head_belongs_to_the_last_stage() -> None:
    module = timm.create_model("test_vit", num_classes=3)
    stages = backbone_stages(module)
    assert {"norm.weight", "norm.bias"} <= set(stages[-1])
    assert any(name.startswith("blocks.") for name in stages[-1])
    assert "pos_embed" in stages[0]


@pytest.mark.parametrize(
    "model",
    ["test_vit", "test_resnet", "test_convnext", "test_efficientnet", "vgg11"],
)
def test_every_parameter_of_the_backbone_is_in_one_stage(model: str) -> None:
    module = timm.create_model(model, num_classes=3)
    stages = backbone_stages(module)
    assert sorted(name for stage in stages for name in stage) == sorted(names_of(module))
    assert all(stages)
    assert len(stages) > 1


def test_a_network_without_stage_information_is_one_stage() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def get_classifier(self) -> nn.Module:
            return self.head

    assert backbone_stages(Plain()) == (("body.weight", "body.bias"),)


@pytest.mark.parametrize("model", ["test_resnet", "test_efficientnet"])
def test_norms_that_keep_their_statistics_train_their_scale_and_go_by_what_they_have(
    model: str,
) -> None:
    module = timm.create_model(model, num_classes=3)
    everything = all_stages(module)
    set_trainable(module, TrainableStages(names=everything.names, batch_statistics=False))
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    photos = torch.randn(4, 3, 64, 64) * 5 + 3
    outputs = module(photos)
    outputs.sum().backward()
    assert buffers
    assert all(torch.equal(value, buffers[name]) for name, value in module.named_buffers())
    norms = norm_parameters(module)
    assert all(p.grad is not None for name, p in module.named_parameters() if name in norms)
    # What a photo gives does not depend on the others of its batch.
    torch.testing.assert_close(outputs[:1], module(photos[:1]), atol=1e-4, rtol=1e-4)
    set_trainable(module, everything)
    module(photos)
    assert any(not torch.equal(value, buffers[name]) for name, value in module.named_buffers())


def test_what_is_frozen_is_in_eval_mode_and_has_no_gradient() -> None:
    module = timm.create_model("test_resnet", num_classes=3)
    *early, last = backbone_stages(module)
    set_trainable(module, all_stages(module, without=[name for stage in early for name in stage]))
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad == (name in last or name.startswith("fc.")), name
    for name, layer in module.named_modules():
        own = [n for n, _ in module.named_parameters() if n.startswith(f"{name}.")]
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.training == all(n in last for n in own), name
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module(torch.randn(4, 3, 64, 64)).sum().backward()
    changed = {n for n, v in module.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    first_of_last = last[0].split(".")[0]
    assert all(name.startswith(first_of_last) for name in changed)


def test_the_head_alone_leaves_all_statistics_as_they_are() -> None:
    module = timm.create_model("test_resnet", num_classes=3)
    set_trainable(module, HEAD_ONLY)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
    assert [n for n, p in module.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    assert module.fc.training


def test_frozen_norms_keep_their_statistics_while_the_rest_trains() -> None:
    module = timm.create_model("test_resnet", num_classes=3)
    norms = norm_parameters(module)
    set_trainable(module, all_stages(module, without=norms))
    expected = {
        f"{name}.{own}"
        for name, layer in module.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for own in ("weight", "bias")
    }
    assert norms == expected
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
    for name, parameter in module.named_parameters():
        assert (parameter.grad is None) == (name in norms), name


def test_thawing_again_is_complete() -> None:
    module = timm.create_model("test_vit", num_classes=3)
    set_trainable(module, HEAD_ONLY)
    set_trainable(module, all_stages(module))
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(layer.training for layer in module.modules())


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.BatchNorm2d(3), True),
        (nn.BatchNorm1d(3, affine=False), True),
        (nn.LayerNorm(3), True),
        (nn.GroupNorm(1, 3), True),
        (timm.layers.LayerNorm2d(3), True),
        (timm.layers.BatchNormAct2d(3), True),
        (timm.layers.RmsNorm(3), True),
        (timm.layers.NormMlpClassifierHead(8, 2, hidden_size=4), False),
        (nn.Linear(3, 3), False),
        (nn.Identity(), False),
    ],
)
def test_norms_are_known_by_what_they_are(layer: nn.Module, expected: bool) -> None:
    assert is_norm(layer) is expected

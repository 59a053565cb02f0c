from __future__ import annotations

import unicodedata

import pytest
import timm
import torch

from finetune.errors import ModelError
from finetune.models.heads import expand_head, output_layers

OLD = ("ant", "bee", unicodedata.normalize("NFD", "カワガラス"), "wasp")
NEW = ("bee", "カワガラス", "fly", "wasp")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnetv2_50x1_bit"])
def test_rows_of_labels_that_stay_are_the_same_bytes_at_their_new_place(name: str) -> None:
    module = timm.create_model(name, num_classes=len(OLD))
    before = output_layers(module, len(OLD))[0]
    assert before.bias is not None
    weight, bias = before.weight.detach().clone(), before.bias.detach().clone()
    growth = expand_head(module, OLD, NEW, seed=3)
    assert growth.kept == ("bee", "カワガラス", "wasp")
    assert growth.new == ("fly",)
    assert growth.dropped == ("ant",)
    after = output_layers(module, len(NEW))[0]
    assert after.bias is not None
    for new, old in {0: 1, 1: 2, 3: 3}.items():
        assert torch.equal(after.weight[new], weight[old])
        assert torch.equal(after.bias[new], bias[old])
    assert after.bias[2].item() == 0
    drawn = after.weight[2].detach()
    assert 0.001 < float(drawn.std()) < 0.02
    assert module.num_classes == len(NEW)
    size = module.pretrained_cfg["input_size"]
    with torch.inference_mode():
        assert module.eval()(torch.zeros(1, *size)).shape == (1, len(NEW))


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    rows = []
    for seed, disturb in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(disturb)
        module = timm.create_model("test_resnet", num_classes=2)
        state = torch.get_rng_state()
        expand_head(module, ("a", "b"), ("a", "b", "c"), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        rows.append(output_layers(module, 3)[0].weight[2].detach())
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_both_heads_of_a_distilled_network_grow() -> None:
    module = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=2)
    before = [layer.weight.detach().clone() for layer in output_layers(module, 2)]
    expand_head(module, ("a", "b"), ("b", "c", "d"), seed=0)
    layers = output_layers(module, 3)
    assert len(layers) == len(before) == 2
    for layer, old in zip(layers, before, strict=True):
        assert torch.equal(layer.weight[0], old[1])


def test_a_head_with_another_number_of_outputs_is_refused() -> None:
    module = timm.create_model("test_resnet", num_classes=5)
    with pytest.raises(ModelError) as caught:
        expand_head(module, ("a", "b"), ("b", "c"), seed=0)
    assert str(caught.value) == (
        "The head of this network does not end in a layer of 2 outputs, one a label, so it cannot "
        "be given other labels. Start a new run without --from."
    )

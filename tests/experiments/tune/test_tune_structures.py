from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

from finetune.experiments.tune.search_space import STRUCTURES, suggest_structure


@pytest.mark.parametrize("model", sorted(STRUCTURES))
@pytest.mark.parametrize("seed", range(2))
def test_every_structure_that_can_be_chosen_can_be_built(
    model: str, seed: int, by_chance: Callable[[int], Any]
) -> None:
    arguments = suggest_structure(model, by_chance(seed))
    if model == "vgg19_mnist":
        arguments["hidden"] = [64, 64, 64]
    assert isinstance(timm.create_model(model, num_classes=3, **arguments), torch.nn.Module)


def test_values_of_two_networks_that_share_a_name_are_told_apart(
    by_chance: Callable[[int], Any],
) -> None:
    chooser = by_chance(0)
    for model in STRUCTURES:
        suggest_structure(model, chooser)
    assert {name.partition(".")[0] for name in chooser.asked} == STRUCTURES.keys()
    rates = [name for name in chooser.asked if name.endswith(".drop_rate")]
    assert len(rates) == len(STRUCTURES)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetune.config import TrainConfig
from finetune.config_io import resolve
from finetune.experiments.tune.search_space import STRUCTURES, suggest, usual_values
from finetune.experiments.tune.space import config_of, space_for


def config(**flags: object) -> TrainConfig:
    return resolve({}, {"device": "cpu", **flags})


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_chosen_is_a_config_that_can_be_resolved(
    seed: int, by_chance: Callable[[int], Any]
) -> None:
    space = space_for(config(), models=["resnet18", "simple_cnn"], modes=["head", "full"])
    flags = suggest(space, by_chance(seed))
    chosen = config_of(space, flags)
    assert chosen.model.model == flags["model"]
    assert chosen.training.lr == flags["lr"] > 0
    if flags["model"] == "simple_cnn":
        assert chosen.model.weights == "none"
        assert chosen.training.mode == "full"
        assert chosen.model_args["widths"]
    else:
        assert chosen.model.weights is None
        assert chosen.model_args == {}


def test_a_value_has_the_same_choices_in_every_trial(by_chance: Callable[[int], Any]) -> None:
    space = space_for(
        config(), models=["resnet18", *sorted(STRUCTURES)], modes=["head", "full", "gradual"]
    )
    seen: dict[str, tuple[Any, ...]] = {}
    for seed in range(200):
        chooser = by_chance(seed)
        suggest(space, chooser)
        for name, asked in chooser.asked.items():
            assert seen.setdefault(name, asked) == asked


def test_what_is_given_is_not_searched(by_chance: Callable[[int], Any]) -> None:
    given = {"model": "resnet18", "mode": "full", "lr": 0.01, "size": 96, "augment": "light"}
    space = space_for(config(**given), fixed=frozenset({*given, "optimizer"}))
    chooser = by_chance(0)
    chosen = config_of(space, suggest(space, chooser))
    assert not {"model", "mode", "lr_factor", "size_scale", "augment", "optimizer"} & {
        *chooser.asked
    }
    assert (chosen.training.lr, chosen.pixels.size) == (0.01, 96)
    assert chosen.augmentation.augment == "light"


def test_a_search_begins_with_the_usual_settings() -> None:
    values = usual_values(space_for(config(model="resnet18"), modes=["head", "full"]))
    assert values == {
        "mode": "head",
        "size_scale": "own",
        "views": 1,
        "lr_factor": 1.0,
        "batch_size": 32,
        "label_smoothing": 0.0,
    }
    scratch = usual_values(space_for(config(model="resnet18", weights="none")))
    assert (scratch["weight_decay"], scratch["label_smoothing"]) == (0.05, 0.1)


def test_sizes_are_multiples_of_32_about_the_networks_own(by_chance: Callable[[int], Any]) -> None:
    space = space_for(config(model="resnet18"))
    sizes = {suggest(space, by_chance(seed)).get("size") for seed in range(40)}
    assert sizes == {None, 192, 288}


def test_small_images_have_one_size(by_chance: Callable[[int], Any]) -> None:
    chooser = by_chance(0)
    assert "size" not in suggest(space_for(config(model="cifar_resnet")), chooser)
    assert "size_scale" not in chooser.asked

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import timm

from finetune.config import TrainConfig
from finetune.errors import ConfigError, ModelError
from finetune.runs.tune_space import STRUCTURES, config_of, space_for, suggest, usual_values
from finetune.settings import resolve


class ByChance:
    """Chooses by chance, and notes what was asked for."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.asked: dict[str, tuple[Any, ...]] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.asked[name] = tuple(choices)
        return self.rng.choice(list(choices))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked[name] = (low, high, log)
        return self.rng.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.asked[name] = (low, high, log)
        return self.rng.randint(low, high)


def config(**flags: object) -> TrainConfig:
    return resolve({}, {"device": "cpu", **flags})


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_chosen_is_a_config_that_can_be_resolved(seed: int) -> None:
    space = space_for(config(), models=["resnet18", "simple_cnn"], modes=["head", "full"])
    flags = suggest(space, ByChance(seed))
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


@pytest.mark.parametrize("model", sorted(STRUCTURES))
@pytest.mark.parametrize("seed", range(2))
def test_every_structure_that_can_be_chosen_can_be_built(model: str, seed: int) -> None:
    space = space_for(config(model=model))
    flags = suggest(space, ByChance(seed))
    if model == "vgg19_mnist":
        flags["model_arg"]["hidden"] = [64, 64, 64]
    assert isinstance(timm.create_model(model, num_classes=3, **flags["model_arg"]), object)


def test_a_value_has_the_same_choices_in_every_trial() -> None:
    space = space_for(
        config(), models=["resnet18", *sorted(STRUCTURES)], modes=["head", "full", "gradual"]
    )
    seen: dict[str, tuple[Any, ...]] = {}
    for seed in range(200):
        chooser = ByChance(seed)
        suggest(space, chooser)
        for name, asked in chooser.asked.items():
            assert seen.setdefault(name, asked) == asked


def test_what_is_given_is_not_searched() -> None:
    given = {"model": "resnet18", "mode": "full", "lr": 0.01, "size": 96, "augment": "light"}
    space = space_for(config(**given), fixed=frozenset({*given, "optimizer"}))
    chooser = ByChance(0)
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


def test_on_a_cpu_the_head_alone_is_searched_unless_modes_are_named() -> None:
    assert space_for(config(model="resnet18")).modes == ("head",)
    assert space_for(config(model="resnet18", weights="none")).modes == ("full",)
    assert space_for(config(model="resnet18"), modes=["full"]).modes == ("full",)
    assert space_for(config(model="resnet18", mode="gradual")).modes == ("gradual",)


def test_sizes_are_multiples_of_32_about_the_networks_own() -> None:
    space = space_for(config(model="resnet18"))
    sizes = {suggest(space, ByChance(seed)).get("size") for seed in range(40)}
    assert sizes == {None, 192, 288}


def test_small_images_have_one_size() -> None:
    chooser = ByChance(0)
    assert "size" not in suggest(space_for(config(model="cifar_resnet")), chooser)
    assert "size_scale" not in chooser.asked


@pytest.mark.parametrize(
    ("flags", "choices", "message"),
    [
        (
            {"model": "resnet18"},
            {"models": ["resnet34"]},
            "--models is a choice, --model is none; give one of the two.",
        ),
        (
            {"mode": "head"},
            {"modes": ["full"]},
            "--modes is a choice, --mode is none; give one of the two.",
        ),
        (
            {"weights": "w.pth"},
            {"models": ["resnet18", "resnet34"]},
            "--weights w.pth is one file, but there are 2 models to choose from; leave it out, or "
            "name one model with --model.",
        ),
        ({}, {"modes": ["all"]}, "--modes all is none of head, full, gradual."),
        (
            {"model_arg": {"widths": [4]}},
            {"models": ["resnet18", "simple_cnn"]},
            "--model-arg is for one network; name it with --model.",
        ),
    ],
)
def test_choices_that_contradict_each_other_are_refused(
    flags: dict[str, Any], choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        space_for(config(**flags), **choices)
    assert str(caught.value) == message


def test_an_unknown_model_is_refused_before_any_trial() -> None:
    with pytest.raises(ModelError, match="--model resnt18: there is no such model; did you mean"):
        space_for(config(), models=["resnt18"])

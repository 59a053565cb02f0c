from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
import timm
import torch
from optuna.distributions import BaseDistribution

from finetune.config import TrainConfig
from finetune.config_io import resolve
from finetune.errors import ConfigError, ModelError
from finetune.experiments.tune.space import (
    STRUCTURES,
    config_of,
    default_params,
    rounded,
    space_for,
    suggest,
    suggest_structure,
)


def config(**flags: object) -> TrainConfig:
    return resolve({}, {"device": "cpu", **flags})


def test_a_cpu_searches_head_mode_alone_unless_modes_are_given() -> None:
    assert space_for(config(model="resnet18")).modes == ("head",)
    assert space_for(config(model="resnet18", weights="none")).modes == ("full",)
    assert space_for(config(model="resnet18"), modes=["full"]).modes == ("full",)
    assert space_for(config(model="resnet18", mode="gradual")).modes == ("gradual",)


def test_the_models_that_are_installed_are_searched_by_default() -> None:
    space = space_for(config())
    assert "tf_efficientnet_lite2" in space.weights  # a package that finetune requires
    assert default_params(space)


@pytest.mark.parametrize(
    ("flags", "choices", "message"),
    [
        (
            {"model": "resnet18"},
            {"models": ["resnet34"]},
            "--models lists choices and --model sets one; give only one of the two.",
        ),
        (
            {"mode": "head"},
            {"modes": ["full"]},
            "--modes lists choices and --mode sets one; give only one of the two.",
        ),
        (
            {"weights": "w.pth"},
            {"models": ["resnet18", "resnet34"]},
            "--weights w.pth is one file, but there are 2 models to choose from; leave it out, or "
            "choose one model with --model.",
        ),
        ({}, {"modes": ["all"]}, "--modes all is not one of head, full, gradual."),
        (
            {"model_arg": {"widths": [4]}},
            {"models": ["resnet18", "simple_cnn"]},
            "--model-arg is for one model; choose it with --model.",
        ),
    ],
)
def test_contradicting_choices_are_refused(
    flags: dict[str, Any], choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        space_for(config(**flags), **choices)
    assert str(caught.value) == message


def test_an_unknown_model_is_refused_before_any_trial() -> None:
    with pytest.raises(ModelError, match="--model resnt18: there is no such model; did you mean"):
        space_for(config(), models=["resnt18"])


@pytest.mark.parametrize("seed", range(20))
def test_every_suggestion_resolves_to_a_config(
    seed: int, random_trial: Callable[[int], optuna.Trial]
) -> None:
    space = space_for(config(), models=["resnet18", "simple_cnn"], modes=["head", "full"])
    flags = suggest(space, random_trial(seed))
    chosen = config_of(space, flags)
    assert chosen.model.model == flags["model"]
    assert chosen.training.lr == flags.get("lr")
    assert ("lr" in flags) == ("batch_size" in flags) == (chosen.training.mode == "full")
    if flags["model"] == "simple_cnn":
        assert chosen.model.weights == "none"
        assert chosen.training.mode == "full"
        assert chosen.model_args["widths"]
    else:
        assert chosen.model.weights is None
        assert chosen.model_args == {}


def test_a_parameter_has_the_same_choices_in_every_trial(
    random_trial: Callable[[int], optuna.Trial],
) -> None:
    space = space_for(
        config(), models=["resnet18", *sorted(STRUCTURES)], modes=["head", "full", "gradual"]
    )
    seen: dict[str, BaseDistribution] = {}
    for seed in range(100):
        trial = random_trial(seed)
        suggest(space, trial)
        for name, distribution in trial.distributions.items():
            assert seen.setdefault(name, distribution) == distribution


def test_fixed_settings_are_not_searched(random_trial: Callable[[int], optuna.Trial]) -> None:
    given = {"model": "resnet18", "mode": "full", "lr": 0.01, "size": 96, "augment": "light"}
    space = space_for(config(**given), fixed=frozenset({*given, "optimizer"}))
    trial = random_trial(0)
    chosen = config_of(space, suggest(space, trial))
    assert not {"model", "mode", "lr_factor", "size_scale", "augment", "optimizer"} & {
        *trial.distributions
    }
    assert (chosen.training.lr, chosen.pixels.size) == (0.01, 96)
    assert chosen.augmentation.augment == "light"


def test_the_first_trial_has_the_default_settings() -> None:
    values = default_params(space_for(config(model="resnet18"), modes=["head", "full"]))
    assert values == {
        "mode": "head",
        "size_scale": "own",
        "views": 1,
        "label_smoothing": 0.0,
    }
    scratch = default_params(space_for(config(model="resnet18", weights="none")))
    assert (scratch["weight_decay"], scratch["label_smoothing"]) == (0.05, 0.1)


def test_sizes_are_multiples_of_32_around_the_networks_own(
    random_trial: Callable[[int], optuna.Trial],
) -> None:
    space = space_for(config(model="resnet18"))
    sizes = {suggest(space, random_trial(seed)).get("size") for seed in range(40)}
    assert sizes == {None, 192, 288}


def test_small_images_have_one_size(random_trial: Callable[[int], optuna.Trial]) -> None:
    trial = random_trial(0)
    assert "size" not in suggest(space_for(config(model="cifar_resnet")), trial)
    assert "size_scale" not in trial.distributions


@pytest.mark.parametrize("model", sorted(STRUCTURES))
@pytest.mark.parametrize("seed", range(2))
def test_every_suggested_structure_can_be_built(
    model: str, seed: int, random_trial: Callable[[int], optuna.Trial]
) -> None:
    arguments = suggest_structure(model, random_trial(seed))
    if model == "vgg19_mnist":
        arguments["hidden"] = [64, 64, 64]
    assert isinstance(timm.create_model(model, num_classes=3, **arguments), torch.nn.Module)


def test_parameters_of_different_networks_have_different_names(
    random_trial: Callable[[int], optuna.Trial],
) -> None:
    trial = random_trial(0)
    for model in STRUCTURES:
        suggest_structure(model, trial)
    assert {name.partition(".")[0] for name in trial.distributions} == STRUCTURES.keys()
    rates = [name for name in trial.distributions if name.endswith(".drop_rate")]
    assert len(rates) == len(STRUCTURES)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.00123456, 0.00123), (1.0, 1.0), (0.19999, 0.2), (12345.0, 12300.0), (0.0, 0.0)],
)
def test_numbers_are_rounded_to_three_digits(value: float, written: float) -> None:
    assert rounded(value) == written

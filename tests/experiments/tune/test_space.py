from __future__ import annotations

from typing import Any

import pytest

from finetune.config import TrainConfig
from finetune.config_io import resolve
from finetune.errors import ConfigError, ModelError
from finetune.experiments.tune.space import space_for


def config(**flags: object) -> TrainConfig:
    return resolve({}, {"device": "cpu", **flags})


def test_on_a_cpu_the_head_alone_is_searched_unless_modes_are_named() -> None:
    assert space_for(config(model="resnet18")).modes == ("head",)
    assert space_for(config(model="resnet18", weights="none")).modes == ("full",)
    assert space_for(config(model="resnet18"), modes=["full"]).modes == ("full",)
    assert space_for(config(model="resnet18", mode="gradual")).modes == ("gradual",)


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

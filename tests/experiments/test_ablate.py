from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config import TrainConfig
from finetune.config_io import resolve
from finetune.errors import ConfigError
from finetune.experiments.ablate import parse_sweep, with_value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size=32,128,224", ("size", ["32", "128", "224"])),
        ("--batch-size = 8, 16", ("batch_size", ["8", "16"])),
        ("mobius_bound=1.5,2", ("mobius_bound", ["1.5", "2"])),
        ("model=resnet18,resnet50", ("model", ["resnet18", "resnet50"])),
    ],
)
def test_a_sweep_is_a_setting_and_its_values(text: str, expected: tuple[str, list[str]]) -> None:
    assert parse_sweep(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size", "--over size is not NAME=VALUE,VALUE, such as size=32,128,224."),
        ("size=", "--over size= is not NAME=VALUE,VALUE, such as size=32,128,224."),
        ("size=32,,64", "--over size=32,,64 is not NAME=VALUE,VALUE, such as size=32,128,224."),
        ("sice=1,2", "--over sice=1,2: there is no setting 'sice'. See: finetune train --help"),
        ("seed=1,2", "--over seed: every value is trained with several seeds; see --seeds."),
    ],
)
def test_what_is_no_sweep_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_sweep(text)
    assert str(error.value) == message


def test_one_setting_changes_and_the_others_stay() -> None:
    config = resolve({"recipe": {"hue": 0.1}}, {"model": "resnet18", "epochs": 3})
    varied = with_value(config, "size", "64")
    assert varied.pixels.size == 64
    assert with_value(varied, "size", "32") == with_value(config, "size", "32")
    assert (varied.model, varied.training, varied.recipe) == (
        config.model,
        config.training,
        config.recipe,
    )


@pytest.mark.parametrize(
    ("name", "text", "concern", "value"),
    [
        ("lr", "0.01", "training", 0.01),
        ("lr", "1", "training", 1.0),
        ("weights", "none", "model", "none"),
        ("catalog", "here.sqlite3", "collection", Path("here.sqlite3")),
        ("fit", "pad", "pixels", "pad"),
        ("freeze_norm", "true", "optimization", True),
    ],
)
def test_values_get_the_settings_own_type(
    name: str, text: str, concern: str, value: object
) -> None:
    found = getattr(getattr(with_value(TrainConfig(), name, text), concern), name)
    assert (found, type(found)) == (value, type(value))


def test_a_number_of_the_recipe_can_be_varied() -> None:
    config = with_value(resolve({"recipe": {"hue": 0.1}}), "mobius_bound", "1.5")
    assert config.recipe == {"hue": 0.1, "mobius_bound": 1.5}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("size", "x", "--size 'x' is not a whole number."),
        ("size", "32.5", "--size '32.5' is not a whole number."),
        ("lr", "-1", "--lr -1.0 must be greater than 0."),
        ("fit", "cut", "--fit cut is none of crop, pad, squash."),
    ],
)
def test_a_value_that_cannot_work_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_value(TrainConfig(), name, text)
    assert str(error.value) == message

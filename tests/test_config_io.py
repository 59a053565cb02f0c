from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config import CollectionConfig, TrainConfig
from finetune.config_io import problems, read_toml, resolve, settings, to_dict
from finetune.errors import ConfigError


def test_flags_win_over_file_and_file_over_defaults() -> None:
    config = resolve({"training": {"epochs": 7, "lr": 0.5}}, {"lr": 0.25})
    assert (config.training.epochs, config.training.lr, config.training.views) == (7, 0.25, 1)


def test_a_flag_of_none_is_not_given() -> None:
    assert resolve({"training": {"epochs": 7}}, {"epochs": None}).training.epochs == 7


def test_defaults_have_no_problems() -> None:
    assert problems(TrainConfig()) == []


def test_every_setting_has_help_and_a_name_of_its_own() -> None:
    found = list(settings())
    assert len({setting.name for setting in found}) == len(found)
    assert all(setting.help.endswith(".") for setting in found)


def test_all_bad_values_are_named_in_one_message() -> None:
    with pytest.raises(ConfigError) as error:
        resolve({}, {"lr": -1.0, "epochs": 0})
    assert str(error.value) == "--epochs 0 must be at least 1; --lr -1.0 must be greater than 0."


def test_nan_and_infinity_are_refused() -> None:
    with pytest.raises(ConfigError, match="--weight-decay inf is not a finite number"):
        resolve({}, {"weight_decay": float("inf")})
    with pytest.raises(ConfigError, match="--lr nan must be greater than 0"):
        resolve({}, {"lr": float("nan")})


def test_a_section_that_is_no_section_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        resolve({"training": [1]}, {})
    assert str(error.value) == "[training] must be a section of settings, not [1]."


def test_toml_that_is_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "deep.toml"
    file.write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match=r"deep.toml is (nested too deeply|not TOML)"):
        read_toml(file)


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(ConfigError) as error:
        resolve({"trainig": {}, "training": {"epoch": 3}, "model": {"size": 3}}, {})
    assert str(error.value) == (
        "unknown section [trainig] (did you mean 'training'?); "
        "unknown setting 'epoch' in [training] (did you mean 'epochs'?); "
        "unknown setting 'size' in [model]; it belongs in [pixels]."
    )


def test_a_word_that_is_no_choice_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="--fit stretch is not one of crop, pad, squash"):
        resolve({}, {"fit": "stretch"})


def test_wrong_types_from_a_file_are_named() -> None:
    with pytest.raises(ConfigError) as error:
        resolve({"training": {"epochs": "many", "batch_size": True, "views": None}}, {})
    assert str(error.value) == (
        "--epochs 'many' is not a whole number; --views needs a value; "
        "--batch-size True is not a whole number."
    )


def test_parts_must_leave_something_to_train_on() -> None:
    with pytest.raises(ConfigError, match="--validation and --test together leave nothing"):
        resolve({}, {"validation": 0.5, "test": 0.5})


def test_a_config_survives_json(tmp_path: Path) -> None:
    config = resolve({"recipe": {"flip_probability": 0.5}}, {"catalog": Path("a/b"), "epochs": 3})
    again = resolve(to_dict(config))
    assert again == config
    assert isinstance(again.collection, CollectionConfig)
    assert again.collection.catalog == Path("a/b")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_toml_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes("# カワセミ\r\n[training]\r\nepochs = 4\r\n".encode(encoding))
    assert read_toml(file) == {"training": {"epochs": 4}}


def test_toml_errors_name_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[training\nepochs = 1\n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not TOML: .*line 1"):
        read_toml(file)
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory\."):
        read_toml(tmp_path / "none.toml")
    file.write_text("[training]\nepochs = 4\n")
    assert resolve(read_toml(file)).training.epochs == 4

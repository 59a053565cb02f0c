from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.config import TrainConfig
from finetune.config_io import read_toml, resolve, settings_toml


def test_the_defaults_need_no_line() -> None:
    assert settings_toml(TrainConfig()) == ""


@pytest.mark.parametrize(
    "flags",
    [
        {"lr": 1e-05, "model": "simple_cnn", "model_arg": {"widths": [16, 32], "x": "ta\"n'h"}},
        {"weights": 'C:\\photos\\"new"\tカワセミ\x7f\n', "multi_label": True, "test": 0},
        {"catalog": Path("/tmp/a b"), "seed": 3, "batch_size": 16, "label_smoothing": 0.0},
    ],
)
def test_a_config_comes_back_as_it_was(flags: dict[str, Any], tmp_path: Path) -> None:
    config = resolve({"recipe": {"mobius_bound": 1.5, "flip": False}}, flags)
    file = tmp_path / "best.toml"
    file.write_text(settings_toml(config, comment="a\n\nb"), encoding="utf-8")
    assert resolve(read_toml(file)) == config
    assert file.read_text(encoding="utf-8").startswith("# a\n#\n# b\n")


@given(
    st.floats(min_value=1e-300, max_value=1e300),
    st.text(st.characters(codec="utf-8"), min_size=1),
    st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers()),
)
def test_any_number_text_and_argument_comes_back(
    lr: float, weights: str, arguments: dict[str, int]
) -> None:
    import tomllib

    config = resolve({}, {"lr": lr, "weights": weights, "model_arg": arguments})
    assert resolve(tomllib.loads(settings_toml(config))) == config


def test_named_settings_are_written_even_where_they_are_the_default() -> None:
    assert settings_toml(TrainConfig(), always={"seed"}) == "[machine]\nseed = 0\n"

from __future__ import annotations

import json

import pytest

from finetune.errors import ConfigError
from finetune.photos.preprocessing import Preprocessing


def test_a_run_from_before_channels_has_three() -> None:
    older = {"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9}
    preprocessing = Preprocessing.from_dict(older)
    assert (preprocessing.channels, preprocessing.working_size) == (3, 249)


def test_a_gray_spec_goes_through_json() -> None:
    preprocessing = Preprocessing(size=28, channels=1, mean=(0.1307,), std=(0.3081,), crop_pct=1.0)
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(ConfigError) as error:
        Preprocessing(size=28, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    message = f"--channels {channels}: a network sees photos in 1 channel (gray) or 3."
    assert str(error.value) == message


def test_a_mean_is_needed_for_every_channel() -> None:
    with pytest.raises(ConfigError) as error:
        Preprocessing(size=28, channels=1)
    assert str(error.value) == "preprocessing has 3 means and 3 deviations for 1 channels."

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from finetune.curation.crop_policy import (
    CropPolicyConfig,
    load_policy,
    read_policy,
    save_policy,
)
from finetune.curation.embedding import DEFAULT_BACKBONE
from finetune.curation.saliency import SubjectFinder
from finetune.demo_data import DemoCollection
from finetune.errors import ConfigError
from finetune.models.factory import LoadedModel
from finetune.photos.crops import Crop
from finetune.photos.decode.decoder import decode_photo


def test_a_spec_survives_json() -> None:
    config = CropPolicyConfig(method="saliency", model="resnet50", weights="w.pth", digest="00ff")
    assert CropPolicyConfig.from_dict({**config.to_dict(), "of a later version": 1}) == config


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        CropPolicyConfig.from_dict({"method": "magic"})
    assert str(caught.value) == (
        "the crop policy 'magic' is not one of saliency, center, detector."
    )


def test_a_loaded_policy_gives_the_finders_crops(
    demo_collection: DemoCollection, backbone: LoadedModel
) -> None:
    policy, config = load_policy(CropPolicyConfig(method="saliency"))
    path = demo_collection.folder / demo_collection.photos[0].path
    expected = SubjectFinder(backbone).crop_of(path)
    assert policy(path) == policy(path.read_bytes()) == policy(decode_photo(path)) == expected
    assert config.model == DEFAULT_BACKBONE
    again, same = load_policy(config)
    assert same == config
    assert again(path) == expected


def test_the_middle_needs_no_backbone() -> None:
    policy, config = load_policy(CropPolicyConfig(method="center"))
    assert policy(np.zeros((4, 6, 3), np.uint8)) == Crop()
    assert config == CropPolicyConfig(method="center")


def test_other_weights_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "finetune"):
        load_policy(CropPolicyConfig(method="saliency", digest="0" * 16))
    assert caplog.messages == [
        f"The crops were proposed by other weights of {DEFAULT_BACKBONE} than the installed ones; "
        "new crops may differ a little."
    ]


def test_the_backbone_of_earlier_versions_is_replaced_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = CropPolicyConfig(method="saliency", model="finetune_small", digest="1" * 16)
    with caplog.at_level(logging.WARNING, "finetune"):
        _, config = load_policy(before)
    assert config.model == DEFAULT_BACKBONE
    assert caplog.messages == [
        "The crops were proposed by finetune_small, which finetune no longer has; "
        f"{DEFAULT_BACKBONE} proposes new crops, which may differ."
    ]


def test_a_collection_keeps_its_crop_policy(tmp_path: Path) -> None:
    assert read_policy(tmp_path) is None
    config = CropPolicyConfig(method="saliency", model="finetune_small", digest="1" * 16)
    save_policy(tmp_path, config)
    assert read_policy(tmp_path) == config
    (tmp_path / ".finetune" / "crop-policy.json").write_text('{"method": "magic"}')
    assert read_policy(tmp_path) is None
    save_policy(tmp_path, None)
    save_policy(tmp_path, None)
    assert read_policy(tmp_path) is None

"""Pairs of backbones with one head."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from finetune.errors import ModelError
from finetune.models.factory import ModelRequest, create_model, rebuild, replace_head
from finetune.models.feature_backends import features_of
from finetune.models.heads import backbone_parameters
from finetune.models.stages import backbone_stages

NAME = "test_resnet+test_efficientnet"


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for number, name in enumerate(NAME.split("+")):
        torch.manual_seed(number)
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return folder


def test_features_are_those_of_both_networks_in_their_own_normalization(weights_dir: Path) -> None:
    pair = create_model(ModelRequest(name=NAME, weights_dir=weights_dir, size=64))
    names = NAME.split("+")
    own = [
        create_model(ModelRequest(name=name, weights_dir=weights_dir, size=64)) for name in names
    ]
    assert pair.origin == " + ".join(str(weights_dir / f"{name}.safetensors") for name in names)
    unit = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def normalized(index: int) -> torch.Tensor:
        wanted = own[index].preprocessing
        mean, std = (torch.tensor(v)[:, None, None] for v in (wanted.mean, wanted.std))
        return (unit - mean) / std

    with torch.inference_mode():
        found = features_of(pair.module.eval(), normalized(0))
        expected = [features_of(own[k].module.eval(), normalized(k)) for k in range(2)]
    assert own[0].preprocessing.mean == pair.preprocessing.mean
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=1e-4, atol=1e-5)


def test_a_trained_pair_is_rebuilt_from_its_tensors(weights_dir: Path) -> None:
    pair = create_model(ModelRequest(name=NAME, weights_dir=weights_dir, size=64))
    replace_head(pair, 3, seed=0)
    again = rebuild(NAME, 3, 64, pair.module.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again.eval()(images), pair.module.eval()(images))
    stages = backbone_stages(again)
    trained = {name for name, _ in backbone_parameters(again)}
    assert {name for stage in stages for name in stage} == trained


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_resnet+test_vit", "test_vit takes images of one size only"),
        ("test_resnet+nonsense", "--model nonsense: there is no such model"),
    ],
)
def test_networks_that_cannot_be_paired_are_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create_model(ModelRequest(name=name, weights="none"))


def test_one_weights_file_does_not_fit_a_pair(weights_dir: Path) -> None:
    file = str(weights_dir / "test_resnet.safetensors")
    with pytest.raises(ModelError, match="--weights-dir"):
        create_model(ModelRequest(name=NAME, weights=file))

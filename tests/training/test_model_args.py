from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from finetune import Predictor, train
from finetune.cli.command import model_arguments
from finetune.config_io import resolve
from finetune.errors import ConfigError, ModelError
from finetune.models.factory import ModelRequest, create_model, rebuild
from finetune.runs.loading import open_trained
from finetune.training.events import EpochDone, Event
from finetune.training.train import resume

ARGUMENTS = {"widths": [4, 8, 12], "kernel_size": 3, "hidden": [16]}
FLAGS = {
    "model": "simple_cnn",
    "weights": "none",
    "size": 32,
    "device": "cpu",
    "epochs": 3,
    "batch_size": 8,
    "model_arg": ARGUMENTS,
}


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    return make_photos({"ant": 10, "bee": 10})


def test_a_run_remembers_its_networks_arguments(photos: Path, tmp_path: Path) -> None:
    result = train(photos, resolve({}, FLAGS), run=str(tmp_path / "r"))
    description = result.run.read(result.run.config_file)
    assert description["settings"]["model_args"] == ARGUMENTS
    module = open_trained(result.run).module
    shapes = [tuple(p.shape) for n, p in module.named_parameters() if n.endswith("weight")]
    assert shapes[:3] == [(4, 3, 3, 3), (8, 4, 3, 3), (12, 8, 3, 3)]
    photo = next(photos.rglob("*.jpg"))
    assert Predictor.load(result.run.path)(photo).label in ("ant", "bee")


def test_plain_timm_opens_such_a_run(photos: Path, tmp_path: Path) -> None:
    result = train(photos, resolve({}, FLAGS), run=str(tmp_path / "r"))
    own = open_trained(result.run).module
    other = timm.create_model(f"local-dir:{result.run.timm_folder}", pretrained=True).eval()
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(own(pixels), other(pixels))


def test_an_interrupted_run_goes_on_with_them(photos: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            raise StopError

    with pytest.raises(StopError):
        train(photos, resolve({}, FLAGS), run=str(tmp_path / "stopped"), callback=stop)
    resume(tmp_path / "stopped")
    train(photos, resolve({}, FLAGS), run=str(tmp_path / "whole"))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("stopped", "whole"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_arguments_come_back_through_rebuild() -> None:
    made = create_model(ModelRequest(name="simple_cnn", weights="none", args=ARGUMENTS)).module
    again = rebuild("simple_cnn", 10, 32, made.state_dict(), ARGUMENTS)
    assert [p.shape for p in again.parameters()] == [p.shape for p in made.parameters()]


def test_arguments_that_a_network_does_not_take_are_named() -> None:
    with pytest.raises(ModelError) as caught:
        create_model(ModelRequest(name="test_resnet", weights="none", args={"petals": 5}))
    assert str(caught.value).startswith("--model test_resnet takes no argument 'petals'. ")


def test_a_networks_own_complaint_is_passed_on() -> None:
    with pytest.raises(ModelError, match="kernel_size must be odd, not 4"):
        create_model(ModelRequest(name="simple_cnn", weights="none", args={"kernel_size": 4}))


def test_arguments_on_the_command_line_are_laid_over_those_of_a_file() -> None:
    config = resolve(
        {"model_args": {"kernel_size": 3, "activation": "tanh"}},
        {"model_arg": model_arguments(["kernel-size=7", "widths=8,16"])},
    )
    assert config.model_args == {"kernel_size": 7, "activation": "tanh", "widths": [8, 16]}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("x=3", 3),
        ("x=0.5", 0.5),
        ("x=true", True),
        ("x=[1, 2]", [1, 2]),
        ("x=1,2", [1, 2]),
        ("x=8,", [8]),
        ("x=[]", []),
        ("x=tanh", "tanh"),
        ("x='5'", "5"),
        ("x=a=b", "a=b"),
    ],
)
def test_values_are_read_as_toml_has_them(word: str, value: object) -> None:
    assert model_arguments([word]) == {"x": value}


@pytest.mark.parametrize("word", ["widths", "=3", "x="])
def test_what_is_no_argument_is_refused(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model_arguments([word])
    assert str(caught.value) == f"--model-arg {word} is not NAME=VALUE, such as widths=16,32."

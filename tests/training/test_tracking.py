from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import tracking
from accelerate.state import PartialState
from torch import nn

from finetune import TrainConfig
from finetune.config import TrackingConfig
from finetune.config_io import resolve
from finetune.errors import ConfigError, MissingExtra
from finetune.photos.preprocessing import Preprocessing
from finetune.training.events import EpochDone, Event
from finetune.training.tracking import (
    MAX_VALUES,
    Trackers,
    activations,
    as_pixels,
    check_tracking,
    tracker_names,
)
from finetune.training.train import resume, train

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

Settings = dict[str, Any]


def events_of(run: Path) -> Any:
    read = accumulator.EventAccumulator(
        str(run / "tensorboard"), size_guidance={"images": 0, "histograms": 0}
    )
    read.Reload()
    return read


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    return make_photos({"ant": 10, "bee": 10, "カワセミ": 10})


@pytest.mark.parametrize("mode", ["head", "full"])
def test_tensorboard_shows_what_the_log_says(
    photos: Path, tmp_path: Path, tiny_settings: Settings, mode: str
) -> None:
    flags = {**tiny_settings, "mode": mode, "track": "tensorboard", "track_activations": True}
    metrics = {"photos": lambda logits, targets: len(targets)}
    result = train(photos, resolve({}, flags), run="r", runs=tmp_path / "runs", metrics=metrics)
    read = events_of(result.run.path)
    log = list(result.run.read_log())
    steps = [line["step"] for line in log]
    assert len(steps) == (3 if mode == "full" else 1)
    for name, key in {
        "train/loss": "train_loss",
        "validation/loss": "validation_loss",
        "validation/accuracy": "validation_accuracy",
        "train/lr": "lr",
    }.items():
        scalars = read.Scalars(name)
        assert [event.step for event in scalars] == steps
        np.testing.assert_allclose(
            [event.value for event in scalars], [line[key] for line in log], rtol=1e-6
        )
    count = result.metrics["validation"]["photos"]
    assert [event.value for event in read.Scalars("validation/photos")] == [count] * len(steps)
    (final,) = read.Scalars("final/test/top1")
    assert final.value == pytest.approx(result.metrics["test"]["top1"])
    assert [image.step for image in read.Images("validation/confusion")] == steps
    (sample,) = read.Images("photos/augmented")
    side = tiny_settings["size"]
    # Eight photos a step: three columns, three rows.
    assert (sample.width, sample.height) == (3 * (side + 4) + 4, 3 * (side + 4) + 4)
    histograms = read.Tags()["histograms"]
    assert histograms
    shown = [event.step for event in read.Histograms(histograms[0])]
    assert shown == (steps if mode == "full" else steps[:1])
    zeros = [event.value for event in read.Scalars(histograms[0].replace("activations", "zeros"))]
    assert all(0 <= value <= 1 for value in zeros)


@pytest.mark.parametrize("mode", ["head", "full"])
def test_tracking_changes_nothing_of_the_weights(
    photos: Path, tmp_path: Path, tiny_settings: Settings, mode: str
) -> None:
    flags = {**tiny_settings, "mode": mode, "epochs": 2}
    plain = train(photos, resolve({}, flags), runs=tmp_path / "runs")
    flags |= {"track": "tensorboard", "track_activations": True}
    tracked = train(photos, resolve({}, flags), runs=tmp_path / "runs")
    assert tracked.run.model_file.read_bytes() == plain.run.model_file.read_bytes()


def test_an_interrupted_training_becomes_one_curve(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    class StopError(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            raise StopError

    config = resolve({}, {**tiny_settings, "mode": "full", "track": "tensorboard"})
    with pytest.raises(StopError):
        train(photos, config, run="r", runs=tmp_path / "runs", callback=stop)
    result = resume(tmp_path / "runs" / "r")
    read = events_of(result.run.path)
    steps = [line["step"] for line in result.run.read_log()]
    assert [event.step for event in read.Scalars("validation/loss")] == steps
    assert len(read.Images("photos/augmented")) == 1


def test_a_bad_tracker_is_refused_before_anything_is_made(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    config = resolve({}, {**tiny_settings, "track": "tensorflow"})
    with pytest.raises(ConfigError, match="--track tensorflow is not one of tensorboard, wandb"):
        train(photos, config, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError) as caught:
        check_tracking(TrackingConfig(track_activations=True))
    assert str(caught.value) == ("--track-activations needs --track, such as --track tensorboard.")
    assert check_tracking(TrainConfig().tracking) == ()


def test_inputs_become_the_pixels_that_they_were_made_of() -> None:
    pixels = torch.randint(0, 256, (3, 3, 5, 5), generator=torch.Generator().manual_seed(0))
    preprocessing = Preprocessing(size=5)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    shown = as_pixels((pixels / 255 - mean) / std, preprocessing)
    np.testing.assert_array_equal(shown, pixels.permute(0, 2, 3, 1).numpy())
    gray = Preprocessing(size=5, channels=1, mean=(0.5,), std=(0.5,))
    assert as_pixels(torch.zeros(2, 1, 5, 5), gray).shape == (2, 5, 5, 3)


def test_zeros_and_values_are_those_of_the_layers() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Tanh())
    inputs = torch.randn(10, 4, generator=torch.Generator().manual_seed(2))
    found = activations(module, inputs)
    assert [a.layer for a in found] == ["1", "3"]
    first = np.maximum(
        inputs.numpy() @ module.get_parameter("0.weight").detach().numpy().T
        + module.get_parameter("0.bias").detach().numpy(),
        0,
    )
    assert found[0].zeros == np.float32((first == 0).mean())
    np.testing.assert_allclose(found[0].values, first.ravel(), atol=1e-6)
    assert found[1].zeros == 0


def test_layers_have_their_names_in_the_networks_table() -> None:
    module = timm.create_model("cifar10_tutorial_cnn")
    found = activations(module, torch.randn(2, 3, 24, 24))
    names = ["conv1", "conv2", "local3", "local4", "softmax_linear"]
    assert [layer.layer for layer in found] == names


def test_a_large_layer_gives_an_even_sample() -> None:
    module = nn.Sequential(nn.ReLU())
    inputs = torch.arange(MAX_VALUES * 2 + 1, dtype=torch.float32)[None]
    (found,) = activations(module, inputs)
    assert found.values.tolist() == list(range(0, MAX_VALUES * 2 + 1, 3))


def test_the_network_comes_back_as_it_was() -> None:
    module = timm.create_model("test_resnet", num_classes=3).train()
    module.layer1.eval()
    before = [layer.training for layer in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    found = activations(module, torch.randn(2, 3, 64, 64, generator=torch.Generator()))
    assert found
    assert [layer.training for layer in module.modules()] == before
    assert all(torch.equal(value, state[n]) for n, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(layer._forward_hooks for layer in module.modules())


@pytest.fixture(autouse=True)
def _state() -> None:
    PartialState(cpu=True)


class StandIn:
    """In the place of one of accelerate's tracker classes: keeps what it is told."""

    made: list[StandIn]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs
        self.calls: list[tuple[str, Any]] = []
        type(self).made.append(self)

    def start(self) -> None:
        self.calls.append(("start", None))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.calls.append(("settings", values))

    def log(self, values: dict[str, Any], step: int) -> None:
        self.calls.append(("log", (values, step)))

    def log_images(self, values: dict[str, Any], step: int) -> None:
        self.calls.append(("images", (values, step)))

    def log_artifact(self, path: str, artifact_path: str) -> None:
        self.calls.append(("artifact", (Path(path).name, Path(path).is_file(), artifact_path)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    StandIn.made = []
    monkeypatch.setattr(tracking, "WandBTracker", StandIn)
    monkeypatch.setattr(tracking, "MLflowTracker", StandIn)
    return StandIn.made


def test_names_are_read_from_a_list_with_commas() -> None:
    assert tracker_names(None) == ()
    assert tracker_names(" tensorboard ,") == ("tensorboard",)
    with pytest.raises(ConfigError) as caught:
        tracker_names("tensorbord")
    assert str(caught.value) == "--track tensorbord is not one of tensorboard, wandb, mlflow."


def test_a_package_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        tracker_names("mlflow")
    assert str(caught.value) == (
        "--track mlflow needs the package 'mlflow'. "
        "Install it with: pip install 'finetune-photos[mlflow]'"
    )


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    opened = Trackers(["tensorboard"], tmp_path)
    opened.settings({"lr": 0.1, "model": "resnet18", "nothing": None})
    opened.log({"loss": 2.0, "accuracy": 0.25}, 3)
    opened.log({"loss": 1.0}, 4)
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    opened.picture("photos", pixels, 3)
    opened.histogram("relu", np.array([0.0, 0.0, 2.0], np.float32), 4)
    opened.close()
    assert [p.name for p in tmp_path.iterdir()] == ["tensorboard"]
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(3, 2.0), (4, 1.0)]
    assert [(e.step, e.value) for e in read.Scalars("accuracy")] == [(3, 0.25)]
    (image,) = read.Images("photos")
    assert (image.width, image.height, image.step) == (8, 6, 3)
    (histogram,) = read.Histograms("relu")
    assert histogram.histogram_value.num == 3
    assert histogram.histogram_value.max == 2
    (text,) = read.Tensors("settings/text_summary")
    assert b"| lr | 0.1 |" in text.tensor_proto.string_val[0]
    assert b"nothing" not in text.tensor_proto.string_val[0]


def test_steps_that_are_made_again_replace_those_before(tmp_path: Path) -> None:
    first = Trackers(["tensorboard"], tmp_path)
    for step in (1, 2, 3):
        first.log({"loss": 10.0 + step}, step)
    first.close()
    # Files of the same second are read in the order of a counter without leading zeros.
    begun = int(time.time())
    while int(time.time()) == begun:
        time.sleep(0.02)
    second = Trackers(["tensorboard"], tmp_path, first_step=2)
    second.log({"loss": 22.0}, 2)
    second.close()
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 11.0), (2, 22.0)]


def test_wandb_gets_the_run_by_name_and_an_id_that_stays(
    tmp_path: Path, stand_ins: list[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    for _ in range(2):
        opened = Trackers(["wandb"], tmp_path / "garden")
        opened.settings({"lr": 0.1, "workers": None})
        opened.log({"loss": 2.0}, 3)
        opened.picture("photos", np.zeros((2, 2, 3), np.uint8), 3)
        opened.close()
    first, second = stand_ins
    assert first.args == ("finetune",)
    assert first.kwargs["name"] == "garden"
    assert first.kwargs["dir"] == str(tmp_path / "garden")
    assert first.kwargs["id"] == second.kwargs["id"]
    # Left to the environment, WANDB_MODE=offline holds.
    assert "mode" not in first.kwargs
    assert [name for name, _ in first.calls] == ["start", "settings", "log", "images", "finish"]
    assert first.calls[1][1] == {"lr": 0.1}
    monkeypatch.setenv("WANDB_PROJECT", "birds")
    Trackers(["wandb"], tmp_path)
    assert stand_ins[-1].args == ("birds",)


def test_mlflow_gets_numbers_and_pictures_as_files(
    tmp_path: Path, stand_ins: list[StandIn]
) -> None:
    opened = Trackers(["mlflow"], tmp_path / "garden")
    opened.picture("validation/confusion", np.zeros((2, 2, 3), np.uint8), 12)
    opened.histogram("relu", np.zeros(3, np.float32), 12)
    opened.close()
    (made,) = stand_ins
    assert (made.args, made.kwargs) == (("finetune",), {"run_name": "garden"})
    assert made.calls[1:] == [
        ("artifact", ("validation_confusion-000012.png", True, "pictures")),
        ("finish", None),
    ]


def test_a_tracker_that_cannot_be_opened_is_said_and_the_others_closed(
    tmp_path: Path, stand_ins: list[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(StandIn):
        def start(self) -> None:
            raise OSError("no API key\nconfigured")

    monkeypatch.setattr(tracking, "WandBTracker", Broken)
    with pytest.raises(ConfigError) as caught:
        Trackers(["mlflow", "wandb"], tmp_path)
    assert str(caught.value) == "--track wandb cannot be opened: no API key"
    assert stand_ins[0].calls[-1] == ("finish", None)


def test_a_tracker_that_fails_later_is_let_go_and_the_training_goes_on(
    tmp_path: Path,
    stand_ins: list[StandIn],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Lost(StandIn):
        def log(self, values: dict[str, Any], step: int) -> None:
            raise ConnectionError("the server is gone")

    monkeypatch.setattr(tracking, "WandBTracker", Lost)
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)
    opened = Trackers(["wandb", "mlflow"], tmp_path)
    opened.log({"loss": 1.0}, 1)
    opened.log({"loss": 2.0}, 2)
    assert [name for name, _ in stand_ins[1].calls] == ["start", "log", "log"]
    assert [record.getMessage() for record in caplog.records] == [
        "--track wandb failed and is not used for the rest of the training: the server is gone"
    ]

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import tracking
from accelerate.state import PartialState

from finetune.errors import ConfigError, MissingExtra
from finetune.training import tracking as module
from finetune.training.tracking import Trackers, tracker_names

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


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
    assert str(caught.value) == "--track tensorbord is none of tensorboard, wandb, mlflow."


def test_a_package_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
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
        "--track wandb failed and gets nothing more of this training: the server is gone"
    ]

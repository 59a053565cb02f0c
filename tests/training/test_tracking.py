from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune import TrainConfig
from finetune.config import TrackingConfig
from finetune.config_io import resolve
from finetune.errors import ConfigError
from finetune.photos.preprocessing import Preprocessing
from finetune.training.events import EpochDone, Event
from finetune.training.tracking import as_pixels, check_tracking, grid
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
    assert len(steps) == 3
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
    assert [event.value for event in read.Scalars("validation/photos")] == [count] * 3
    (final,) = read.Scalars("final/test/top1")
    assert final.value == pytest.approx(result.metrics["test"]["top1"])
    assert [image.step for image in read.Images("validation/confusion")] == steps
    (sample,) = read.Images("photos/augmented")
    side = tiny_settings["size"]
    # Eight photos a step: three columns, three rows.
    assert (sample.width, sample.height) == (3 * (side + 4) - 4, 3 * (side + 4) - 4)
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

    config = resolve({}, {**tiny_settings, "mode": "head", "track": "tensorboard"})
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
    with pytest.raises(ConfigError, match="--track tensorflow is none of tensorboard, wandb"):
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


def test_a_grid_holds_every_picture_once() -> None:
    pictures = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 2, 3), np.uint8
    )
    page = grid(pictures, gap=1)
    assert page.shape == (5, 8, 3)
    assert sorted(set(page.ravel().tolist())) == [1, 2, 3, 4, 5, 255]
    assert page[0, :, 0].tolist() == [1, 1, 255, 2, 2, 255, 3, 3]

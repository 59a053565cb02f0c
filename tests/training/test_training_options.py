from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import softmax
from sklearn.metrics import log_loss
from torch import nn

from finetune import Predictor
from finetune.config_io import resolve
from finetune.errors import ModelError
from finetune.models.stages import backbone_stages, norm_parameters
from finetune.photos.split.split import read_split
from finetune.runs.loading import open_trained
from finetune.training import averaging, final_weights, loop
from finetune.training.averaging import Interpolation, read_candidate
from finetune.training.events import EpochDone, Event, Note, Validated
from finetune.training.train import RunResult, train
from finetune.training.validation import SHARPNESS

Settings = dict[str, Any]


@pytest.fixture
def trained(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> Callable[..., tuple[RunResult, list[Event]]]:
    """Trains on the same photos with some settings; returns the run and its events."""
    photos = make_photos({"ant": 10, "bee": 10, "fly": 10})

    def go(name: str, **flags: Any) -> tuple[RunResult, list[Event]]:
        events: list[Event] = []
        metrics, callback = flags.pop("metrics", None), flags.pop("callback", events.append)
        config = resolve({}, {**tiny_settings, **flags})
        result = train(
            photos, config, run=name, runs=tmp_path / "runs", callback=callback, metrics=metrics
        )
        return result, events

    return go


def changed(run: RunResult, start: Path) -> set[str]:
    """Names of the backbone's tensors that are not what they were before the training."""
    before, after = load_file(start), load_file(run.run.model_file)
    return {
        name
        for name, value in after.items()
        if not name.startswith("fc.") and not torch.equal(value, before[name])
    }


def digest(run: RunResult) -> str:
    return hashlib.sha256(run.run.model_file.read_bytes()).hexdigest()


def test_gradual_thaws_from_the_head_backwards_and_predictions_open_it(
    trained: Callable[..., Any], tiny_weights: Path, tmp_path: Path
) -> None:
    start = load_file(tiny_weights)
    moved: list[set[str]] = []

    def look(event: Event) -> None:
        if isinstance(event, Validated):
            now = event.module.state_dict()
            names = (n for n, value in now.items() if not torch.equal(value, start.get(n, value)))
            moved.append({name.split(".")[0] for name in names} - {"fc"})

    run, _ = trained("r", mode="gradual", epochs=10, callback=look)
    stages = [{name.split(".")[0] for name in stage} for stage in backbone_stages(load(run))]
    opens = [math.ceil(k * 10 / (2 * len(stages))) for k in range(len(stages), 0, -1)]
    assert len(set(opens)) > 2
    for epoch, found in enumerate(moved):
        expected = [stage for stage, first in zip(stages, opens, strict=True) if epoch >= first]
        assert found == set().union(*expected), epoch
    photo = next((tmp_path / "photos" / "ant").glob("*.jpg"))
    assert Predictor.load(run.run.path)(photo).label in ("ant", "bee", "fly")


def load(run: RunResult) -> nn.Module:
    return open_trained(run.run).module


def test_frozen_norms_stay_to_the_last_bit(trained: Callable[..., Any], tiny_weights: Path) -> None:
    run, _ = trained("r", mode="full", freeze_norm=True, epochs=2, head_epochs=0)
    after = changed(run, tiny_weights)
    norms = norm_parameters(load(run))
    assert after
    assert not after & norms
    assert not any("running" in name for name in after)


@pytest.mark.parametrize(
    ("flags", "gathers"),
    [({}, False), ({"norm_statistics": "batch"}, True), ({"weights": "none"}, True)],
    ids=str,
)
def test_norms_keep_the_statistics_that_come_with_pretrained_weights(
    trained: Callable[..., Any], tiny_weights: Path, flags: Settings, gathers: bool
) -> None:
    run, _ = trained("r", mode="full", epochs=2, head_epochs=0, **flags)
    after = changed(run, tiny_weights)
    assert after & norm_parameters(load(run))
    assert any("running" in name for name in after) == gathers
    expected = "batch" if gathers else "kept"
    settings = json.loads(run.run.config_file.read_text())["settings"]
    assert settings["optimization"]["norm_statistics"] == expected


def test_the_network_that_validation_likes_best_on_the_way_is_kept(
    trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: list[Interpolation] = []

    def walk(*ends: Any) -> Interpolation:
        ways.append(averaging.interpolate_weights(*ends))
        return ways[-1]

    monkeypatch.setattr(final_weights, "interpolate_weights", walk)
    flags = {"mode": "full", "epochs": 2, "lr": 0.01}
    run, events = trained("way", **flags, final_weights="interpolated")
    (way,) = ways
    assert Note(text=way.describe()) in events
    description = json.loads(run.run.config_file.read_text())
    assert description["share_of_training"] == way.share
    # The same training without the way has the end of it.
    end, _ = trained("end", **flags, final_weights="best")
    assert len(ways) == 1
    assert json.loads(end.run.config_file.read_text())["share_of_training"] == 1
    for share, result in ((way.share, run), (1.0, end)):
        logits = result.logits["validation"].astype(np.float64)
        targets = validation_targets(result)
        losses = [log_loss(targets, softmax(logits * factor, axis=1)) for factor in SHARPNESS]
        assert min(losses) == pytest.approx(way.loss(share), abs=1e-5)


def test_a_network_whose_training_did_harm_is_kept_as_it_started(
    trained: Callable[..., Any], tiny_weights: Path
) -> None:
    run, events = trained("r", mode="full", epochs=1, lr=0.5, backbone_lr_scale=1.0)
    assert not changed(run, tiny_weights)
    said = [event.text for event in events if isinstance(event, Note)]
    assert any(text.endswith("kept the head on the frozen backbone.") for text in said)


def validation_targets(result: RunResult) -> np.ndarray:
    labels = json.loads(result.run.labels_file.read_text())
    rows = read_split(result.run.split_file)
    return np.array([labels.index(row.labels[0]) for row in rows if row.part == "validation"])


@pytest.mark.parametrize(
    "flags",
    [
        {"optimizer": "sgd"},
        {"optimizer": "muon"},
        {"schedule": "one_cycle"},
        {"schedule": "constant"},
        {"layer_decay": 0.5},
        {"ema": 0.9},
        {"mixup": 1.0},
        {"cutmix": 1.0},
        {"clip_norm": 0.01},
        {"accumulate": 2},
        {"progressive_size": 32},
        {"drop_path": 0.5},
        {"freeze_norm": True},
    ],
    ids=str,
)
def test_each_option_makes_another_network_and_is_in_the_run(
    trained: Callable[..., Any], flags: Settings, whole: dict[str, str]
) -> None:
    run, _ = trained("r", mode="full", epochs=2, head_epochs=0, **flags)
    if not whole:
        whole["plain"] = digest(trained("plain", mode="full", epochs=2, head_epochs=0)[0])
    assert digest(run) != whole["plain"]
    assert np.isfinite(run.metrics["validation"]["log_loss"])
    settings = json.loads(run.run.config_file.read_text())["settings"]
    concern = "augmentation" if {"mixup", "cutmix"} & set(flags) else "optimization"
    for name, value in flags.items():
        assert settings[concern][name] == value


@pytest.fixture(scope="module")
def whole() -> dict[str, str]:
    return {}


def test_metrics_of_ones_own_are_in_the_log(trained: Callable[..., Any]) -> None:
    for mode in ("head", "full"):
        run, events = trained(
            mode, mode=mode, epochs=2, metrics={"rows": lambda logits, targets: len(logits)}
        )
        log = [json.loads(line) for line in run.run.log_file.read_text().splitlines()]
        held_out = run.metrics["validation"]["photos"]
        found = [{"rows": held_out}] * (2 if mode == "full" else 1)
        assert [line["metrics"] for line in log] == found
        assert [e.metrics for e in events if isinstance(e, EpochDone)] == found


def test_average_soup_patience_and_any_optimizer_work_together(trained: Callable[..., Any]) -> None:
    run, events = trained(
        "r",
        mode="full",
        ema=0.9,
        soup=3,
        patience=4,
        optimizer="lamb",
        epochs=6,
        clip_norm=1.0,
        final_weights="best",
    )
    notes = [e.text for e in events if isinstance(e, Note)]
    assert any(text.startswith("Soup: ") for text in notes)
    validation = [e.validation_accuracy for e in events if isinstance(e, EpochDone)]
    assert run.metrics["validation"]["top1"] >= max(validation) - 1e-9
    assert not (run.run.path / "checkpoints").exists()


def test_the_soups_weights_are_the_model(
    trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[int, dict[str, torch.Tensor]]] = [{}]
    read = read_candidate

    def noted(best: Path, epoch: int) -> dict[str, torch.Tensor]:
        kept[0][epoch] = read(best, epoch)
        return kept[0][epoch]

    monkeypatch.setattr(loop, "read_candidate", noted)
    run, events = trained("r", mode="full", soup=3, epochs=4, lr=0.0001, final_weights="best")
    note = next(e.text for e in events if isinstance(e, Note) and e.text.startswith("Soup: "))
    model = load_file(run.run.model_file)
    if "the mean of epochs" in note:
        names = note.split(" epochs ")[1].split(" is kept")[0].replace(" and ", ", ").split(", ")
    else:
        names = [note.split(" as epoch ")[1].split(" alone")[0]]
    for name, value in model.items():
        if value.is_floating_point():
            stack = np.stack([kept[0][int(n)][name].numpy().astype(np.float64) for n in names])
            assert value.numpy() == pytest.approx(stack.mean(0), abs=1e-6), name


def test_sizes_that_cannot_grow_are_refused(trained: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        trained("r", mode="full", progressive_size=48)
    assert str(error.value) == (
        "--progressive-size 48 must be smaller than the input's full size, 48 pixels."
    )
    with pytest.raises(ModelError) as error:
        trained("s", progressive_size=64, model="vit_tiny_patch16_224", weights="none", size=96)
    assert str(error.value) == (
        "--progressive-size 64: vit_tiny_patch16_224 takes photos of 96 pixels only. Leave it out, "
        "or use a convolutional network."
    )
    assert not list(tmp_path.glob("runs/*")), "no folder is left of a run that never began"

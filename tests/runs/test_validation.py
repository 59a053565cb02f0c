from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from finetune.errors import ModelError, RunError
from finetune.models.factory import ModelRequest, create_model
from finetune.prediction.predictor import Predictor
from finetune.runs.evaluate import evaluate
from finetune.runs.folder import RunFolder, create_run, write_labels
from finetune.runs.loading import open_trained


@pytest.fixture(scope="module")
def trained(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("run"), photos=6)


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run; connections are errors."""

    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def change(file: Path, place: str, value: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    inner = content
    *parents, last = place.split(".")
    for key in parents:
        inner = inner[key]
    inner[last] = value
    file.write_text(json.dumps(content), encoding="utf-8")


def message(run: Path) -> str:
    with pytest.raises((RunError, ModelError)) as caught:
        Predictor.load(run)
    with pytest.raises((RunError, ModelError)):
        open_trained(RunFolder(run))
    return str(caught.value)


WRONG = [
    ("calibration.json", "temperature", -1, "`temperature`: expected `float` >= 0.001"),
    ("calibration.json", "temperature", None, "`temperature`: expected `float`, got `null`"),
    ("calibration.json", "temperature", float("nan"), "it has a number that is not finite (nan)"),
    ("calibration.json", "unknown.threshold", "0", "`unknown.threshold`: expected `float | null`"),
    ("calibration.json", "unknown.mixture", None, "`unknown.mixture` is missing"),
    ("preprocessing.json", "size", 4, "`size`: expected `int` >= 8"),
    ("preprocessing.json", "size", 100_000, "`size`: expected `int` <= 4096"),
    ("preprocessing.json", "crop_pct", 0, "`crop_pct`: expected `float` > 0.0"),
    ("preprocessing.json", "crop_pct", 1e-5, "`crop_pct` 1e-05 is too small for `size`"),
    ("preprocessing.json", "std", [0.2, 0, 0.2], "`std[1]`: expected `float` >= 1e-06"),
    ("preprocessing.json", "mean", [0.5], "`mean` has 1 values for 3 channels"),
    ("config.json", "model", "hf-hub:someone/else", "`model`: has control characters"),
    ("config.json", "settings", [1], "`settings`: expected `object`, got `array`"),
    ("config.json", "settings.recipe", {"a": [[[[[[[[[[[[1]]]]]]]]]]]]}, "it is nested too deeply"),
]


@pytest.mark.parametrize(("name", "place", "value", "expected"), WRONG)
def test_a_wrong_field_of_a_run_is_one_line(
    run: Path, name: str, place: str, value: Any, expected: str
) -> None:
    change(run / name, place, value)
    found = message(run)
    assert found.startswith(f"{run / name} cannot be read: {expected}")
    assert "\n" not in found


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["ant", "ant"], "the label 'ant' is listed 2 times"),
        (["ant", "b\x1b[2Jee"], "the label 'b\\x1b[2Jee' is empty, too long or has control"),
        (["ant", ""], "the label '' is empty"),
        ([], "expected `array` of length >= 1"),
        (["ant", 3], "`[1]`: expected `str`, got `int`"),
    ],
)
def test_labels_are_unique_text(run: Path, labels: list[Any], expected: str) -> None:
    (run / "labels.json").write_text(json.dumps(labels))
    assert expected in message(run)


def test_a_training_refuses_labels_that_could_not_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="control characters"):
        write_labels(create_run("r", "r", tmp_path), ("ant", "b\x07"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"pretrained": True},
        {"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x.pth"}},
        {"pretrained_cfg": {"file": "/etc/passwd"}},
        {"checkpoint_path": "/etc/passwd"},
        {"cache_dir": "/tmp"},
        {"drop_rate": [0.1] * 100},
        {"act_layer": "x" * 1000},
        {"img_size": 10**9},
    ],
)
def test_a_run_gives_timm_known_arguments_alone(run: Path, arguments: dict[str, Any]) -> None:
    change(run / "config.json", "settings.model_args", arguments)
    found = message(run)
    assert next(iter(arguments)) in found


def test_settings_give_timm_known_arguments_alone() -> None:
    with pytest.raises(ModelError, match="takes no argument 'pretrained_cfg'"):
        create_model(
            ModelRequest(name="resnet18", weights="none", args={"pretrained_cfg": {"url": "x"}})
        )
    with pytest.raises(ModelError, match=r"takes no argument 'depth'.*widths"):
        create_model(ModelRequest(name="simple_cnn", weights="none", args={"depth": 9}))


def test_nothing_is_allocated_for_a_model_that_the_tensors_do_not_fit(run: Path) -> None:
    change(run / "config.json", "model", "vit_giant_patch14_224")
    assert message(run).startswith("The weights of this run do not fit vit_giant_patch14_224")


def test_a_crop_policy_of_a_run_makes_no_connection(run: Path) -> None:
    policy = {"method": "saliency", "model": "resnet50", "weights": None, "digest": None}
    change(run / "preprocessing.json", "crop_policy", policy)
    with pytest.raises(ModelError, match="resnet50 are not on this machine"):
        Predictor.load(run)


def test_weights_with_a_flipped_bit_are_refused(run: Path) -> None:
    file = run / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert message(run) == (
        f"{file} is damaged: its tensors do not have the checksum that they were written with."
    )


def test_weights_that_are_not_finite_are_refused(run: Path) -> None:
    file = run / "model.safetensors"
    tensors = load_file(file)
    name = max(tensors)
    save_file({**tensors, name: np.full_like(tensors[name], np.nan)}, file)
    assert message(run).endswith(f"are damaged: {name} is not finite.")


def test_weights_of_an_earlier_version_have_no_checksum(run: Path) -> None:
    save_file(load_file(run / "model.safetensors"), run / "model.safetensors")
    assert Predictor.load(run).labels == ("ant", "bee")


def test_the_distance_must_fit_the_labels(run: Path) -> None:
    file = run / "distance.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "means": np.tile(tensors["means"], (9, 1))}, file)
    assert "do not fit 2 labels" in message(run)
    tensors["offset"][0] = np.nan
    save_file(tensors, file)
    assert "offset has values that are not finite" in message(run)


def test_unknown_keys_of_a_newer_version_are_ignored(run: Path) -> None:
    change(run / "calibration.json", "new", {"x": 1})
    change(run / "calibration.json", "unknown.new", 1)
    change(run / "preprocessing.json", "new", "x")
    change(run / "config.json", "settings.newer", {"a": 1})
    assert Predictor.load(run).labels == ("ant", "bee")


def test_a_split_without_held_out_photos_is_refused(run: Path) -> None:
    file = run / "split.csv"
    kept = [line for line in file.read_text().splitlines() if "validation" not in line]
    file.write_text("\n".join(line for line in kept if ",test" not in line) + "\n")
    with pytest.raises(RunError, match="has no photo that was held out"):
        evaluate(RunFolder(run))


def test_damaged_lines_of_the_log_are_skipped(run: Path) -> None:
    folder = RunFolder(run)
    before = list(folder.read_log())
    with folder.log_file.open("a") as file:
        file.write(
            '{"epoch": "x"}\n[1]\n"\\ud800"\n{"event": "\\ud800"}\n'
            + "[" * 100_000
            + '\n{"epoch": 9, "seco'
        )
    assert list(folder.read_log()) == before
    folder.log({"event": "epoch", "epoch": 2})
    assert list(folder.read_log()) == [*before, {"event": "epoch", "epoch": 2}]

from __future__ import annotations

import csv
import errno
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, log_loss

from finetune import Predictor, train
from finetune.config_io import resolve
from finetune.errors import ConfigError, RunError, StorageError
from finetune.evaluation.predictions import read_predictions
from finetune.photos.crops import load_image
from finetune.photos.split.split import read_split
from finetune.training import checkpoints as state_module
from finetune.training.events import EpochDone, Event, Note
from finetune.training.train import RunResult, resume

Settings = dict[str, object]
COUNTS = {"ant": 12, "bee": 12, "カワセミ": 12}


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    return make_photos(COUNTS)


@pytest.mark.parametrize("mode", ["head", "full"])
def test_a_run_holds_all_that_a_model_is(
    photos: Path, tmp_path: Path, tiny_settings: Settings, mode: str
) -> None:
    events: list[Event] = []
    config = resolve({}, {**tiny_settings, "mode": mode})
    result = train(photos, config, run="r", runs=tmp_path / "runs", callback=events.append)
    run = tmp_path / "runs" / "r"
    assert result.run.path == run
    assert not result.interrupted
    assert {p.name for p in run.iterdir()} == {
        "config.json",
        "labels.json",
        "split.csv",
        "preprocessing.json",
        "model.safetensors",
        "timm",
        "calibration.json",
        "metrics.json",
        "predictions.csv",
        "confusion_matrix.csv",
        "log.jsonl",
        "README.md",
        "distance.safetensors",
    } | (set() if mode == "head" else {"best.safetensors", "head.safetensors"})
    assert json.loads((run / "labels.json").read_text(encoding="utf-8")) == list(COUNTS)
    epochs = [event for event in events if isinstance(event, EpochDone)]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [e.epoch for e in epochs]
    assert len(epochs) == (3 if mode == "full" else 1)
    assert log[-1]["validation_accuracy"] == epochs[-1].validation_accuracy

    # The figures are those of what is written down, by an independent count.
    with (run / "predictions.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for part in ("validation", "test"):
        of_part = [row for row in rows if row["part"] == part]
        truth, said = [r["label"] for r in of_part], [r["predicted"] for r in of_part]
        assert result.metrics[part]["photos"] == len(of_part) > 0
        assert result.metrics[part]["top1"] == pytest.approx(accuracy_score(truth, said))
        ranked = [
            {r[f"label_{k}"]: float(r[f"probability_{k}"]) for k in (1, 2, 3)} for r in of_part
        ]
        p = [[row[label] for label in COUNTS] for row in ranked]
        expected = log_loss([list(COUNTS).index(t) for t in truth], p, labels=[0, 1, 2])
        assert result.metrics[part]["log_loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mode", ["head", "full"])
def test_prediction_agrees_with_evaluation_and_with_plain_timm(
    photos: Path, tmp_path: Path, tiny_settings: Settings, mode: str
) -> None:
    config = resolve({}, {**tiny_settings, "mode": mode})
    run = train(photos, config, runs=tmp_path / "runs").run.path
    predictor = Predictor.load(run)
    plain = timm.create_model(f"local-dir:{run / 'timm'}", pretrained=True).eval()
    with (run / "predictions.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    preprocessing = json.loads((run / "preprocessing.json").read_text())
    temperature = json.loads((run / "calibration.json").read_text())["temperature"]
    for row in rows[:6]:
        answer = predictor(photos / row["path"])
        assert answer.label == row["predicted"]
        assert answer.ranked[0].probability == pytest.approx(float(row["probability"]), abs=1e-4)
        working = round(preprocessing["size"] / preprocessing["crop_pct"])
        pixels = load_image(
            photos / row["path"], size=working, interpolation=preprocessing["interpolation"]
        )
        margin = (working - preprocessing["size"]) // 2
        middle = pixels[
            margin : margin + preprocessing["size"], margin : margin + preprocessing["size"]
        ]
        x = (middle / 255 - np.array(preprocessing["mean"])) / np.array(preprocessing["std"])
        with torch.inference_mode():
            logits = plain(torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32))
        p = torch.softmax(logits[0] / temperature, 0)
        assert float(p.max()) == pytest.approx(answer.ranked[0].probability, abs=1e-4)


def test_the_head_learns_what_can_be_learned(tmp_path: Path, tiny_settings: Settings) -> None:
    rng = np.random.default_rng(0)
    for label, color in {
        "red": (200, 40, 40),
        "green": (40, 170, 60),
        "blue": (50, 60, 210),
    }.items():
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            noise = rng.integers(-30, 30, (40, 60, 3))
            pixels = np.clip(np.array(color) + rng.integers(-25, 25, 3) + noise, 0, 255)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "photos" / label / f"{number}.png")
    config = resolve({}, {**tiny_settings, "mode": "head", "epochs": 25})
    result = train(tmp_path / "photos", config, runs=tmp_path / "runs")
    assert result.metrics["test"]["top1"] >= 0.9


def test_two_runs_of_one_seed_are_the_same_to_the_last_byte(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    found = {}
    short = {**tiny_settings, "mode": "full", "epochs": 2}
    # Without a cache every photo is decoded in every epoch, by the workers where there are some.
    for name, workers in [("a", 0), ("b", 0), ("c", 2)]:
        flags = {**short, "cache_gb": 0.0, "workers": workers}
        train(photos, resolve({}, flags), run=name, runs=tmp_path)
        found[name] = digest(tmp_path / name)
    assert found["a"] == found["b"] == found["c"]
    train(photos, resolve({}, short), run="d", runs=tmp_path)
    assert digest(tmp_path / "d") == found["a"], "the cache must not change a bit"
    train(photos, resolve({}, {**short, "seed": 1}), run="e", runs=tmp_path)
    assert digest(tmp_path / "e") != found["a"]


CHILD = """
import json, os, signal, sys
from pathlib import Path
from finetune import train
from finetune.config_io import resolve
from finetune.training.events import EpochDone
photos, runs = Path(sys.argv[1]), Path(sys.argv[2])
flags, sign, epoch = map(json.loads, sys.argv[3:])
from finetune.training import loop
done, steps, plain = [], [0], loop.set_lr
def counted(*args, **keywords):
    if len(done) == epoch - 1:
        steps[0] += 1
        if steps[0] == 2:
            os.kill(os.getpid(), sign)
    return plain(*args, **keywords)
loop.set_lr = counted
train(photos, resolve({}, flags), run="killed", runs=runs,
      callback=lambda e: done.append(e) if isinstance(e, EpochDone) else None)
"""


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image], tiny_weights: Path
) -> Callable[[str], tuple[Path, Settings, RunResult]]:
    """Returns a function that gives photos, settings of a mode, and a run of 5 epochs on them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for index, (label, count) in enumerate(COUNTS.items()):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(count):
            draw(index, number).save(folder / "photos" / label / f"{number:03d}.jpg", quality=92)
    settings = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48, "device": "cpu"}

    @functools.cache
    def of(mode: str) -> tuple[Path, Settings, RunResult]:
        flags = {**settings, "batch_size": 8, "mode": mode, "epochs": 5}
        return (
            folder / "photos",
            flags,
            train(folder / "photos", resolve({}, flags), run=mode, runs=folder / "runs"),
        )

    return of


@pytest.mark.parametrize(
    ("mode", "sign"),
    [
        ("full", signal.SIGKILL),
        ("full", signal.SIGTERM),
        ("full", signal.SIGHUP),
    ],
)
def test_a_killed_run_resumes_to_the_same_bytes(
    undisturbed: Callable[[str], tuple[Path, Settings, RunResult]],
    tmp_path: Path,
    run_child: Callable[..., subprocess.CompletedProcess[str]],
    mode: str,
    sign: signal.Signals,
) -> None:
    photos, flags, whole = undisturbed(mode)
    runs = tmp_path / "runs"
    child = run_child(CHILD, str(photos), str(runs), json.dumps(flags), str(int(sign)), "3")
    if sign == signal.SIGKILL:
        assert child.returncode == -signal.SIGKILL
        assert not (runs / "killed" / "model.safetensors").exists()
    else:
        # Stopped after the step under way, with its results written.
        assert child.returncode == 0, child.stderr
        assert (runs / "killed" / "metrics.json").is_file()
    assert not json.loads((runs / "killed" / "config.json").read_text())["finished"]
    notes: list[str] = []
    result = resume(
        runs / "killed", callback=lambda e: notes.append(e.text) if isinstance(e, Note) else None
    )
    assert digest(runs / "killed") == digest(whole.run.path)
    assert result.metrics == whole.metrics
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second")}
            for line in (run / "log.jsonl").read_text().splitlines()
        ]
        for run in (runs / "killed", whole.run.path)
    ]
    assert logs[0] == logs[1]
    with pytest.raises(RunError, match="is finished; there is nothing to resume"):
        resume(runs / "killed")


@pytest.mark.parametrize("mode", ["head", "full"])
def test_photos_that_vanish_or_change_are_left_out(
    photos: Path, tmp_path: Path, tiny_settings: Settings, mode: str
) -> None:
    flags = {**tiny_settings, "mode": mode, "epochs": 2, "cache_gb": 0, "test": 0.2}
    plain = train(photos, resolve({}, flags), run="plain", runs=tmp_path / "runs")
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for row in read_split(plain.run.split_file):
        parts[row.part].append(row.path)
    lost = [paths[0] for paths in parts.values()] + [parts["train"][1]]
    content = (photos / parts["train"][2]).read_bytes()
    shutil.rmtree(photos / ".finetune")
    notes: list[str] = []

    def lose(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)
            if event.text.startswith("Split: "):
                for path in lost[:3]:
                    (photos / path).unlink()
                # A photo of another label in the place of this one.
                (photos / lost[3]).write_bytes(content)

    result = train(photos, resolve({}, flags), run="r", runs=tmp_path / "runs", callback=lose)
    assert result.run.read(result.run.config_file)["finished"]
    named = {note.split()[0]: note for note in notes if "is left out of the rest" in note}
    assert set(named) == set(lost)
    assert named[lost[3]] == (
        f"{lost[3]} has changed since the photos were scanned. It is left out of the rest of the "
        "training."
    )
    assert {e["path"] for e in result.run.read_log() if e["event"] == "left_out"} == set(lost)
    for part in ("validation", "test"):
        assert result.metrics[part]["photos"] == len(parts[part]) - 1
    predicted = {row.path for row in read_predictions(result.run.predictions_file)}
    assert predicted == {*parts["validation"], *parts["test"]} - set(lost)


def test_a_run_that_lost_a_photo_is_resumed_without_it(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Note) and event.text.startswith("Split: "):
            (photos / "ant" / "003.jpg").unlink()
        if isinstance(event, EpochDone) and event.epoch == 2:
            raise KeyboardInterrupt

    config = resolve({}, {**tiny_settings, "mode": "full", "cache_gb": 0})
    with pytest.raises(KeyboardInterrupt):
        train(photos, config, run="r", runs=tmp_path, callback=interrupt)
    result = resume(tmp_path / "r")
    assert not result.interrupted
    assert "ant/003.jpg" not in {r.path for r in read_predictions(result.run.predictions_file)}


@pytest.mark.parametrize("mode", ["head", "full"])
def test_the_command_of_a_full_disk_goes_on_once_there_is_space(
    photos: Path,
    tmp_path: Path,
    tiny_settings: Settings,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = resolve({}, {**tiny_settings, "mode": mode, "epochs": 2})
    expected = digest(train(photos, config, run="whole", runs=tmp_path).run.path)
    synced, left = os.fsync, [0]

    def full(file: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(file)

    monkeypatch.setattr(os, "fsync", full)
    for write in range(1, 200, 9):
        left[0] = write
        try:
            train(photos, config, run="r", runs=tmp_path)
        except StorageError as error:
            run = tmp_path / "r"
            if f"resume the training with: finetune train --resume {run}." in str(error):
                resume(run)
            else:
                assert not run.exists()
                train(photos, config, run="r", runs=tmp_path)
        assert digest(tmp_path / "r") == expected
        shutil.rmtree(tmp_path / "r")
        if left[0] > 0:
            return
    raise AssertionError("no training was whole")


def test_a_full_disk_leaves_the_checkpoint_before_it(
    photos: Path, tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {**tiny_settings, "mode": "full", "epochs": 4}
    train(photos, resolve({}, flags), run="whole", runs=tmp_path)
    plain, calls = save_file, [0]

    def fill_the_disk(tensors: object, path: Path, metadata: object = None) -> None:
        if "last" in Path(path).name:
            calls[0] += 1
            if calls[0] == 3:
                raise OSError(28, "No space left on device")
        plain(tensors, path, metadata=metadata)

    monkeypatch.setattr(state_module, "save_file", fill_the_disk)
    with pytest.raises(StorageError, match="the disk is full"):
        train(photos, resolve({}, flags), run="full", runs=tmp_path)
    assert state_module.read_position(tmp_path / "full/checkpoints/last.safetensors").epoch == 2
    monkeypatch.undo()
    resume(tmp_path / "full")
    assert digest(tmp_path / "full") == digest(tmp_path / "whole")


def test_a_photo_that_is_gone_stops_a_resume_and_one_that_was_moved_does_not(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    flags = {**tiny_settings, "mode": "head"}
    train(photos, resolve({}, flags), run="r", runs=tmp_path)
    config = json.loads((tmp_path / "r/config.json").read_text())
    (tmp_path / "r/config.json").write_text(json.dumps({**config, "finished": False}))
    first = photos / "ant" / "000.jpg"
    content, whole = first.read_bytes(), digest(tmp_path / "r")
    weights = load_file(tmp_path / "r/model.safetensors")
    state_module.save_tensors(tmp_path / "r/checkpoints/start.safetensors", weights, {})
    first.unlink()
    with pytest.raises(RunError) as error:
        resume(tmp_path / "r")
    assert str(error.value) == (
        f"{first} is gone since the run began, so it cannot be resumed exactly. Put the photo "
        "back, name the folder that has it with --photos, or start a new run."
    )
    first.with_name("renamed.jpg").write_bytes(content)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=f"{photos}, the folder of the photos of .*, is not there"):
        resume(tmp_path / "r")
    resume(tmp_path / "r", photos=tmp_path / "elsewhere")
    assert digest(tmp_path / "r") == whole
    config = json.loads((tmp_path / "r/config.json").read_text())
    assert config["photos"] == str(tmp_path / "elsewhere")


def test_a_run_is_never_overwritten(photos: Path, tmp_path: Path, tiny_settings: Settings) -> None:
    config = resolve({}, {**tiny_settings, "mode": "head", "epochs": 1})
    first = train(photos, config, runs=tmp_path / "runs")
    second = train(photos, config, runs=tmp_path / "runs")
    assert second.run.path.name == first.run.path.name + "-2"
    with pytest.raises(RunError, match="exists, and a run is never overwritten"):
        train(photos, config, run=first.run.path.name, runs=tmp_path / "runs")


def test_a_photo_under_two_labels_is_left_out_and_said(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    (photos / "bee" / "twice.jpg").write_bytes((photos / "ant" / "003.jpg").read_bytes())
    (photos / "bee" / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    notes: list[str] = []
    config = resolve({}, {**tiny_settings, "mode": "head", "epochs": 1})
    train(
        photos,
        config,
        run="r",
        runs=tmp_path,
        callback=lambda e: notes.append(e.text) if isinstance(e, Note) else None,
    )
    assert (
        "2 photos are under more than one label and left out, ant/003.jpg ('ant' and 'bee') among "
        "them. Resolve them with: finetune annotate"
    ) in notes
    assert any(
        n.startswith("1 file cannot be used and is left out: bee/broken.jpg (") for n in notes
    )
    text = (tmp_path / "r/split.csv").read_text(encoding="utf-8")
    assert "003.jpg" not in text.replace("bee/003.jpg", "").replace("カワセミ/003.jpg", "")
    assert "twice" not in text
    assert "broken" not in text


def test_ready_parts_are_kept(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    root = make_photos({"train/a": 8, "train/b": 8, "val/a": 4, "val/b": 4})
    config = resolve({}, {**tiny_settings, "mode": "head", "epochs": 1})
    result = train(root, config, run="r", runs=tmp_path)
    assert set(result.metrics) == {"validation"}
    with (tmp_path / "r/split.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(r["path"].split("/")[0], r["part"]) for r in rows} == {
        ("train", "train"),
        ("val", "validation"),
    }


def test_a_head_on_random_features_is_refused(photos: Path) -> None:
    config = resolve({}, {"model": "test_resnet", "weights": "none", "mode": "head"})
    with pytest.raises(ConfigError, match="--mode head with --weights none"):
        train(photos, config)


def test_head_mode_with_augmentation_trains_on_photos_with_a_frozen_backbone(
    photos: Path, tmp_path: Path, tiny_settings: Settings, tiny_weights: Path
) -> None:
    flags = {**tiny_settings, "mode": "head", "augment": "light", "epochs": 2}
    train(photos, resolve({}, flags), run="r", runs=tmp_path)
    before, after = load_file(tiny_weights), load_file(tmp_path / "r/model.safetensors")
    head = {name for name in after if name.startswith("fc.")}
    assert head
    for name in set(after) - head:
        assert torch.equal(before[name], after[name]), name


def test_full_mode_trains_every_layer(
    photos: Path, tmp_path: Path, tiny_settings: Settings, tiny_weights: Path
) -> None:
    flags = {**tiny_settings, "mode": "full", "epochs": 2, "head_epochs": 0}
    train(photos, resolve({}, flags), run="r", runs=tmp_path)
    before, after = load_file(tiny_weights), load_file(tmp_path / "r/model.safetensors")
    weights = [n for n in after if n.endswith(".weight") and after[n].ndim == 4]
    assert weights
    assert all(not torch.equal(before[n], after[n]) for n in weights)


def test_the_run_opens_with_the_photos_and_the_network_gone(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    import shutil

    config = resolve({}, {**tiny_settings, "mode": "head", "epochs": 1})
    train(photos, config, run="r", runs=tmp_path)
    photo = tmp_path / "photo.jpg"
    shutil.copy(photos / "ant" / "001.jpg", photo)
    elsewhere = tmp_path / "elsewhere" / "moved"
    shutil.copytree(tmp_path / "r", elsewhere)
    shutil.rmtree(tmp_path / "r")
    shutil.rmtree(photos)
    assert Predictor.load(elsewhere)(photo).label in COUNTS


def test_notes_and_decisions_are_in_the_run(
    photos: Path, tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    flags = {**tiny_settings, "optimizer": "sgd"}
    events: list[Event] = []
    run = train(photos, resolve({}, flags), run="r", runs=tmp_path, callback=events.append).run
    description = run.read(run.config_file)
    texts = [event.text for event in events if isinstance(event, Note)]
    assert description["notes"] == texts
    decisions = {item["setting"]: item for item in description["decisions"]}
    assert decisions["mode"]["value"] == "head"
    assert {item["reason"] for item in decisions.values()} <= set(texts)
    assert any("the lowest log loss on" in text for text in texts), "a note of the training itself"

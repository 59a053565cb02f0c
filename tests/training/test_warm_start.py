from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune.config import CollectionConfig, TrainConfig
from finetune.config_io import resolve
from finetune.errors import ConfigError, RunError
from finetune.models.heads import output_layers
from finetune.photos.collection import Collection, Part, Photo, pack_hashes
from finetune.photos.near_duplicates.hashing import PhotoHashes
from finetune.photos.split.split import SplitRow, read_split, write_split
from finetune.runs.folder import RunFolder
from finetune.runs.loading import open_trained
from finetune.training.events import EpochDone, Event, Note
from finetune.training.train import RunResult, train
from finetune.training.warm_start import (
    EarlierPhotos,
    ParentRun,
    earlier_photos,
    inherit,
    load_parent,
    open_parent,
    pin_parts,
    split_with_pinned,
)

Settings = dict[str, Any]


@pytest.fixture
def first(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> tuple[Path, ParentRun]:
    """Photos of three labels, and a run that was trained on them."""
    photos = make_photos({"ant": 12, "bee": 12, "wasp": 12})
    # Heads of this optimizer are what their last step left.
    flags = {"mode": "head", "fit": "pad", "epochs": 8, "optimizer": "adam"}
    config = resolve({}, {**tiny_settings, **flags})
    result = train(photos, config, run="first", runs=tmp_path / "runs")
    return photos, open_parent(result.run)


def go_on(
    photos: Path, parent: ParentRun, runs: Path, **flags: Any
) -> tuple[RunResult, list[Event]]:
    flags = {"device": "cpu", "epochs": 2, "batch_size": 8, "mode": "head", **flags}
    config = inherit(resolve({}, flags), parent, explicit=flags)
    events: list[Event] = []
    return train(photos, config, runs=runs, callback=events.append, parent=parent), events


def notes_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


@pytest.mark.parametrize("mode", ["head", "full"])
def test_a_run_goes_on_with_new_photos_and_another_label(
    first: tuple[Path, ParentRun],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    mode: str,
) -> None:
    photos, parent = first
    before = {row.digest: row.part for row in read_split(parent.run.split_file)}
    shutil.rmtree(photos / "bee")
    make_photos({"ant": 16, "_": 0, "wasp": 12, "moth": 12})
    (photos / "_").rmdir()
    # A learning rate of next to nothing, or a penalty that allows no change, shows where the
    # training starts.
    still = {"lr": 1e-12} if mode == "full" else {"head_l2": "1e9"}
    result, events = go_on(photos, parent, tmp_path / "runs", mode=mode, **still)
    notes = notes_of(events)
    assert (
        f"Starts from {parent.run.path}: 2 labels keep their part of the head; new: moth; "
        "dropped, since no photo has them now: bee." in notes
    )
    assert any(note.startswith("24 photos keep their part of the earlier run; ") for note in notes)
    assert json.loads(result.run.labels_file.read_text()) == ["ant", "moth", "wasp"]
    after = {row.digest: row.part for row in read_split(result.run.split_file)}
    assert len(after) == 40
    assert sum(before.get(digest) == part for digest, part in after.items()) == 24
    content = json.loads(result.run.config_file.read_text())
    assert content["from"]["run"] == str(parent.run.path.absolute())
    assert content["from"]["labels"] == {
        "kept": ["ant", "wasp"],
        "new": ["moth"],
        "dropped": ["bee"],
    }
    assert content["model"] == parent.model
    assert content["settings"]["pixels"]["fit"] == "pad"
    assert content["settings"]["pixels"]["size"] == parent.preprocessing.size

    old, new = open_trained(parent.run).module, open_trained(result.run).module
    weights, biases = zip(
        *(
            (layer.weight, layer.bias)
            for m, n in ((old, 3), (new, 3))
            for layer in output_layers(m, n)
        ),
        strict=True,
    )
    for index, was in {0: 0, 2: 2}.items():
        torch.testing.assert_close(weights[1][index], weights[0][was], rtol=1e-5, atol=1e-4)
        if mode == "full":  # the penalty leaves biases free
            torch.testing.assert_close(biases[1][index], biases[0][was], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(weights[1][1], weights[0][1], rtol=1e-3)
    if mode == "head":
        backbones = [load_file(r.run.model_file) for r in (parent, result)]
        names = [name for name in backbones[0] if not name.startswith("fc.")]
        assert names
        assert all(torch.equal(backbones[0][name], backbones[1][name]) for name in names)


def test_it_starts_where_the_earlier_run_ended(
    first: tuple[Path, ParentRun], tmp_path: Path
) -> None:
    photos, parent = first
    ended = json.loads(parent.run.metrics_file.read_text())
    result, events = go_on(photos, parent, tmp_path / "runs", mode="full", lr=1e-12)
    for part in ("validation", "test"):
        assert result.metrics[part]["photos"] == ended[part]["photos"]
        assert result.metrics[part]["top1"] == ended[part]["top1"]
    best = min(line["validation_loss"] for line in parent.run.read_log())
    epochs = [event for event in events if isinstance(event, EpochDone)]
    assert epochs[0].validation_loss == pytest.approx(best, rel=1e-2)


def test_settings_are_those_of_the_run_unless_said_otherwise(first: tuple[Path, ParentRun]) -> None:
    _, parent = first
    config = inherit(resolve({}, {"epochs": 3}), parent)
    assert config.pixels.fit == "pad"
    assert config.pixels.size == parent.preprocessing.size
    assert config.model.model == parent.model
    assert config.model.weights is None
    assert config.training.epochs == 3
    assert config.training.batch_size == TrainConfig().training.batch_size
    explicit = inherit(resolve({}, {"fit": "crop", "size": 32}), parent, explicit={"fit", "size"})
    assert explicit.pixels.fit == "crop"
    assert explicit.pixels.size == 32
    assert inherit(resolve({}, {"fit": "squash"}), parent).pixels.fit == "squash"


def test_another_size_and_fit_change_the_pixels_alone(first: tuple[Path, ParentRun]) -> None:
    _, parent = first
    config = inherit(resolve({}, {"fit": "crop", "size": 96}), parent, explicit={"fit", "size"})
    loaded = load_parent(parent, config)
    assert loaded.preprocessing.size == 96
    assert loaded.preprocessing.fit == "crop"
    assert loaded.preprocessing.mean == parent.preprocessing.mean
    state = load_file(parent.run.model_file)
    assert all(
        torch.equal(value, state[name]) for name, value in loaded.module.state_dict().items()
    )


def test_another_model_or_weights_are_refused(first: tuple[Path, ParentRun]) -> None:
    _, parent = first
    path = parent.run.path
    with pytest.raises(ConfigError) as caught:
        inherit(resolve({}, {"model": "resnet18"}), parent)
    assert str(caught.value) == (
        f"--model resnet18: {path} is a test_resnet, and --from continues with its network. "
        "Leave --model out, or start a new run without --from."
    )
    with pytest.raises(ConfigError) as caught:
        inherit(resolve({}, {"weights": "other.safetensors"}), parent)
    assert str(caught.value) == (
        f"--from {path} starts from the weights of that run, and --weights other.safetensors from "
        "others. Leave one of them out."
    )
    assert inherit(resolve({}, {"model": "test_resnet"}), parent).model.model == "test_resnet"
    with pytest.raises(ConfigError) as caught:
        inherit(resolve({}, {"channels": 1}), parent)
    assert str(caught.value) == (
        f"--channels 1: the network of {path} takes 3, and --from continues with it. "
        "Leave --channels out."
    )
    with pytest.raises(ConfigError) as caught:
        inherit(resolve({}, {"model_arg": {"widths": [8]}}), parent)
    assert str(caught.value) == (
        f"--model-arg: --from continues with the network of {path} as it is. Leave --model-arg out."
    )


def test_a_run_that_is_unfinished_or_damaged_is_refused(
    first: tuple[Path, ParentRun], tmp_path: Path
) -> None:
    _, parent = first
    run = RunFolder(tmp_path / "copy")
    shutil.copytree(parent.run.path, run.path)
    content = json.loads(run.config_file.read_text())
    run.config_file.write_text(json.dumps(content | {"finished": False}))
    with pytest.raises(RunError) as caught:
        open_parent(run)
    assert str(caught.value) == (
        f"--from {run.path}: its training is not finished. "
        f"Finish it first: finetune train --resume {run.path}"
    )
    run.config_file.write_text(json.dumps({"finished": True}))
    with pytest.raises(RunError, match=r"config.json cannot be read: .*missing required field"):
        open_parent(run)
    run.config_file.write_text(json.dumps(content))
    run.model_file.write_bytes(run.model_file.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"model.safetensors is damaged"):
        load_parent(open_parent(run), inherit(TrainConfig(), parent))


def test_an_interrupted_continuation_resumes_to_the_same_bytes(
    first: tuple[Path, ParentRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.training import train as module

    photos, parent = first
    whole, _ = go_on(photos, parent, tmp_path / "runs", epochs=3)

    class StopError(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, Note) and event.text.startswith("Starts from"):
            monkeypatch.setattr(module, "execute", fail)

    def fail(*_: object) -> None:
        raise StopError

    config = inherit(
        resolve({}, {"device": "cpu", "epochs": 3, "batch_size": 8, "mode": "head"}), parent
    )
    real = module.execute
    with pytest.raises(StopError):
        train(photos, config, run="cut", runs=tmp_path / "runs", callback=stop, parent=parent)
    monkeypatch.setattr(module, "execute", real)
    resumed = module.resume(tmp_path / "runs" / "cut")
    assert resumed.run.model_file.read_bytes() == whole.run.model_file.read_bytes()
    assert np.isfinite(resumed.metrics["validation"]["log_loss"])


def test_photos_that_were_moved_away_are_named(
    first: tuple[Path, ParentRun], tmp_path: Path
) -> None:
    photos, parent = first
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError) as caught:
        parent.photos()
    assert str(caught.value) == (
        f"The photos of {parent.run.path} are no longer in {photos}. "
        f"Give their folder: finetune train --from {parent.run.path} PHOTOS"
    )


CONFIG = CollectionConfig()


def hashes(rng: np.random.Generator) -> bytes:
    numbers = [int(n) for n in rng.integers(2**63, size=8, dtype=np.uint64)]
    kinds = ("perceptual", "average", "difference", "wavelet")
    return pack_hashes(
        PhotoHashes(**dict(zip(kinds, numbers[:4], strict=True))),
        PhotoHashes(**dict(zip(kinds, numbers[4:], strict=True))),
    )


def photo(
    name: str, label: str = "a", *, like: Photo | None = None, part: Part | None = None
) -> Photo:
    """A photo whose content is its name, with hashes of its own or of the one that it is `like`."""
    rng = np.random.default_rng(sum(ord(c) * 131**i for i, c in enumerate(name)))
    return Photo(
        path=f"{label}/{name}.jpg",
        digest=name,
        labels=(label,),
        part=part,
        width=80,
        height=60,
        packed_hashes=like.packed_hashes if like else hashes(rng),
    )


def collection(root: Path, photos: Sequence[Photo]) -> Collection:
    return Collection(root=root, photos=tuple(sorted(photos, key=lambda p: p.path)))


@pytest.fixture
def old() -> dict[str, Photo]:
    return {name: photo(name) for name in ("t1", "t2", "v1", "x1")}


PARTS: dict[str, Part] = {"t1": "train", "t2": "train", "v1": "validation", "x1": "test"}


def test_photos_keep_their_side_and_what_looks_like_them_goes_along(
    tmp_path: Path, old: dict[str, Photo]
) -> None:
    alike = photo("n1", like=old["x1"])
    free = photo("n2")
    kept = pin_parts(
        collection(tmp_path, [*old.values(), alike, free]), EarlierPhotos(parts=PARTS), CONFIG
    )
    assert dict(kept.parts) == {**PARTS, "n1": "test"}
    assert len(kept.collection) == 6
    assert kept.notes == (
        "4 photos keep their part of the earlier run; 1 near-duplicate of these joins the same "
        "part; 1 is new.",
    )


def test_a_relabeled_photo_keeps_its_side(tmp_path: Path, old: dict[str, Photo]) -> None:
    renamed = [photo(name, "new label") for name in old]
    kept = pin_parts(collection(tmp_path, renamed), EarlierPhotos(parts=PARTS), CONFIG)
    assert dict(kept.parts) == PARTS


def test_a_new_photo_that_looks_like_both_sides_is_left_out(
    tmp_path: Path, old: dict[str, Photo]
) -> None:
    twin = photo("t3", like=old["x1"])
    interpolate = photo("n1", like=old["x1"])
    parts: dict[str, Part] = {**PARTS, "t3": "train"}
    kept = pin_parts(
        collection(tmp_path, [*old.values(), twin, interpolate]), EarlierPhotos(parts=parts), CONFIG
    )
    assert [p.digest for p in kept.collection.photos] == ["t1", "t2", "t3", "v1", "x1"]
    assert kept.parts["t3"] == "train"
    assert kept.parts["x1"] == "test"
    assert kept.notes[-1] == (
        "1 new photo resembles earlier photos of more than one part and is left out, a/n1.jpg "
        "among them."
    )


def test_a_photo_like_one_that_is_no_longer_here_goes_where_that_one_was(
    tmp_path: Path, old: dict[str, Photo]
) -> None:
    memory = EarlierPhotos(parts=PARTS, absent=(old["v1"], old["x1"]))
    here = [old["t1"], photo("n1", like=old["v1"]), photo("n2", like=old["x1"]), photo("n3")]
    kept = pin_parts(collection(tmp_path, here), memory, CONFIG)
    assert dict(kept.parts) == {"t1": "train", "n1": "validation", "n2": "test"}


def test_a_training_photo_that_was_moved_to_the_test_folder_still_trains(
    tmp_path: Path,
) -> None:
    photos = [photo("t1", part="test"), photo("v1", part="validation")]
    kept = pin_parts(collection(tmp_path, photos), EarlierPhotos(parts=PARTS), CONFIG)
    assert kept.parts["t1"] == "train"
    assert kept.notes[-1] == (
        "1 photo is in the folder of another part than before, and stays in the old one, a/t1.jpg "
        "among them."
    )


def make_run(
    path: Path, rows: dict[str, Part], photos: Path, origin: Path | None = None
) -> RunFolder:
    path.mkdir()
    run = RunFolder(path)
    write_split(
        run.split_file,
        [
            SplitRow(path=f"{digest}.jpg", digest=digest, labels=("a",), group=digest, part=part)
            for digest, part in rows.items()
        ],
    )
    content = {"photos": str(photos), "model": "resnet18", "settings": {}}
    if origin:
        content |= {"from": {"run": str(origin)}}
    run.config_file.write_text(json.dumps(content))
    return run


def test_what_the_runs_before_it_learned_is_remembered_too(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", {"p": "train", "q": "test"}, tmp_path)
    second = make_run(tmp_path / "second", {"q": "train", "r": "validation"}, tmp_path, first.path)
    third = make_run(tmp_path / "third", {"r": "validation"}, tmp_path, second.path)
    memory = earlier_photos(third, collection(tmp_path, []))
    assert memory.parts == {"p": "train", "q": "train", "r": "validation"}
    assert memory.notes == ()


def test_a_run_before_it_that_is_gone_is_said(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    run = make_run(tmp_path / "second", {"q": "train"}, tmp_path, gone)
    memory = earlier_photos(run, collection(tmp_path, []))
    assert memory.notes == (
        f"{gone}, a parent run of {run.path}, is missing: photos that only it was trained on count "
        "as new.",
    )


@pytest.mark.parametrize("seed", range(5))
def test_new_photos_are_split_as_usual_and_old_ones_stay(tmp_path: Path, seed: int) -> None:
    old = {f"o{label}{n}": photo(f"o{label}{n}", label) for label in "ab" for n in range(10)}
    learned: list[Part] = ["train"] * 7
    where: list[Part] = [*learned, "validation", "test", "test"]
    parts = {digest: where[int(digest[-1])] for digest in old}
    new = [photo(f"n{label}{n}", label) for label in "abc" for n in range(20)]
    run = make_run(tmp_path / "run", parts, tmp_path)
    split = split_with_pinned(collection(tmp_path, [*old.values(), *new]), run, CONFIG, seed=seed)
    after = {row.digest: row.part for row in split.rows}
    assert {digest: after[digest] for digest in old} == parts
    for label in "abc":
        drawn = [after[f"n{label}{n}"] for n in range(20)]
        assert [drawn.count(p) for p in ("train", "validation", "test")] == [14, 3, 3]
    assert split.proof is not None
    assert split.proof.holds

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

import numpy as np

from finetune.photos.split.split import read_split
from finetune.prediction.export.export import load_sample, photos_of_run
from finetune.prediction.inputs import working_image
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import RunFolder, open_run


class Trained(Protocol):
    run: Path
    photos: Path


def test_held_out_photos_and_training_photos_are_told_apart(trained: Trained) -> None:
    held_out, training = photos_of_run(open_run(trained.run))
    rows = read_split(open_run(trained.run).split_file)
    assert training == [trained.photos / row.path for row in rows if row.part == "train"]
    assert held_out == [trained.photos / row.path for row in rows if row.part != "train"]
    assert held_out
    assert len({*held_out, *training}) == 16


def test_photos_that_are_gone_are_left_out_and_training_photos_stand_in(
    trained: Trained, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(trained.photos, photos)
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace(str(trained.photos), str(photos)))
    held_out, training = photos_of_run(RunFolder(run))
    for path in (*held_out, training[0]):
        path.unlink()
    assert photos_of_run(RunFolder(run)) == (training[1:], training[1:])


def test_a_few_photos_are_spread_over_all_and_a_bad_one_is_left_out(
    trained: Trained, tmp_path: Path
) -> None:
    preprocessing = TorchEngine.load(open_run(trained.run), device="cpu").metadata.preprocessing
    files = sorted(trained.photos.rglob("*.png"))
    assert len(files) == 16
    found = list(load_sample(files, 4, preprocessing))
    assert [photo.path for photo in found] == [files[0], files[5], files[10], files[15]]
    for photo in found:
        np.testing.assert_array_equal(photo.image, working_image(photo.path, preprocessing))
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    assert [
        photo.path for photo in load_sample([files[0], bad, files[1]], 64, preprocessing)
    ] == files[:2]
    assert list(load_sample(files, 0, preprocessing)) == []
    assert list(load_sample([], 4, preprocessing)) == []

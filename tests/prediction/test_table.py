from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import ConfigError
from finetune.prediction.predictions import PhotoPrediction, Ranked
from finetune.prediction.table import PredictionTable


def prediction(photo: str, *shares: tuple[str, float]) -> PhotoPrediction:
    ranked = tuple(Ranked(label=label, probability=share) for label, share in shares)
    if not ranked:
        return PhotoPrediction.failed(photo, "truncated")
    return PhotoPrediction(photo=photo, status="unsure", ranked=ranked)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def test_a_row_a_photo_with_its_labels_or_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "answers.csv"
    with PredictionTable(path, run="garden", top=2) as table:
        table.add(prediction("a.jpg", ("heron", 0.75), ("=1+1", 0.25)))
        table.add(prediction('b\n,".jpg'))
    assert path.read_bytes().startswith(b"\xef\xbb\xbfphoto,status")
    assert rows_of(path) == [
        ["photo", "status", "label", "probability", "label_2", "probability_2", "error", "run"],
        ["a.jpg", "unsure", "heron", "0.75", "'=1+1", "0.25", "", "garden"],
        ['b\n,".jpg', "failed", "", "", "", "", "truncated", "garden"],
    ]


NAMES = ["plain.jpg", 'quo"te.jpg', "line\nbreak.jpg", "comma,.jpg", "カワセミ.jpg", "=cell.jpg"]


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(0, 400))
def test_wherever_it_is_cut_no_row_is_missing_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "answers.csv"
    photos = [Path(name) for name in NAMES]
    with PredictionTable(path, run="r", top=1) as table:
        for photo in photos:
            table.add(prediction(str(photo), ("x", 0.5)))
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))])
    with PredictionTable(path, run="r", top=1) as table:
        for photo in list(table.missing(photos)):
            table.add(prediction(str(photo), ("x", 0.5)))
    assert path.read_bytes() == whole


def test_a_photo_named_twice_has_two_rows(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    photos = [Path("a.jpg"), Path("a.jpg"), Path("b.jpg")]
    with PredictionTable(path, run="r", top=1) as table:
        table.add(prediction("a.jpg", ("x", 1)))
    with PredictionTable(path, run="r", top=1) as table:
        assert list(table.missing(photos)) == [Path("a.jpg"), Path("b.jpg")]


def test_another_photo_of_the_same_name_gets_a_row_too(tmp_path: Path) -> None:
    path, photo, other = tmp_path / "answers.csv", tmp_path / "DSC_0001.jpg", tmp_path / "2.jpg"
    photo.write_bytes(b"one")
    other.write_bytes(b"two")
    with PredictionTable(path, run="garden", top=1) as table:
        table.add(prediction(str(photo), ("heron", 1.0)))
        table.add(prediction(str(other), ("heron", 1.0)))
    written = path.stat().st_mtime_ns
    os.utime(path, ns=(written, written - 10**9))  # the next card comes a second later
    os.utime(other, ns=(written, written - 2 * 10**9))
    photo.write_bytes(b"two")
    os.utime(photo, ns=(written, written - 3 * 10**9))  # and keeps the camera's time
    with PredictionTable(path, run="garden", top=1) as table:
        found = list(table.missing([photo, other]))
    assert photo in found
    assert table.changed == len(found)


def test_another_file_or_run_is_not_gone_on_with(tmp_path: Path) -> None:
    strange = tmp_path / "mine.csv"
    for content in (b"name,age\nx,3\n", b"half a line"):
        strange.write_bytes(content)
        with pytest.raises(ConfigError) as error:
            PredictionTable(strange, run="r", top=1)
        assert str(error.value) == (
            f"--csv {strange} exists already and is not a table of predictions with --top 1. "
            "Name another file."
        )
        assert strange.read_bytes() == content
    path = tmp_path / "answers.csv"
    with PredictionTable(path, run="old", top=1) as table:
        table.add(prediction("a.jpg", ("x", 1)))
    message = f"--csv {path} holds predictions of the run old, not new."
    with pytest.raises(ConfigError, match=re.escape(message)):
        PredictionTable(path, run="new", top=1)

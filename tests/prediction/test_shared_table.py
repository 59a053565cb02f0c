"""A prediction table that several processes fill."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import ConfigError
from finetune.prediction import shared_table
from finetune.prediction.predictions import PhotoPrediction, Ranked
from finetune.prediction.shared_table import has_parts, merge_parts, open_part
from finetune.prediction.table import PredictionTable, read_rows
from finetune.processes import Share

NAMES = ["plain.jpg", 'quo"te.jpg', "line\nbreak.jpg", "comma,.jpg", "カワセミ.jpg", "=cell.jpg"]
PHOTOS = [Path(f"{number}/{name}") for number in range(3) for name in NAMES]


def prediction(photo: Path) -> PhotoPrediction:
    if "comma" in photo.name:
        return PhotoPrediction.failed(str(photo), "truncated")
    share = len(str(photo)) / 40
    return PhotoPrediction(
        photo=str(photo), status="unsure", ranked=(Ranked(label="x", probability=share),)
    )


def open_table(path: Path, others: Sequence[Path] = ()) -> PredictionTable:
    return PredictionTable(path, run="garden", top=1, others=others)


def by_one_process(path: Path, photos: Sequence[Path] = PHOTOS) -> bytes:
    with open_table(path) as table:
        table.add_all([prediction(photo) for photo in table.missing(photos)])
    return path.read_bytes()


def predict(path: Path, share: Share, photos: Sequence[Path], limit: int = 99) -> None:
    """What a process does; it is killed after `limit` rows."""
    with open_part(path, share, open_table) as table:
        mine = [photos[row] for row in share.of([str(photo) for photo in photos], unit=4)]
        for photo in list(table.missing(mine))[:limit]:
            table.add(prediction(photo))


def test_parts_become_the_table_of_one_process(tmp_path: Path) -> None:
    whole = by_one_process(tmp_path / "one.csv")
    path = tmp_path / "two.csv"
    for rank in (1, 0):
        assert merge_parts(path, PHOTOS) is None
        predict(path, Share(rank=rank, count=2), PHOTOS)
    merged = merge_parts(path, PHOTOS)
    assert merged is not None
    assert (merged.rows, merged.failed) == (18, 3)
    assert path.read_bytes() == whole
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.csv", "two.csv"]
    assert merge_parts(path, PHOTOS) is None


@settings(max_examples=40)
@given(
    kills=st.lists(
        st.tuples(st.integers(1, 3), st.lists(st.integers(0, 9), min_size=3, max_size=3)),
        max_size=3,
    ),
    cut=st.integers(0, 30),
    last=st.integers(1, 3),
)
def test_no_kill_loses_or_doubles_a_row(
    tmp_path_factory: pytest.TempPathFactory,
    kills: list[tuple[int, list[int]]],
    cut: int,
    last: int,
) -> None:
    folder = tmp_path_factory.mktemp("kills")
    whole = by_one_process(folder / "one.csv")
    path = folder / "table.csv"
    for count, limits in kills:
        for rank in range(count):
            predict(path, Share(rank=rank, count=count), PHOTOS, limits[rank])
        part = next((folder / "table.csv.parts").glob("*.csv"))
        part.write_bytes(part.read_bytes()[: -cut or None])  # a row that was half written
    for rank in range(last):
        predict(path, Share(rank=rank, count=last), PHOTOS)
    assert merge_parts(path, PHOTOS) is not None
    assert path.read_bytes() == whole


def test_nothing_is_merged_while_a_process_works(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    predict(path, Share(rank=0, count=2), PHOTOS)
    with open_part(path, Share(rank=1, count=2), open_table) as table:
        table.add_all([prediction(photo) for photo in table.missing(PHOTOS)])
        assert merge_parts(path, PHOTOS) is None
        message = re.escape(f"Another process is writing {path}.parts/2-of-2.csv. Wait until it")
        with (
            pytest.raises(ConfigError, match=message),
            open_part(path, Share(rank=1, count=2), open_table),
        ):
            pass
    assert merge_parts(path, PHOTOS) is not None


@pytest.mark.parametrize("moment", ["before the table is there", "after it"])
def test_a_killed_merge_is_done_again_or_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    whole = by_one_process(tmp_path / "one.csv")
    path = tmp_path / "table.csv"
    for rank in (0, 1):
        predict(path, Share(rank=rank, count=2), PHOTOS)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        if moment == "after it":
            patched.setattr(shared_table, "_remove_parts", kill)
        else:
            patched.setattr(os, "replace", kill)
        merge_parts(path, PHOTOS)
    assert has_parts(path)
    for rank in (0, 1):
        predict(path, Share(rank=rank, count=2), PHOTOS)
    assert merge_parts(path, PHOTOS) is not None
    assert path.read_bytes() == whole


def test_a_table_grows_by_new_photos_and_copies_of_names(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    by_one_process(one, PHOTOS[4:9])
    by_one_process(two, PHOTOS[4:9])
    asked = [*PHOTOS, PHOTOS[0], Path("new.jpg")]
    whole = by_one_process(one, asked)
    for rank in (0, 1):
        predict(two, Share(rank=rank, count=2), asked)
    assert merge_parts(two, asked) is not None
    assert two.read_bytes() == whole


def test_rows_of_other_photos_stay(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    predict(path, Share(rank=0, count=1), PHOTOS[:5])
    predict(path, Share(rank=0, count=2), PHOTOS[5:9])
    predict(path, Share(rank=1, count=2), PHOTOS[5:9])
    assert merge_parts(path, PHOTOS[5:9]) is not None
    names = [row[0] for _, row in read_rows(path)][1:]
    guarded = [f"{photo}".replace("\n", "\\n") for photo in (*PHOTOS[5:9], *PHOTOS[:5])]
    assert [name.replace("\n", "\\n") for name in names] == guarded


def test_a_photo_that_changed_gets_another_row(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"one")
    path = tmp_path / "table.csv"
    predict(path, Share(rank=0, count=1), [photo])
    part = next((tmp_path / "table.csv.parts").glob("*.csv"))
    os.utime(part, ns=(0, 0))
    predict(path, Share(rank=0, count=2), [photo])
    predict(path, Share(rank=1, count=2), [photo])
    merged = merge_parts(path, [photo])
    assert merged is not None
    assert merged.rows == 2


def test_shares_are_whole_batches_and_every_photo_once() -> None:
    for total in (0, 1, 7, 8, 9, 33):
        for count in (1, 2, 3, 5):
            shares = [Share(rank=rank, count=count).rows(total, unit=4) for rank in range(count)]
            assert [row for share in shares for row in share] == list(range(total))
            assert all(share.start % 4 == 0 for share in shares if share)
    names = ["a", "b", "a", "c", "a"]
    assert [Share(rank=rank, count=2).of(names) for rank in (0, 1)] == [[0, 1, 2, 4], [3]]


def test_processes_that_end_at_once_merge_once(tmp_path: Path) -> None:
    whole = by_one_process(tmp_path / "one.csv")
    for turn in range(20):
        path = tmp_path / f"{turn}.csv"
        start = threading.Barrier(4)

        def work(rank: int, path: Path = path, start: threading.Barrier = start) -> bool:
            start.wait()
            predict(path, Share(rank=rank, count=4), PHOTOS)
            return merge_parts(path, PHOTOS) is not None

        with ThreadPoolExecutor(4) as pool:
            merged = list(pool.map(work, range(4)))
        assert sum(merged) == 1
        assert path.read_bytes() == whole
        assert not (tmp_path / f"{turn}.csv.parts").exists()

"""Shards of a scan, which several processes read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.errors import CatalogError, ConfigError
from finetune.photos import scan as scanning
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.catalog.shards import in_shard, open_shard, parse_shard
from finetune.photos.decode import pool
from finetune.photos.scan import scan, scan_shard
from finetune.processes import Share


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / "photos" / ("ant", "bee")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(file)
    (tmp_path / "photos" / "ant" / "bad.jpg").write_bytes(b"no photo")
    return tmp_path / "photos"


def shards_of(root: Path) -> list[str]:
    return sorted(file.name for file in (root / ".finetune").glob("shards/*"))


def test_a_scan_takes_the_shards_and_reads_nothing_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = scan(root, catalog=tmp_path / "plain.sqlite3")
    found = [scan_shard(root, Share(rank=rank, count=3)) for rank in (2, 0, 1)]
    assert sum(files for files, _ in found) == 25
    assert [bad for _, bad in found].count(1) == 1
    assert all(files > 2 for files, _ in found)
    assert len(shards_of(root)) >= 3
    read: list[int] = []
    original = pool.analyze_all

    def spy(tasks: list[Any], *rest: Any, **options: Any) -> Any:
        read.append(len(tasks))
        return original(tasks, *rest, **options)

    monkeypatch.setattr(scanning, "analyze_all", spy)
    merged = scan(root)
    assert read == [0]
    assert (merged.photos, merged.problems) == (plain.photos, plain.problems)
    assert not (root / ".finetune" / "shards").exists()


def test_a_shard_reads_only_what_the_catalog_lacks(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Share(rank=0, count=2)
    scan(root)
    new = next(
        f"new{number}.png" for number in range(99) if in_shard(f"ant/new{number}.png", share)
    )
    Image.new("RGB", (40, 30), (200, 30, 30)).save(root / "ant" / new)
    seen: list[str] = []
    original = pool.analyze_all

    def spy(tasks: list[Any], *rest: Any, **options: Any) -> Any:
        seen.extend(Path(task.path).name for task in tasks)
        return original(tasks, *rest, **options)

    monkeypatch.setattr(scanning, "analyze_all", spy)
    scan_shard(root, share)
    assert seen == [new]
    assert any(photo.path == f"ant/{new}" for photo in scan(root).photos)
    assert seen == [new]


def test_an_interrupted_shard_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = Share(rank=1, count=2)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_shard(root, share, progress=stop)
    totals: list[int] = []
    files, _ = scan_shard(root, share, progress=lambda done, total: totals.append(total))
    assert set(totals) == {files - 3}


def test_a_shard_in_use_is_neither_scanned_nor_merged(root: Path) -> None:
    share = Share(rank=0, count=2)
    scan_shard(root, share)
    with open_catalog(root) as whole, open_shard(whole.path, share):
        with pytest.raises(CatalogError, match=re.escape("Another process scans shard 1/2.")):
            scan_shard(root, share)
        scan(root)
        assert "1-of-2.sqlite3" in shards_of(root)
    scan(root)
    assert shards_of(root) == []


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_shard_that_cannot_be_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_shard(text)
    assert str(error.value) == f"--shard {text} must be I/N with I from 1 to N, such as 2/8."


def test_the_command_says_what_is_next(root: Path) -> None:
    from typer.testing import CliRunner

    from finetune.cli import app

    result = CliRunner().invoke(app, ["scan", str(root), "--shard", "1/1"])
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "Shard 1/1: 25 photos, 1 of which cannot be opened. Once all shards are read: finetune "
        f"scan {root}\n"
    )

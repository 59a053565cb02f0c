from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from finetune.errors import CatalogError
from finetune.photos.catalog.catalog import Catalog, open_catalog
from finetune.photos.catalog.repair import BACKUP_SECONDS, backup_path, repair
from finetune.photos.crops import Crop

PAGE = 4096


def digest(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A catalog of 400 labels in several pages, three crops, a group and an exclusion."""
    path = tmp_path / "catalog.sqlite3"
    with open_catalog(tmp_path, path) as catalog:
        with catalog.writer("label 400 photos", [digest(n) for n in range(400)]) as writer:
            for number in range(400):
                writer.set_labels(digest(number), [f"label {number % 7}"])
        with catalog.writer("crop 3 photos", [digest(n) for n in range(3)]) as writer:
            for number in range(3):
                writer.set_crop(digest(number), Crop(center_x=0.5, center_y=0.4, side=0.3))
            writer.set_group(digest(5), "burst")
    return path


def labels(path: Path) -> dict[str, tuple[str, ...] | None]:
    with Catalog(path) as catalog:
        return {key: found.labels for key, found in catalog.annotations().items()}


def spoil(path: Path, page: int) -> None:
    content = bytearray(path.read_bytes())
    content[page * PAGE : (page + 1) * PAGE] = b"\x5a" * PAGE
    path.write_bytes(content)


def page_of(path: Path, text: bytes) -> int:
    """The first page that has these bytes."""
    return path.read_bytes().index(text) // PAGE


def test_an_intact_catalog_is_not_repaired(path: Path) -> None:
    before = path.read_bytes()
    assert repair(path) is None
    assert path.read_bytes() == before


def test_a_damaged_page_costs_its_own_rows_alone(path: Path) -> None:
    before = labels(path)
    spoil(path, page_of(path, digest(200).encode()))
    with pytest.raises(CatalogError, match="--repair"):
        labels(path)
    done = repair(path)
    assert done is not None
    after = labels(path)
    assert 300 < len(after) < 400
    assert done.saved["label"] == sum(found is not None for found in after.values())
    assert all(before[key] == found for key, found in after.items())
    assert done.moved_to.is_file()
    with Catalog(path) as catalog:
        assert catalog.groups() == {digest(5): "burst"}
        assert len(catalog.crops()) == 3


def test_rows_that_are_lost_come_from_the_backup(path: Path) -> None:
    open_catalog(path.parent, path).close()
    assert backup_path(path).is_file()
    before = labels(path)
    spoil(path, page_of(path, digest(200).encode()))
    done = repair(path)
    assert done is not None
    assert 0 < done.from_backup < 100
    assert labels(path) == before


def test_a_file_that_is_no_database_is_replaced_by_the_backup(path: Path) -> None:
    open_catalog(path.parent, path).close()
    before = labels(path)
    path.write_bytes(b"noise" * 5000)
    assert repair(path) is not None
    assert labels(path) == before


def test_the_backup_has_annotations_alone_and_is_made_once_a_day(path: Path) -> None:
    copy = backup_path(path)
    open_catalog(path.parent, path).close()
    first = copy.stat().st_mtime_ns
    open_catalog(path.parent, path).close()
    assert copy.stat().st_mtime_ns == first
    old = time.time() - BACKUP_SECONDS - 1
    os.utime(copy, (old, old))
    with open_catalog(path.parent, path) as catalog:
        catalog.set_labels([digest(999)], ["new"])
    assert copy.stat().st_mtime_ns > first
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM label").fetchone() == (400,)
    connection.close()
    assert labels(copy).keys() == labels(path).keys() - {digest(999)}


def test_a_damaged_catalog_does_not_replace_its_backup(path: Path) -> None:
    open_catalog(path.parent, path).close()
    copy = backup_path(path)
    old = time.time() - BACKUP_SECONDS - 1
    os.utime(copy, (old, old))
    kept = copy.read_bytes()
    spoil(path, page_of(path, digest(200).encode()))
    with pytest.raises(CatalogError, match="is damaged"):
        open_catalog(path.parent, path)
    assert copy.read_bytes() == kept


def test_text_that_is_no_utf8_is_damage(path: Path) -> None:
    content = path.read_bytes()
    place = content.index(b"label 3")
    path.write_bytes(content[:place] + b"lab\xffl 3" + content[place + 7 :])
    with pytest.raises(CatalogError, match="Could not decode to UTF-8"):
        labels(path)
    done = repair(path)
    assert done is not None
    assert len(labels(path)) >= 399


def test_there_is_nothing_to_repair_without_a_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="There is no catalog"):
        repair(tmp_path / "none.sqlite3")
    shutil.rmtree(tmp_path)

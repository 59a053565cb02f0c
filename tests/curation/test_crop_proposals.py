from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.curation.crop_proposals import accept, clear, propose, undo_accept
from finetune.errors import DecodeError
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.collection import Collection
from finetune.photos.crops import Crop
from finetune.photos.scan import scan

LEFT, RIGHT = Crop(center_x=0.2, side=0.3), Crop(center_x=0.8, side=0.4)


@pytest.fixture
def three(birds: Path, tmp_path: Path) -> Collection:
    root = tmp_path / "three"
    root.mkdir()
    paths = sorted((birds / "mallard").iterdir())[:3]
    for number, path in enumerate(paths):
        shutil.copy(path, root / f"{number}.jpg")
    return scan(root)


def test_a_policy_is_asked_once_a_content(three: Collection) -> None:
    shutil.copy(three.root / "0.jpg", three.root / "copy.jpg")
    collection = scan(three.root)
    asked: list[bytes] = []

    def policy(source: Path | bytes | NDArray[np.uint8], /) -> Crop | None:
        assert isinstance(source, bytes)
        asked.append(source)
        return LEFT if len(asked) < 3 else None

    calls: list[tuple[int, int]] = []
    found = propose(collection, policy, progress=lambda *done: calls.append(done))
    assert len(asked) == 3
    assert list(found.crops.values()) == [LEFT, LEFT]
    assert len(found.nothing_found) == 1
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_skipped_photos_get_no_crop(three: Collection) -> None:
    skip = {three.photos[1].digest}
    found = propose(three, lambda source: LEFT, skip=skip)
    assert set(found.crops) == {three.photos[0].digest, three.photos[2].digest}


def test_bad_photos_are_named(three: Collection) -> None:
    (three.root / three.photos[0].path).unlink()
    spoiled = (three.root / three.photos[1].path).read_bytes()

    def policy(source: Path | bytes | NDArray[np.uint8], /) -> Crop | None:
        if source == spoiled:
            raise DecodeError(None, "truncated")
        return RIGHT

    found = propose(three, policy)
    assert [(p.path, p.reason) for p in found.problems] == [
        ("0.jpg", "no such file or directory"),
        ("1.jpg", "truncated"),
    ]
    assert found.crops == {three.photos[2].digest: RIGHT}


def test_accepting_makes_squares_a_persons_and_can_be_undone(three: Collection) -> None:
    digests = [photo.digest for photo in three.photos]
    with open_catalog(three.root) as catalog:
        with catalog.writer("crop", [digests[0]]) as writer:
            writer.set_crop(digests[0], RIGHT)
        catalog.propose_crops(dict.fromkeys(digests, LEFT))
        assert catalog.crop_sources() == {
            digests[0]: "person",
            digests[1]: "model",
            digests[2]: "model",
        }
        assert accept(catalog, [digests[0], digests[1]]) == 1
        assert accept(catalog) == 1
        assert accept(catalog) == 0
        assert set(catalog.crop_sources().values()) == {"person"}
        assert catalog.crops()[digests[0]] == RIGHT
        assert undo_accept(catalog) == "crop 1 photo"
        assert catalog.crop_sources()[digests[2]] == "model"
        assert catalog.crops()[digests[2]] == LEFT


def test_clearing_keeps_what_a_person_chose(three: Collection) -> None:
    digests = [photo.digest for photo in three.photos]
    with open_catalog(three.root) as catalog:
        with catalog.writer("crop", [digests[0]]) as writer:
            writer.set_crop(digests[0], RIGHT)
        catalog.propose_crops(dict.fromkeys(digests, LEFT))
        assert clear(catalog, [digests[0], digests[1]]) == 1
        assert clear(catalog) == 1
        assert catalog.crops() == {digests[0]: RIGHT}


def test_undo_leaves_labels_alone(three: Collection) -> None:
    digest = three.photos[0].digest
    with open_catalog(three.root) as catalog:
        assert undo_accept(catalog) is None
        with catalog.writer("crop", [digest]) as writer:
            writer.set_crop(digest, LEFT)
        catalog.set_labels([digest], ["heron"])
        assert undo_accept(catalog) is None
        assert catalog.crops() == {digest: LEFT}
        assert catalog.assigned_labels() == {digest: ("heron",)}

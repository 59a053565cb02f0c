from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from finetune.photos.collection import (
    Collection,
    Photo,
    Problem,
    hash_array,
    pack_hashes,
)
from finetune.photos.labels import NO_PARTS, find_parts
from finetune.photos.near_duplicates.hashing import PhotoHashes
from finetune.photos.quality import Quality

HIGHEST = 2**64 - 1
HASHES = PhotoHashes(perceptual=1, average=2, difference=3, wavelet=HIGHEST)
MIRRORED = PhotoHashes(perceptual=5, average=6, difference=7, wavelet=8)


def photo(path: str, **fields: object) -> Photo:
    return Photo(path=path, digest="00", width=4, height=3, **fields)  # type: ignore[arg-type]


def test_labels_are_every_label_sorted() -> None:
    photos = (photo("a", labels=("gull", "flying")), photo("b", labels=("heron",)), photo("c"))
    collection = Collection(root=Path("x"), photos=photos)
    assert collection.labels == ("flying", "gull", "heron")
    assert len(collection) == 3


def test_has_parts_when_a_photo_lies_in_one() -> None:
    assert not Collection(root=Path("x"), photos=(photo("a"),)).has_parts
    assert Collection(root=Path("x"), photos=(photo("a", part="test"),)).has_parts


def test_path_of_is_below_the_root() -> None:
    collection = Collection(root=Path("x/y"), photos=(photo("a/b.jpg"),))
    assert collection.path_of(collection.photos[0]) == Path("x/y/a/b.jpg")
    assert collection.path_of(Problem(path="c.jpg", reason="truncated")) == Path("x/y/c.jpg")


@pytest.mark.parametrize(("path", "folder"), [("a.jpg", ""), ("a/b.jpg", "a"), ("a/b/c", "a/b")])
def test_folder_is_the_path_without_the_name(path: str, folder: str) -> None:
    assert photo(path).folder == folder


def test_hash_array_has_one_number_a_photo() -> None:
    packed = [photo("a", packed_hashes=pack_hashes(HASHES, MIRRORED))] * 2
    for kind in ("perceptual", "average", "difference", "wavelet"):
        for mirrored, source in ((False, HASHES), (True, MIRRORED)):
            numbers = hash_array(packed, kind, mirrored=mirrored)
            assert numbers.dtype == np.uint64
            assert numbers.tolist() == [getattr(source, kind)] * 2
    assert hash_array([]).shape == (0,)


def test_hash_array_names_the_photo_without_hashes() -> None:
    with pytest.raises(ValueError, match=r"^b\.jpg has no hashes$"):
        hash_array([photo("b.jpg")])


def test_ten_thousand_photos_take_a_few_megabytes() -> None:
    tracemalloc.start()
    photos = tuple(
        Photo(
            path=f"label-{number % 50}/IMG_{number:05}.jpg",
            digest=f"{number:032x}",
            width=4000,
            height=3000,
            taken_at=f"2024-01-01T00:00:{number % 60:02}",
            packed_hashes=number.to_bytes(64, "big"),
            quality=Quality(brightness=number / 1e5, contrast=number / 1e6, sharpness=0.1),
            file_bytes=number * 1000,
        )
        for number in range(10_000)
    )
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(photos) == 10_000
    assert used < 10e6


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val", "DEV", "val_images"])
def test_ready_part_folders_are_found(validation: str) -> None:
    paths = ["train/heron/1.jpg", f"{validation}/heron/2.jpg", "test/heron/3.jpg"]
    parts = find_parts(paths)
    assert parts.names == {"train": "train", validation: "validation", "test": "test"}
    assert parts.place(paths[1]) == ("heron", "validation")
    assert parts.place("test/gulls/young/3.jpg") == ("gulls/young", "test")
    assert parts.place("test/4.jpg") == (None, "test")


@pytest.mark.parametrize(
    "paths",
    [
        ["train/1.jpg", "bus/2.jpg"],
        ["train/heron/1.jpg"],
        ["train/heron/1.jpg", "train/gull/2.jpg"],
        ["val/heron/1.jpg", "test/heron/2.jpg"],
        ["train/1.jpg", "test/2.jpg"],
        [],
    ],
)
def test_other_folders_are_labels_not_parts(paths: list[str]) -> None:
    assert find_parts(paths) == NO_PARTS


@pytest.mark.parametrize(
    ("paths", "places", "others"),
    [
        (  # one folder around everything, other names and cases
            ["brain/Training/glioma/1.jpg", "brain/Testing/glioma/2.jpg"],
            [("glioma", "train"), ("glioma", "test")],
            (),
        ),
        (  # parts below each label
            ["heron/tr/1.jpg", "heron/EVAL/2.jpg", "gulls/young/tr/3.jpg"],
            [("heron", "train"), ("heron", "test"), ("gulls/young", "train")],
            (),
        ),
        (  # folders beside the parts belong to none
            ["train/heron/1.jpg", "val/heron/2.jpg", "more/heron/3.jpg", "to_predict/4.jpg"],
            [("heron", "train"), ("heron", "validation"), (None, None), (None, None)],
            ("more", "to_predict"),
        ),
    ],
)
def test_part_folders_in_other_places_are_found(
    paths: list[str], places: list[tuple[str | None, str | None]], others: tuple[str, ...]
) -> None:
    parts = find_parts(paths)
    assert [parts.place(path) for path in paths] == places
    assert parts.others == others


def test_a_photo_gets_another_label_within_its_part() -> None:
    for path, moved in (
        ("brain/Training/glioma/1.jpg", "brain/Training/healthy"),
        ("brain/Testing/glioma/2.jpg", "brain/Testing/healthy"),
    ):
        parts = find_parts(["brain/Training/glioma/1.jpg", "brain/Testing/glioma/2.jpg"])
        assert parts.folder_of(path, "healthy") == moved
    parts = find_parts(["heron/tr/1.jpg", "heron/EVAL/2.jpg"])
    assert parts.folder_of("heron/tr/1.jpg", "gull") == "gull/tr"
    assert NO_PARTS.folder_of("heron/1.jpg", "gull") == "gull"


def test_without_parts_the_label_is_the_path_of_the_folder_in_nfc() -> None:
    assert NO_PARTS.place("a/b/c.jpg") == ("a/b", None)
    assert NO_PARTS.place("c.jpg") == (None, None)
    assert NO_PARTS.place("カ\u3099/c.jpg") == ("ガ", None)

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from finetune.config import Fit
from finetune.errors import CollectionError
from finetune.photos import scan as scanning
from finetune.photos.analyze import Analysis, ResizeSettings, Task
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.collection import hash_array
from finetune.photos.crops import Crop, load_image
from finetune.photos.decode import pool
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.decode.pool import WorkerError
from finetune.photos.near_duplicates.hashing import hash_with_mirror
from finetune.photos.quality import measure
from finetune.photos.scan import find_photos, scan

WritePhoto = Callable[..., Path]
Draw = Callable[..., NDArray[np.uint8]]

KILLS = int(os.environ.get("FINETUNE_TEST_KILLS", "5"))


@pytest.fixture
def read_paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were read since, as the scan asks its pool for them."""
    seen: list[str] = []
    original = pool.analyze_all

    def spy(
        tasks: list[Task], preprocessing: ResizeSettings | None, **options: int | None
    ) -> Iterator[tuple[Task, Analysis]]:
        seen.extend(Path(task.path).name for task in tasks)
        return original(tasks, preprocessing, **options)

    monkeypatch.setattr(scanning, "analyze_all", spy)
    return seen


@pytest.fixture
def with_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FEW_PHOTOS", 1)


def by_path(root: Path, **options: object) -> dict[str, tuple[str, ...]]:
    return {photo.path: photo.labels for photo in scan(root, **options).photos}  # type: ignore[arg-type]


def test_folders_are_labels_at_any_depth(tmp_path: Path, write_photo: WritePhoto) -> None:
    for name in ("gulls/adult/1.jpg", "gulls/young/2.jpg", "heron/3.jpg", "4.jpg"):
        write_photo(tmp_path / name, 1)
    assert by_path(tmp_path) == {
        "4.jpg": (),
        "gulls/adult/1.jpg": ("gulls/adult",),
        "gulls/young/2.jpg": ("gulls/young",),
        "heron/3.jpg": ("heron",),
    }


def test_photo_has_all_its_facts(tmp_path: Path, write_photo: WritePhoto, draw: Draw) -> None:
    image = draw(3, 640, 400)
    path = write_photo(
        tmp_path / "heron" / "a.jpg",
        np.ascontiguousarray(np.rot90(image)),
        orientation=6,
        taken_at="2024:05:01 12:30:00",
        camera=("Canon", "EOS 90D"),
    )
    (photo,) = scan(tmp_path).photos
    assert photo.digest == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    assert (photo.width, photo.height) == (640, 400)
    assert (photo.taken_at, photo.camera) == ("2024-05-01T12:30:00", "Canon EOS 90D")
    assert photo.file_bytes == path.stat().st_size
    pixels = decode_photo(path, min_side_pixels=256)
    assert photo.quality == measure(pixels)
    expected = hash_with_mirror(pixels)
    for kind in ("perceptual", "difference"):
        for reference, mirrored in zip(expected, (False, True), strict=True):
            (found,) = hash_array([photo], kind, mirrored=mirrored).tolist()
            assert (found ^ getattr(reference, kind)).bit_count() <= 2


def test_label_is_nfc_and_the_path_is_as_on_disk(tmp_path: Path, write_photo: WritePhoto) -> None:
    write_photo(tmp_path / "カ\u3099" / "a.jpg", 1)
    write_photo(tmp_path / "ガ" / "b.jpg", 2)
    assert by_path(tmp_path) == {"カ\u3099/a.jpg": ("ガ",), "ガ/b.jpg": ("ガ",)}


def test_ready_part_folders_are_recognized(tmp_path: Path, write_photo: WritePhoto) -> None:
    for number, name in enumerate(("train/gull", "train/tern", "val/gull", "test/tern")):
        write_photo(tmp_path / name / "a.jpg", number)
    collection = scan(tmp_path)
    assert collection.has_parts
    assert [(photo.labels, photo.part) for photo in collection.photos] == [
        (("tern",), "test"),
        (("gull",), "train"),
        (("tern",), "train"),
        (("gull",), "validation"),
    ]


def test_hidden_and_system_folders_are_skipped(tmp_path: Path, write_photo: WritePhoto) -> None:
    write_photo(tmp_path / "heron" / "a.jpg", 1)
    for name in (".trash/b.jpg", "heron/.thumbs/c.jpg", "heron/._a.jpg", "@eaDir/d.jpg"):
        write_photo(tmp_path / name, 2)
    write_photo(tmp_path / "__MACOSX" / "heron" / "e.jpg", 3)
    (tmp_path / "heron" / "notes.txt").write_text("not a photo, and no problem")
    collection = scan(tmp_path)
    assert [photo.path for photo in collection.photos] == ["heron/a.jpg"]
    assert collection.problems == ()


def test_symlink_loops_end_and_linked_folders_are_labels(
    tmp_path: Path, write_photo: WritePhoto
) -> None:
    root = tmp_path / "photos"
    write_photo(root / "heron" / "a.jpg", 1)
    write_photo(tmp_path / "elsewhere" / "b.jpg", 2)
    (root / "heron" / "loop").symlink_to(root, target_is_directory=True)
    (root / "aaa").symlink_to(root / "heron", target_is_directory=True)
    (root / "gull").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(root, target_is_directory=True)
    (root / "heron" / "link.jpg").symlink_to(root / "heron" / "a.jpg")
    (root / "self.jpg").symlink_to(root / "self.jpg")
    collection = scan(root)
    assert [(photo.path, photo.labels) for photo in collection.photos] == [
        ("gull/b.jpg", ("gull",)),
        ("heron/a.jpg", ("heron",)),
    ]
    assert collection.other_names == {"heron/link.jpg": "heron/a.jpg"}
    assert [(problem.path, problem.reason) for problem in collection.problems] == [
        ("self.jpg", "a link to a file that is not there")
    ]


def test_a_file_is_one_photo_whatever_its_names(tmp_path: Path, write_photo: WritePhoto) -> None:
    root = tmp_path / "photos"
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
        write_photo(root / name, int(name[2]))
    write_photo(tmp_path / "nas" / "9.jpg", 9)
    (root / "a" / "0.jpg").symlink_to("1.jpg")  # before its file, in the order of names
    (root / "a" / "hard.jpg").hardlink_to(root / "a" / "2.jpg")
    (root / "b" / "also.jpg").symlink_to("../a/1.jpg")
    for name in ("out1.jpg", "out2.jpg"):
        (root / "b" / name).symlink_to(tmp_path / "nas" / "9.jpg")
    collection = scan(root, workers=1)
    assert [(photo.path, photo.labels) for photo in collection.photos] == [
        ("a/1.jpg", ("a",)),
        ("a/2.jpg", ("a",)),
        ("b/3.jpg", ("b",)),
        ("b/also.jpg", ("b",)),  # adds a label
        ("b/out1.jpg", ("b",)),
    ]
    assert collection.other_names == {
        "a/0.jpg": "a/1.jpg",
        "a/hard.jpg": "a/2.jpg",
        "b/also.jpg": "a/1.jpg",
        "b/out2.jpg": "b/out1.jpg",
    }


def test_another_photo_of_the_same_name_size_and_time_is_read(
    tmp_path: Path, write_photo: WritePhoto
) -> None:
    path = write_photo(tmp_path / "a" / "1.bmp", 1)
    first = scan(tmp_path, workers=1).photos[0]
    written = path.stat()
    catalog = tmp_path / ".finetune" / "catalog.sqlite3"
    os.utime(catalog, ns=(written.st_mtime_ns, written.st_mtime_ns - 10**9))
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
    second = scan(tmp_path, workers=1).photos[0]
    assert (second.file_bytes, second.digest != first.digest) == (first.file_bytes, True)


def test_camera_files_that_are_not_read_are_counted(
    tmp_path: Path, write_photo: WritePhoto
) -> None:
    write_photo(tmp_path / "a" / "1.jpg", 1)
    for name in ("1.CR2", "2.cr2", "clip.MOV", "notes.txt", "1.xmp"):
        (tmp_path / "a" / name).write_bytes(b"")
    assert scan(tmp_path, workers=1).other_kinds == {"cr2": 2, "mov": 1}


def test_folder_whose_entries_cannot_be_read_is_a_problem(
    tmp_path: Path, write_photo: WritePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open/1.jpg", "shut/deep/2.jpg"):
        write_photo(tmp_path / name, 1)
    stat = os.stat

    def refused(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", refused)
    found = find_photos(tmp_path)
    assert [file.path for file in found.files] == ["open/1.jpg"]
    assert [(problem.path, problem.reason) for problem in found.problems] == [
        ("shut/deep", "this folder cannot be listed: permission denied")
    ]


def test_bad_photos_are_rows_with_reasons(birds: Path, write_photo: WritePhoto) -> None:
    (birds / "gull" / "cut.jpg").write_bytes((birds / "gull" / "0.jpg").read_bytes()[:700])
    (birds / "gull" / "empty.png").write_bytes(b"")
    (birds / "gull" / "text.jpg").write_text("a heron")
    (birds / "gull" / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(birds / "gull" / "pipe.jpg")
    collection = scan(birds)
    assert len(collection) == 6
    assert [(problem.path, problem.reason) for problem in collection.problems] == [
        ("gull/cut.jpg", "truncated"),
        ("gull/empty.png", "empty file"),
        ("gull/gone.jpg", "a link to a file that is not there"),
        ("gull/pipe.jpg", "not a regular file"),
        ("gull/text.jpg", "not a photo"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_name_that_is_no_utf8_is_a_problem(birds: Path) -> None:
    source = os.fsencode(birds / "gull" / "0.jpg")
    shutil.copy(source, os.fsencode(birds) + b"/gull/m\xf6we.jpg")
    assert [(problem.path, problem.reason) for problem in scan(birds).problems] == [
        ("gull/m\ufffdwe.jpg", "the file's name is not valid UTF-8; rename it")
    ]


def test_folder_that_cannot_be_listed_is_a_problem(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.scandir

    def refuse(folder: str) -> Iterator[os.DirEntry[str]]:
        if str(folder).endswith("heron"):
            raise PermissionError(13, "Permission denied", folder)
        return original(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    collection = scan(birds)
    assert len(collection) == 3
    assert [(problem.path, problem.reason) for problem in collection.problems] == [
        ("heron", "this folder cannot be listed: permission denied")
    ]


EXPECTED = "Give a folder with one sub-folder of photos for each label."


def test_folders_that_are_none_are_refused(tmp_path: Path, write_photo: WritePhoto) -> None:
    file = write_photo(tmp_path / "a.jpg", 1)
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    for root, message in [
        (tmp_path / "nowhere", f"There is no folder {tmp_path / 'nowhere'}. {EXPECTED}"),
        (file, f"{file} is a file, not a folder. {EXPECTED}"),
        (tmp_path / "empty", f"There are no photos in {tmp_path / 'empty'}. {EXPECTED}"),
    ]:
        with pytest.raises(CollectionError) as caught:
            scan(root)
        assert str(caught.value) == message
    assert not (tmp_path / "empty" / ".finetune").exists()


def test_unreadable_folder_is_refused(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CollectionError) as caught:
        scan(birds)
    assert str(caught.value) == (
        f"The folder {birds} cannot be read: permission denied. "
        "Change its permissions, or copy the photos elsewhere."
    )


def test_only_corrupt_photos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gull").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "gull" / name).write_bytes(b"rubbish")
    for _ in range(2):
        with pytest.raises(CollectionError) as caught:
            scan(tmp_path)
        assert str(caught.value) == (
            f"None of the 2 photos in {tmp_path} can be opened; the first is gull/a.jpg: "
            "not a photo. Replace them by photos that other programs open."
        )


def test_unchanged_photos_are_not_read_again(birds: Path, read_paths: list[str]) -> None:
    (birds / "gull" / "bad.jpg").write_bytes(b"rubbish")
    first = scan(birds)
    assert len(read_paths) == 7
    read_paths.clear()
    assert scan(birds) == first
    assert read_paths == []


def test_only_new_and_changed_photos_are_read(
    birds: Path, write_photo: WritePhoto, read_paths: list[str]
) -> None:
    scan(birds)
    read_paths.clear()
    write_photo(birds / "gull" / "new.jpg", 50)
    write_photo(birds / "gull" / "1.jpg", 51)
    collection = scan(birds)
    assert sorted(read_paths) == ["1.jpg", "new.jpg"]
    assert len(collection) == 7
    assert len({photo.digest for photo in collection.photos}) == 7


def test_touched_photo_is_read_but_not_analyzed_again(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = scan(birds)
    os.utime(birds / "gull" / "1.jpg", ns=(1, 1))

    def fail(*args: object) -> None:
        raise AssertionError("analyzed again")

    monkeypatch.setattr("finetune.photos.analyze._analyze_content", fail)
    assert scan(birds) == before


def test_deleted_photos_leave_and_may_come_back(
    birds: Path, tmp_path: Path, read_paths: list[str]
) -> None:
    before = scan(birds)
    shutil.move(birds / "gull" / "1.jpg", tmp_path / "aside.jpg")
    assert len(scan(birds)) == 5
    shutil.move(tmp_path / "aside.jpg", birds / "gull" / "1.jpg")
    read_paths.clear()
    assert scan(birds) == before
    # At most compared by content, where the clock of the disk says that it came later.
    assert read_paths in ([], ["1.jpg"])


def test_moved_and_renamed_photos_keep_their_annotations(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(birds)
    (photo,) = [photo for photo in scan(birds).photos if photo.path == "gull/1.jpg"]
    with open_catalog(birds) as catalog:
        catalog.set_labels([photo.digest], ["tern"])
        with catalog.writer("crop", [photo.digest]) as writer:
            writer.set_crop(photo.digest, Crop(side=0.5))
    (birds / "new folder").mkdir()
    shutil.move(birds / "gull" / "1.jpg", birds / "new folder" / "renamed.jpg")
    shutil.move(birds / "gull" / "2.jpg", birds / "heron" / "from gull.jpg")

    def fail(*args: object) -> None:
        raise AssertionError("analyzed again")

    monkeypatch.setattr("finetune.photos.analyze._analyze_content", fail)
    photos = {photo.path: photo for photo in scan(birds).photos}
    moved = photos["new folder/renamed.jpg"]
    assert (moved.labels, moved.crop) == (("tern",), Crop(side=0.5))
    assert photos["heron/from gull.jpg"].labels == ("heron",)
    assert "gull/1.jpg" not in photos


def test_bad_photo_is_tried_again_when_the_reader_changes(
    birds: Path, read_paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (birds / "gull" / "bad.jpg").write_bytes(b"rubbish")
    scan(birds)
    read_paths.clear()
    monkeypatch.setattr(scanning, "reader_version", lambda: "with other eyes")
    scan(birds)
    assert read_paths == ["bad.jpg"]
    read_paths.clear()
    scan(birds)
    assert read_paths == []


def test_unread_photo_is_tried_again(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "1.jpg" and path.parent.name == "gull":
            raise PermissionError(13, "Permission denied")
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        (problem,) = scan(birds).problems
        assert (problem.path, problem.reason) == ("gull/1.jpg", "permission denied")
    assert scan(birds).problems == ()


def test_new_version_of_the_analysis_measures_again(
    birds: Path, read_paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(birds)
    read_paths.clear()
    monkeypatch.setattr(scanning, "ANALYSIS_VERSION", 999)
    scan(birds)
    assert len(read_paths) == 6


def test_catalog_may_lie_elsewhere(birds: Path, tmp_path: Path) -> None:
    before = sorted(birds.rglob("*"))
    scan(birds, catalog=tmp_path / "mine.sqlite3")
    assert (tmp_path / "mine.sqlite3").is_file()
    assert sorted(birds.rglob("*")) == before


def test_originals_are_never_changed(birds: Path) -> None:
    before = {path: path.read_bytes() for path in birds.rglob("*.jpg")}
    times = {path: path.stat().st_mtime_ns for path in before}
    scan(birds)
    assert {path: path.read_bytes() for path in birds.rglob("*.jpg")} == before
    assert {path: path.stat().st_mtime_ns for path in before} == times


def test_processes_and_threads_find_the_same(
    birds: Path, tmp_path: Path, with_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (birds / "gull" / "bad.jpg").write_bytes(b"rubbish")
    by_process = scan(birds, catalog=tmp_path / "a.sqlite3", workers=2)
    monkeypatch.setattr(pool, "FEW_PHOTOS", 10**9)
    by_thread = scan(birds, catalog=tmp_path / "b.sqlite3", workers=2)
    assert by_process == by_thread
    assert len(by_process.photos) == 6


def test_progress_counts_the_photos_that_are_read(birds: Path, with_processes: None) -> None:
    seen: list[tuple[int, int]] = []
    scan(birds, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(7)]
    seen.clear()
    scan(birds, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 0)]


class Shelf:
    """A sink that keeps images in a dictionary."""

    def __init__(self, size: int = 48) -> None:
        self.size = size
        self.fit: Fit = "crop"
        self.interpolation = "bicubic"
        self.images: dict[tuple[str, Crop | None], NDArray[np.uint8]] = {}

    def missing(self, digest: str, crop: Crop | None) -> bool:
        return (digest, crop) not in self.images

    def put(self, digest: str, crop: Crop | None, image: NDArray[np.uint8]) -> None:
        assert self.missing(digest, crop)
        self.images[digest, crop] = image


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("size", [48, 200])
def test_sink_gets_the_very_square_that_load_image_makes(
    tmp_path: Path,
    write_photo: WritePhoto,
    draw: Draw,
    monkeypatch: pytest.MonkeyPatch,
    processes: bool,
    size: int,
) -> None:
    monkeypatch.setattr(pool, "FEW_PHOTOS", 1 if processes else 10**9)
    for number in range(3):
        write_photo(tmp_path / "gull" / f"{number}.jpg", draw(number, 1600, 1100))
    shelf = Shelf(size)
    collection = scan(tmp_path, sink=shelf)
    assert len(shelf.images) == 3
    for photo in collection.photos:
        expected = load_image(collection.path_of(photo), size=size)
        np.testing.assert_array_equal(shelf.images[photo.digest, None], expected)


def test_known_photos_fill_a_sink_that_misses_them_with_their_crop(
    birds: Path, with_processes: None
) -> None:
    first = scan(birds)
    crop = Crop(center_x=0.4, center_y=0.6, side=0.5)
    digest = first.photos[0].digest
    with open_catalog(birds) as catalog, catalog.writer("crop", [digest]) as writer:
        writer.set_crop(digest, crop)
    shelf = Shelf()
    collection = scan(birds, sink=shelf)
    assert set(shelf.images) == {(photo.digest, photo.crop) for photo in collection.photos}
    expected = load_image(collection.path_of(collection.photos[0]), size=48, crop=crop)
    np.testing.assert_array_equal(shelf.images[first.photos[0].digest, crop], expected)


def test_full_sink_causes_no_reading(birds: Path, read_paths: list[str]) -> None:
    shelf = Shelf()
    scan(birds, sink=shelf)
    read_paths.clear()
    scan(birds, sink=shelf)
    assert read_paths == []


def test_copies_fill_the_sink_once(birds: Path) -> None:
    shutil.copy(birds / "gull" / "0.jpg", birds / "gull" / "copy.jpg")
    scan(birds)
    shelf = Shelf()
    assert len(scan(birds, sink=shelf)) == 7
    assert len(shelf.images) == 6


def worker_that(action: str) -> list[str]:
    """A worker command that does something special when it meets a photo named ``odd.jpg``."""
    code = f"""
import json, os, signal, sys
sys.path[:] = json.loads(sys.argv[1])
from finetune.photos.decode import pool
original = pool.analyze
def analyze(task, spec):
    if task.path.endswith("odd.jpg"):
        {action}
    return original(task, spec)
pool.analyze = analyze
pool.main()
"""
    return [sys.executable, "-c", code, json.dumps(sys.path)]


@pytest.mark.parametrize("action", ["os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(0)"])
def test_photo_that_kills_its_worker_costs_itself_alone(
    birds: Path,
    write_photo: WritePhoto,
    monkeypatch: pytest.MonkeyPatch,
    with_processes: None,
    action: str,
) -> None:
    write_photo(birds / "gull" / "odd.jpg", 77)
    monkeypatch.setattr(pool, "worker_command", lambda: worker_that(action))
    collection = scan(birds, workers=2)
    assert len(collection) == 6
    assert [(problem.path, problem.reason) for problem in collection.problems] == [
        ("gull/odd.jpg", "crashed the decoder")
    ]


@pytest.mark.parametrize(
    ("action", "seconds", "busy_factor"),
    # Long enough for the other photos on a busy machine.
    [("__import__('time').sleep(99)", 3.0, 1), ("while True: pass", 1.0, 90)],
)
def test_photo_that_takes_too_long_costs_itself_alone(
    birds: Path,
    write_photo: WritePhoto,
    monkeypatch: pytest.MonkeyPatch,
    with_processes: None,
    action: str,
    seconds: float,
    busy_factor: int,
) -> None:
    write_photo(birds / "gull" / "odd.jpg", 77)
    monkeypatch.setattr(pool, "PHOTO_SECONDS", seconds)
    monkeypatch.setattr(pool, "BUSY_FACTOR", busy_factor)
    monkeypatch.setattr(pool, "worker_command", lambda: worker_that(action))
    collection = scan(birds, workers=2)
    assert len(collection) == 6
    assert [(problem.path, problem.reason) for problem in collection.problems] == [
        ("gull/odd.jpg", f"took over {seconds:g} s")
    ]


def test_of_few_photos_those_of_other_formats_are_read_by_a_process(
    birds: Path, write_photo: WritePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photo(birds / "gull" / "odd.jpg", 77)
    Image.open(birds / "gull" / "odd.jpg").save(birds / "gull" / "odd.webp")
    kill = "os.kill(os.getpid(), signal.SIGSEGV)"
    command = worker_that(kill)
    command[2] = command[2].replace("odd.jpg", "odd.webp")
    monkeypatch.setattr(pool, "worker_command", lambda: command)
    collection = scan(birds)
    assert len(collection) == 7
    assert [(problem.path, problem.reason) for problem in collection.problems] == [
        ("gull/odd.webp", "crashed the decoder")
    ]


def test_large_photos_wait_for_their_turn(
    birds: Path, monkeypatch: pytest.MonkeyPatch, with_processes: None
) -> None:
    code = worker_that("pass")
    code[2] = code[2].replace(
        "pool.main()", "import finetune.photos.decode.decoder as d; d.LARGE_BYTES = 1; pool.main()"
    )
    monkeypatch.setattr(pool, "worker_command", lambda: code)
    collection = scan(birds, workers=3)
    assert (len(collection), collection.problems) == (6, ())


def test_worker_that_dies_of_something_else_costs_nothing(
    birds: Path,
    write_photo: WritePhoto,
    monkeypatch: pytest.MonkeyPatch,
    with_processes: None,
    tmp_path: Path,
) -> None:
    write_photo(birds / "gull" / "odd.jpg", 77)
    flag = tmp_path / "died once"
    action = f"os.path.exists({str(flag)!r}) or (open({str(flag)!r}, 'w').close(), os._exit(9))"
    monkeypatch.setattr(pool, "worker_command", lambda: worker_that(action))
    collection = scan(birds, workers=2)
    assert flag.exists()
    assert (len(collection), collection.problems) == (7, ())


def test_what_a_decoder_prints_does_not_disturb(
    birds: Path, write_photo: WritePhoto, monkeypatch: pytest.MonkeyPatch, with_processes: None
) -> None:
    write_photo(birds / "gull" / "odd.jpg", 77)
    action = "os.write(1, b'hello'); print('world', flush=True)"
    monkeypatch.setattr(pool, "worker_command", lambda: worker_that(action))
    assert len(scan(birds, workers=1)) == 7


@pytest.mark.parametrize("command", [["/no/such/python"], [sys.executable, "-c", "pass"]])
def test_without_worker_processes_threads_do_the_work(
    birds: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_processes: None,
    caplog: pytest.LogCaptureFixture,
    command: list[str],
) -> None:
    monkeypatch.setattr(pool, "worker_command", lambda: command)
    with caplog.at_level(logging.WARNING):
        assert len(scan(birds, workers=2)) == 6
    assert caplog.messages == [
        "Worker processes cannot be started; photos are read by threads alone."
    ]


def test_bug_in_a_thread_is_not_hidden(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> Analysis:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(pool, "analyze", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        scan(birds)


def test_bug_in_a_worker_process_keeps_its_traceback(
    birds: Path, write_photo: WritePhoto, monkeypatch: pytest.MonkeyPatch, with_processes: None
) -> None:
    write_photo(birds / "gull" / "odd.jpg", 77)
    monkeypatch.setattr(pool, "worker_command", lambda: worker_that("1 / 0"))
    with pytest.raises(WorkerError, match=r"in analyze\n(.*\n)*ZeroDivisionError"):
        scan(birds)


def test_photo_that_needs_too_much_memory_is_a_problem(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> Analysis:
        raise MemoryError

    scan(birds)
    monkeypatch.setattr("finetune.photos.analyze._metadata", fail)
    (birds / "gull" / "0.jpg").write_bytes((birds / "gull" / "0.jpg").read_bytes() + b" ")
    (problem,) = scan(birds).problems
    assert (problem.path, problem.reason) == ("gull/0.jpg", "not enough memory to read it")


@pytest.mark.parametrize("processes", [False, True])
def test_interrupt_keeps_what_was_done(
    birds: Path,
    write_photo: WritePhoto,
    monkeypatch: pytest.MonkeyPatch,
    read_paths: list[str],
    processes: bool,
) -> None:
    monkeypatch.setattr(pool, "FEW_PHOTOS", 1 if processes else 10**9)

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(birds, progress=interrupt, workers=1)
    read_paths.clear()
    assert len(scan(birds)) == 6
    assert len(read_paths) == 2


def children_of(pid: int) -> set[int]:
    listed = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return {int(child) for text in listed for child in text.split()}


SCANNER = """
import sys
from pathlib import Path
from finetune.photos.decode import pool
from finetune.photos.scan import scan
from finetune.photos.decode.pool import WorkerError
pool.FEW_PHOTOS = 1
def say(done, total):
    sys.stdout.write(f"{done}\\n")
    sys.stdout.flush()
try:
    print("photos", len(scan(Path(sys.argv[1]), workers=2, progress=say)))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, write_photo: WritePhoto, draw: Draw) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "many"
    for number in range(120):
        write_photo(root / "ab"[number % 2] / f"{number}.jpg", draw(number, 320, 240))
    return root


@pytest.fixture
def many(tmp_path: Path, drawn: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "many"))


def scanner(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCANNER, root], stdout=subprocess.PIPE)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the workers in /proc")
def test_ctrl_c_at_a_terminal_ends_the_scan_and_its_workers(many: Path) -> None:
    process = scanner(many)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 10:
        pass
    workers = children_of(process.pid)
    assert workers
    for pid in (process.pid, *workers):
        os.kill(pid, signal.SIGINT)
    rest = process.stdout.read().split()
    process.stdout.close()
    assert process.wait() == 0
    assert rest[-1] == b"interrupted"
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.timeout(900)
def test_kill_during_scan_leaves_a_whole_catalog(many: Path) -> None:
    path = many / ".finetune" / "catalog.sqlite3"
    for kill in range(KILLS):
        if kill % 5 == 0:
            for leftover in path.parent.glob("*") if path.parent.exists() else ():
                leftover.unlink()
        process = scanner(many)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 * (kill % 20))
        process.kill()
        process.stdout.read()
        process.stdout.close()
        process.wait()
        check = sqlite3.connect(path)
        assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        known = check.execute("SELECT count(*) FROM file").fetchone()[0]
        measured = check.execute("SELECT count(*) FROM file JOIN photo USING (digest)").fetchone()
        assert measured[0] == known
        check.close()
    collection = scan(many)
    assert (len(collection), collection.problems) == (120, ())


def test_two_scans_at_once_agree(many: Path) -> None:
    processes = [scanner(many), scanner(many)]
    outputs = [process.communicate()[0].split()[-1] for process in processes]
    assert outputs == [b"120", b"120"]


def test_worker_imports_no_torch() -> None:
    code = (
        "import sys, finetune.photos.decode.pool;"
        "print('torch' in sys.modules, 'cv2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.split() == [b"False", b"False"]


@pytest.mark.shared
def test_every_odd_file_has_a_row(shared_photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    root = shared_photos / "odd"
    collection = scan(root, catalog=tmp_path / "catalog.sqlite3")
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    rows = [photo.path for photo in collection.photos]
    assert sorted(rows + [problem.path for problem in collection.problems]) == files
    assert len(collection.problems) == 10

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import CatalogError, StorageError
from finetune.photos.catalog import store
from finetune.photos.catalog.catalog import Catalog, open_catalog
from finetune.photos.catalog.undo_log import Recorder
from finetune.photos.collection import FileMetadata, PhotoMetadata
from finetune.photos.crops import Crop

KILLS = int(os.environ.get("FINETUNE_TEST_KILLS", "10"))


def photo_metadata(digest: str, **changes: Any) -> PhotoMetadata:
    fields = {"digest": digest, "width": 40, "height": 30, "format": "JPEG", "taken_at": None}
    fields |= {"camera": None, "hashes": bytes(64), "brightness": 0.5, "contrast": 0.25}
    return PhotoMetadata(**(fields | {"sharpness": 0.1, "analysis": 1} | changes))  # type: ignore[arg-type]


def file_metadata(path: str, digest: str | None, **changes: Any) -> FileMetadata:
    fields = {"path": path, "size": 9, "mtime_ns": 1, "digest": digest, "status": "ok"}
    return FileMetadata(**(fields | {"reason": None, "reader": "r"} | changes))  # type: ignore[arg-type]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.sqlite3") as opened:
        opened.record(
            [file_metadata(f"{name}/{name}.jpg", name) for name in ("heron", "gull", "tern")],
            [photo_metadata(name) for name in ("heron", "gull", "tern")],
        )
        yield opened


def labels(catalog: Catalog) -> dict[str, tuple[str, ...]]:
    return {photo.path: photo.labels for photo in catalog.collection(Path("x")).photos}


def set_crop(catalog: Catalog, digest: str, crop: Crop | None) -> None:
    with catalog.writer("crop", [digest]) as writer:
        writer.set_crop(digest, crop)


def undo(catalog: Catalog) -> str | None:
    action = catalog.undo()
    return None if action is None else action.what


def redo(catalog: Catalog) -> str | None:
    action = catalog.redo()
    return None if action is None else action.what


FOLDERS = {"gull/gull.jpg": ("gull",), "heron/heron.jpg": ("heron",), "tern/tern.jpg": ("tern",)}


def test_folder_names_are_labels_until_a_person_assigns_some(catalog: Catalog) -> None:
    assert labels(catalog) == FOLDERS
    catalog.set_labels(["gull"], ["heron", " Mo\u0308we "])
    assert labels(catalog) == FOLDERS | {"gull/gull.jpg": ("Möwe", "heron")}


def test_person_can_record_that_no_label_fits(catalog: Catalog) -> None:
    catalog.set_labels(["gull"], [])
    assert labels(catalog)["gull/gull.jpg"] == ()
    with catalog.writer("clear", ["gull"]) as writer:
        writer.set_labels("gull", None)
    assert labels(catalog) == FOLDERS


def test_new_labels_replace_the_old_ones(catalog: Catalog) -> None:
    catalog.set_labels(["gull"], ["owl"])
    catalog.set_labels(["gull"], ["tern"])
    assert labels(catalog)["gull/gull.jpg"] == ("tern",)
    catalog.set_labels(["gull"], [])
    catalog.set_labels(["gull"], ["owl"])
    assert labels(catalog)["gull/gull.jpg"] == ("owl",)


def test_every_copy_of_a_photo_has_its_assigned_label(catalog: Catalog) -> None:
    catalog.record([file_metadata("copies/a.jpg", "gull")], [])
    catalog.set_labels(["gull"], ["tern"])
    assert labels(catalog)["copies/a.jpg"] == labels(catalog)["gull/gull.jpg"] == ("tern",)


def test_crops_of_a_person_are_never_replaced_by_proposals(catalog: Catalog) -> None:
    mine, proposed = Crop(center_x=0.1, center_y=0.2, side=0.3), Crop(side=0.5)
    assert catalog.propose_crops({"gull": proposed}) == 1
    set_crop(catalog, "gull", mine)
    assert catalog.propose_crops({"gull": proposed}) == 0
    assert catalog.propose_crops({"gull": None, "tern": proposed}) == 1
    assert catalog.crops() == {"gull": mine, "tern": proposed}
    crops = {photo.digest: photo.crop for photo in catalog.collection(Path("x")).photos}
    assert crops == {"gull": mine, "heron": None, "tern": proposed}


def test_undo_restores_a_proposed_crop(catalog: Catalog) -> None:
    proposed = Crop(side=0.5)
    catalog.propose_crops({"gull": proposed})
    set_crop(catalog, "gull", Crop(side=0.9))
    assert undo(catalog) == "crop"
    assert catalog.crops() == {"gull": proposed}
    set_crop(catalog, "gull", None)
    assert catalog.crops() == {}
    catalog.undo()
    assert catalog.crops() == {"gull": proposed}


def test_groups_and_decisions_are_kept_and_removed(catalog: Catalog) -> None:
    with catalog.writer("group", ["gull", "tern", "heron"]) as writer:
        writer.set_group("gull", "burst 1")
        writer.set_group("tern", "burst 1")
        writer.set_decision("heron", "exclude", "yes")
    assert catalog.groups() == {"gull": "burst 1", "tern": "burst 1"}
    assert catalog.annotations()["heron"].decisions == {"exclude": "yes"}
    collection = catalog.collection(Path("x"), with_excluded=True)
    assert [photo.group for photo in collection.photos] == ["burst 1", None, "burst 1"]
    with catalog.writer("ungroup", ["gull", "heron"]) as writer:
        writer.set_group("gull", None)
        writer.set_decision("heron", "exclude", None)
    assert catalog.groups() == {"tern": "burst 1"}
    assert "heron" not in catalog.annotations()


def test_excluded_photo_is_left_out_of_the_collection(catalog: Catalog) -> None:
    with catalog.writer("exclude", ["heron"]) as writer:
        writer.set_decision("heron", "exclude", "yes")
    assert "heron/heron.jpg" not in labels(catalog)
    everything = catalog.collection(Path("x"), with_excluded=True)
    assert "heron/heron.jpg" in {photo.path for photo in everything.photos}


def test_undo_and_redo_pass_through_every_state(catalog: Catalog) -> None:
    states = [labels(catalog)]
    actions = []
    for digests, names in [
        (["gull"], ["heron"]),
        (["gull", "tern"], ["owl", "tern"]),
        (["gull"], []),
        (["heron"], ["gull"]),
    ]:
        catalog.set_labels(digests, names)
        states.append(labels(catalog))
    for state in reversed(states[:-1]):
        actions.append(undo(catalog))
        assert labels(catalog) == state
    assert undo(catalog) is None
    for state in states[1:]:
        assert redo(catalog) == actions.pop()
        assert labels(catalog) == state
    assert redo(catalog) is None


def test_new_action_ends_the_redo(catalog: Catalog) -> None:
    catalog.set_labels(["gull"], ["heron"])
    catalog.undo()
    catalog.set_labels(["tern"], ["owl"])
    assert redo(catalog) is None
    assert labels(catalog) == FOLDERS | {"tern/tern.jpg": ("owl",)}


def test_assigning_the_same_again_is_no_action(catalog: Catalog) -> None:
    catalog.set_labels(["gull"], ["heron"])
    catalog.set_labels(["gull"], ["heron"])
    assert [action.what for action in catalog.history()] == ["label 1 photo 'heron'"]


def test_history_is_newest_first_and_marks_what_was_undone(catalog: Catalog) -> None:
    catalog.set_labels(["gull", "tern"], ["heron"])
    catalog.set_labels(["tern"], [])
    catalog.undo()
    assert [(action.what, action.undone) for action in catalog.history()] == [
        ("label 1 photo as none of the labels", True),
        ("label 2 photos 'heron'", False),
    ]


def test_annotations_outlive_the_process_and_the_file(catalog: Catalog, tmp_path: Path) -> None:
    catalog.set_labels(["gull"], ["heron"])
    catalog.close()
    with Catalog(tmp_path / "catalog.sqlite3") as again:
        again.set_present([])
        assert labels(again) == {}
        again.record([file_metadata("elsewhere/new name.jpg", "gull")], [])
        assert labels(again) == {"elsewhere/new name.jpg": ("heron",)}
        assert undo(again) == "label 1 photo 'heron'"


def test_bad_files_are_problems_with_their_reason(catalog: Catalog) -> None:
    catalog.record([file_metadata("a/bad.jpg", None, status="bad", reason="truncated")], [])
    collection = catalog.collection(Path("x"))
    assert [(problem.path, problem.reason) for problem in collection.problems] == [
        ("a/bad.jpg", "truncated")
    ]


def test_collection_is_sorted_by_path_and_complete(catalog: Catalog) -> None:
    measured = photo_metadata("full", taken_at="2024-01-01T00:00:00", camera="C", hashes=b"\1" * 64)
    catalog.record([file_metadata("a/é.jpg", "full", size=77)], [measured])
    collection = catalog.collection(Path("x"))
    assert [photo.path for photo in collection.photos] == sorted([*FOLDERS, "a/é.jpg"])
    photo = collection.photos[0]
    assert (photo.digest, photo.width, photo.height, photo.file_bytes) == ("full", 40, 30, 77)
    assert (photo.taken_at, photo.camera) == ("2024-01-01T00:00:00", "C")
    assert photo.packed_hashes == b"\1" * 64
    assert photo.quality is not None
    assert (photo.quality.brightness, photo.quality.contrast) == (0.5, 0.25)


def test_two_catalogs_on_one_file_see_each_others_annotations(
    catalog: Catalog, tmp_path: Path
) -> None:
    with Catalog(tmp_path / "catalog.sqlite3") as other:
        other.set_labels(["gull"], ["heron"])
        assert labels(catalog)["gull/gull.jpg"] == ("heron",)
        catalog.set_labels(["gull"], ["tern"])
        assert undo(other) == "label 1 photo 'tern'"
        assert labels(catalog)["gull/gull.jpg"] == ("heron",)


def test_many_threads_share_one_catalog(catalog: Catalog) -> None:
    def label(number: int) -> None:
        catalog.set_labels([f"d{number}"], [f"l{number}"])
        catalog.collection(Path("x"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(label, range(80)))
    assert catalog.assigned_labels() == {f"d{n}": (f"l{n}",) for n in range(80)}
    assert len(catalog.history(limit=1000)) == 80


LABELER = """
import sys
from pathlib import Path
from finetune.photos.catalog.catalog import Catalog
catalog = Catalog(Path(sys.argv[1]))
for number in range(int(sys.argv[3]), 10**9):
    if number == int(sys.argv[4]):
        break
    catalog.set_labels([f"{sys.argv[2]}{number}"], [f"label {number}"])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def labeler(path: Path, name: str, first: int, end: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", LABELER, str(path), name, str(first), str(end)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_two_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    processes = [labeler(path, name, 0, 40) for name in "ab"]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with Catalog(path) as catalog:
        found = catalog.assigned_labels()
    assert found == {f"{name}{n}": (f"label {n}",) for name in "ab" for n in range(40)}


@pytest.mark.timeout(600)
def test_kill_while_labeling_loses_no_acknowledged_decision(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    Catalog(path).close()
    acknowledged: list[int] = []
    for kill in range(KILLS):
        process = labeler(path, "d", len(acknowledged), -1)
        assert process.stdout is not None
        acknowledged.append(int(process.stdout.readline()))
        time.sleep(0.003 * (kill % 10))
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().splitlines()]
        process.stdout.close()
        process.wait()
        check = sqlite3.connect(path)
        assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = dict(check.execute("SELECT digest, label FROM label"))
        check.close()
        for number in acknowledged:
            assert found[f"d{number}"] == f"label {number}"
        # One more may be on disk whose acknowledgement the kill cut off.
        assert len(found) - len(acknowledged) in (0, 1)
        acknowledged = list(range(len(found)))
    with Catalog(path) as catalog:
        assert len(catalog.history(limit=10**6)) == len(acknowledged)


def test_newer_schema_is_refused_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    Catalog(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(CatalogError) as caught:
        Catalog(path)
    assert str(caught.value) == (
        f"The catalog {path} was written by a newer finetune (schema 7; this one reads up to "
        f"{len(store.MIGRATIONS)}). Update finetune, or choose another catalog with --catalog."
    )


def test_older_schema_is_brought_up_to_date_with_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.sqlite3"
    with Catalog(path) as catalog:
        catalog.set_labels(["gull"], ["heron"])
    further = "ALTER TABLE label ADD COLUMN note TEXT; CREATE TABLE extra (name TEXT);"
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, further))
    with Catalog(path) as catalog:
        assert catalog.assigned_labels() == {"gull": ("heron",)}
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(store.MIGRATIONS),)
    assert connection.execute("SELECT note FROM label").fetchall() == [(None,)]
    connection.close()


def test_crops_of_the_first_schema_keep_their_place_and_undo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.sqlite3"
    monkeypatch.setattr(store, "MIGRATIONS", store.MIGRATIONS[:1])
    store.connect(path).close()
    row = {"digest": "gull", "centre_x": 0.25, "centre_y": 0.5, "side": 0.4}
    row |= {"source": "person", "said_at": "2026-01-01T00:00:00"}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO crop VALUES (:digest, :centre_x, :centre_y, :side, :source, :said_at)", row
        )
        connection.execute(
            "INSERT INTO journal (said_at, what, changes) VALUES ('2026', 'crop', ?)",
            (json.dumps([["crop", None, row]]),),
        )
        connection.commit()
    monkeypatch.undo()
    with Catalog(path) as catalog:
        assert catalog.crops() == {"gull": Crop(center_x=0.25, center_y=0.5, side=0.4)}
        assert undo(catalog) == "crop"
        assert catalog.crops() == {}
        assert redo(catalog) == "crop"
        assert catalog.crops() == {"gull": Crop(center_x=0.25, center_y=0.5, side=0.4)}


def test_failed_migration_leaves_the_old_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.sqlite3"
    Catalog(path).close()
    known = len(store.MIGRATIONS)
    broken = "CREATE TABLE extra (name TEXT); CREATE TABLE file (name TEXT);"
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, broken))
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        Catalog(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (known,)
    assert connection.execute("SELECT * FROM sqlite_master WHERE name = 'extra'").fetchall() == []
    connection.close()


def test_many_processes_make_the_same_catalog_at_once(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    processes = [labeler(path, name, 0, 1) for name in "abcd"]
    assert [process.communicate()[0] for process in processes] == [b"0\n"] * 4


def test_damaged_files_and_those_of_other_programs_are_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.sqlite3"
    damaged.write_bytes(b"no database at all" * 100)
    with pytest.raises(CatalogError) as caught:
        Catalog(damaged)
    assert str(caught.value) == (
        f"{damaged} is damaged or is not a catalog (file is not a database). Labels, groups and "
        "crops set by hand can be saved with: finetune scan PHOTOS --repair"
    )
    other = tmp_path / "foreign.sqlite3"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (name TEXT)")
    connection.close()
    with pytest.raises(CatalogError) as caught:
        Catalog(other)
    assert str(caught.value) == (
        f"{other} is an SQLite file of another program, not a catalog. "
        "Choose another file with --catalog."
    )


def test_catalog_in_use_is_an_error_after_waiting(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog._store._connection.execute("PRAGMA busy_timeout = 50")
    holder = sqlite3.connect(tmp_path / "catalog.sqlite3", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(CatalogError) as caught:
        catalog.set_labels(["gull"], ["heron"])
    assert str(caught.value) == (
        f"The catalog {catalog.path} is in use by another process. Wait until it is done, or stop "
        "it, and run the same command again."
    )
    holder.execute("ROLLBACK")
    holder.close()
    catalog.set_labels(["gull"], ["heron"])


def test_writer_waits_for_another_that_is_soon_done(catalog: Catalog, tmp_path: Path) -> None:
    holder = sqlite3.connect(
        tmp_path / "catalog.sqlite3", isolation_level=None, check_same_thread=False
    )
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, lambda: holder.execute("COMMIT"))
    release.start()
    catalog.set_labels(["gull"], ["heron"])
    release.join()
    holder.close()
    assert labels(catalog)["gull/gull.jpg"] == ("heron",)


def test_opening_waits_for_another_process_that_creates_the_catalog(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite3"
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(CatalogError, match="is in use by another process"):
        store.connect(path, timeout_seconds=0.05)
    release = threading.Timer(0.1, lambda: holder.execute("COMMIT"))
    release.start()
    store.connect(path).close()
    release.join()
    holder.close()


def test_full_disk_is_a_storage_error_and_changes_nothing(catalog: Catalog) -> None:
    catalog.set_labels(["gull"], ["heron"])
    before = labels(catalog)
    pages = catalog._store._connection.execute("PRAGMA page_count").fetchone()[0]
    catalog._store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError) as caught:
        catalog.set_labels([f"digest {n}" for n in range(5000)], ["heron"])
    assert str(caught.value) == (
        f"Could not write {catalog.path}: the disk is full. Free some space and run the same "
        "command again. Older files are intact."
    )
    assert labels(catalog) == before
    assert len(catalog.history()) == 1


def test_interrupt_inside_an_action_changes_nothing(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(recorder: Recorder, what: str, annotator: str | None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "commit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            catalog.set_labels(["gull"], ["heron"])
    assert labels(catalog) == FOLDERS
    assert catalog.history() == ()


def test_catalog_lies_in_the_hidden_folder_by_default(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        assert catalog.path == tmp_path / ".finetune" / "catalog.sqlite3"


def test_given_place_may_be_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with open_catalog(tmp_path, tmp_path / "folder") as catalog:
        assert catalog.path == tmp_path / "folder" / "catalog.sqlite3"
    with open_catalog(tmp_path, tmp_path / "new" / "my.sqlite3") as catalog:
        assert catalog.path == tmp_path / "new" / "my.sqlite3"
    assert not (tmp_path / ".finetune").exists()


@pytest.fixture
def read_only_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which not even root can create the file: its name is taken."""
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "photos"
    root.mkdir()
    (root / ".finetune").write_bytes(b"in the way")
    return root


def test_read_only_folder_has_its_catalog_in_the_users_cache(
    read_only_photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), open_catalog(read_only_photos) as catalog:
        catalog.set_labels(["gull"], ["heron"])
        place = catalog.path
    assert place.parent == tmp_path / "cache" / "catalogs"
    assert caplog.messages == [
        f"{read_only_photos} cannot be written (File exists); its catalog is kept in {place} "
        "instead. Choose another place with --catalog."
    ]
    with open_catalog(read_only_photos) as again:
        assert again.assigned_labels() == {"gull": ("heron",)}


def test_folder_that_became_read_only_brings_its_catalog_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    with open_catalog(tmp_path) as catalog:
        catalog.set_labels(["gull"], ["heron"])
    inside = tmp_path / ".finetune" / "catalog.sqlite3"
    connect = sqlite3.connect

    def refuse(path: Path, **options: object) -> sqlite3.Connection:
        if path == inside:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with open_catalog(tmp_path) as catalog:
        assert catalog.path != inside
        assert catalog.assigned_labels() == {"gull": ("heron",)}


def test_given_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    requested = tmp_path / "file" / "catalog.sqlite3"
    with pytest.raises(CatalogError) as caught:
        open_catalog(tmp_path, requested)
    assert str(caught.value) == (
        f"Cannot write the catalog {requested}: File exists. Choose another place with --catalog."
    )


def test_no_place_at_all_is_an_error(
    read_only_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_bytes(b"in the way too")
    with pytest.raises(CatalogError, match=r"neither there nor as .*Choose another place"):
        open_catalog(read_only_photos)

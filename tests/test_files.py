from __future__ import annotations

import errno
from pathlib import Path

import platformdirs
import pytest

from finetune.errors import StorageError
from finetune.files import (
    numbered,
    replacing,
    safe_folders,
    safe_name,
    user_cache_folder,
    write_atomically,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    target.write_bytes(b"old")

    def fill_the_disk(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError) as error:
        write_atomically(target, fill_the_disk)
    assert str(error.value) == (
        f"Could not write {target}: the disk is full. Free some space and run the same command "
        "again. Older files are intact."
    )
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.bin"]


def test_no_permission_is_said(tmp_path: Path) -> None:
    def refuse(file: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(StorageError, match=r"no permission to write there\. Choose another folder"):
        write_atomically(tmp_path / "x", refuse)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = write_text(tmp_path / "a.txt", "old")

    def interrupted() -> None:
        with replacing(target) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_written_files_have_the_permissions_of_ordinary_ones(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("x")
    ours = write_text(tmp_path / "ours", "x")
    assert ours.stat().st_mode == ordinary.stat().st_mode


def test_json_keeps_every_script(tmp_path: Path) -> None:
    file = write_json(tmp_path / "deep" / "labels.json", ["カワセミ", "naïve"])
    assert "カワセミ" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gulls/Larus?", "gulls_Larus_"),
        ("カワセミ", "カワセミ"),
        ("..", "unnamed"),
        ("CON", "_CON"),
        ("a\x00b", "a_b"),
        (" dot. ", "dot"),
    ],
)
def test_safe_names_work_on_every_file_system(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_safe_names_are_short_enough() -> None:
    assert len(safe_name("カ" * 300).encode()) <= 200


@pytest.mark.parametrize("stem", ["x" * 300, "カ" * 100, "photo.of.a.very.long.name" * 12])
@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_long_names_lose_the_end_of_the_stem(stem: str, suffix: str) -> None:
    name = safe_name(stem + suffix)
    assert len(name.encode()) <= 200
    assert name.endswith(suffix)
    assert stem.startswith(name.removesuffix(suffix))
    second = numbered(name, 12)
    assert len(second.encode()) <= 200
    assert second.endswith(f" (12){suffix}")


def test_files_with_the_longest_possible_name_are_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".json")
    assert write_text(path, "{}").read_text() == "{}"


def test_labels_never_share_a_folder() -> None:
    labels = [
        "Bombus sp.",
        "Bombus sp",
        "owl ",
        "owl",
        "Owl",
        "a:b/c",
        "a?b/c",
        "a?b/d",
        "x" * 300,
        "x" * 301,
    ]
    folders = safe_folders(labels)
    assert len({folder.casefold() for folder in folders.values()}) == len(labels)
    assert folders["Bombus sp"] == "Bombus sp"
    assert folders["Bombus sp."] == "Bombus sp (2)"
    assert folders["a?b/c"] == folders["a?b/d"].removesuffix("d") + "c"
    assert safe_folders(["a/b", "a_b"], nested=False) == {"a/b": "a_b", "a_b": "a_b (2)"}


def test_the_cache_folder_is_the_systems_unless_an_earlier_one_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FINETUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    usual = tmp_path / "Library" / "Caches" / "finetune"
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *args, **options: usual)
    assert user_cache_folder() == usual
    earlier = tmp_path / ".cache" / "finetune"
    earlier.mkdir(parents=True)
    assert user_cache_folder() == earlier
    usual.mkdir(parents=True)
    assert user_cache_folder() == usual

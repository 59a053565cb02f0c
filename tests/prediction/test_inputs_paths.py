from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import CollectionError
from finetune.prediction.inputs import photos_of


def test_folders_expand_and_files_stay(make_photos: Callable[..., Path], tmp_path: Path) -> None:
    root = make_photos({"a": 2, "b": 1})
    missing = tmp_path / "missing.jpg"
    assert list(photos_of([missing, root])) == [missing, *sorted(root.rglob("*.jpg"))]


def test_patterns_reach_any_depth_and_match_photos_only(
    make_photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_photos({"a": 2, "b": 1})
    (root / "a" / "notes.txt").write_text("x")
    monkeypatch.chdir(root)
    found = [str(path) for path in photos_of(["**/00*"])]
    assert found == ["a/000.jpg", "a/001.jpg", "b/000.jpg"]
    with pytest.raises(CollectionError, match=r"^No photo matches b/\*\.txt\.$"):
        list(photos_of(["b/*.txt"]))


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "bird[1].jpg"
    path.write_bytes(b"x")
    assert list(photos_of([path])) == [path]


def test_a_dash_reads_paths_from_stdin(make_photos: Callable[..., Path]) -> None:
    root = make_photos({"a": 2})
    lines = [f"{root}/a/001.jpg\n", "\n", f"{root}/a/000.jpg\r\n"]
    assert [path.name for path in photos_of(["-"], stdin=lines)] == ["001.jpg", "000.jpg"]


def test_a_folder_can_be_left_out(make_photos: Callable[..., Path]) -> None:
    root = make_photos({"a": 2, "sorted": 3})
    names = [path.parent.name for path in photos_of([root], without=root / "sorted")]
    assert names == ["a", "a"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CollectionError, match=r"^There are no photos in .*empty\.$"):
        list(photos_of([tmp_path / "empty"]))

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.curation.similar import check_target, gather
from finetune.errors import CollectionError


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pool"
    paths = []
    for number, name in enumerate(("b.jpg", "sub/a.jpg", "x/a.jpg")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 9)
        paths.append(path)
    return paths


@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_files_are_numbered_in_their_order(sources: list[Path], tmp_path: Path, link: str) -> None:
    before = {path: path.read_bytes() for path in sources}
    made = gather(sources, tmp_path / "out", link=link)
    assert [path.name for path in made] == ["0001 b.jpg", "0002 a.jpg", "0003 a.jpg"]
    assert [path.read_bytes() for path in made] == list(before.values())
    assert made[0].is_symlink() == (link == "symlink")
    assert made[0].samefile(sources[0]) == (link != "copy")
    assert {path: path.read_bytes() for path in sources} == before


def test_a_folder_with_something_in_it_is_refused(sources: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(CollectionError) as caught:
        gather(sources, out)
    assert str(caught.value) == (
        f"{out} is not an empty folder. Choose a new one; nothing is lost."
    )
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_folder_in_the_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError) as caught:
        check_target(tmp_path / "found", tmp_path)
    assert str(caught.value) == (
        f"--to {tmp_path / 'found'} lies inside {tmp_path}, where the next search would find the "
        "photos again. Choose a folder outside of it."
    )

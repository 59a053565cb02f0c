from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result


@pytest.fixture(scope="module")
def drawn(draw_scene: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    for index in range(4):
        draw_scene(root / "gull" / f"{index}.jpg", index)
        draw_scene(root / "heron" / f"{index}.jpg", 10 + index)
    draw_scene(root / "gull" / "0 small.jpg", 0, size=(120, 90))
    shutil.copy(root / "heron" / "1.jpg", root / "heron" / "1 copy.jpg")
    draw_scene(root / "heron" / "gull 2.jpg", 2, size=(200, 150))
    return root


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "photos")


@pytest.fixture
def run(run: Callable[..., Result]) -> Callable[..., Result]:
    return lambda *words, **options: run("duplicates", *words, "--workers", 1, **options)


def names(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*.jpg"))


def test_duplicates_lists_groups_with_the_best_first(
    run: Callable[..., Result], photos: Path
) -> None:
    result = run(photos)
    assert result.stdout.index("gull/0.jpg") < result.stdout.index("gull/0 small.jpg")
    assert "exact copy" in result.stdout
    assert (
        "3 groups among 11 photos: 1 exact copy, 2 near-duplicates beside the best."
        in result.stdout
    )
    assert (
        "1 group is under different labels, gull/2.jpg (gull / heron) among them. "
        "Resolve them with: finetune annotate"
    ) in result.stderr


def test_duplicates_as_json_names_what_is_dispensable(
    run: Callable[..., Result], photos: Path
) -> None:
    document = json.loads(run(photos, "--json").stdout)
    assert document["photos"] == 11
    gone = {
        photo["path"]: photo["duplicate_of"]
        for group in document["groups"]
        for photo in group["photos"]
        if photo["duplicate_of"]
    }
    assert gone == {
        "gull/0 small.jpg": "gull/0.jpg",
        "heron/1.jpg": "heron/1 copy.jpg",
        "heron/gull 2.jpg": "gull/2.jpg",
    }
    assert [group["contradicts"] for group in document["groups"]].count(True) == 1


def test_no_duplicates_is_reported(
    run: Callable[..., Result], draw_scene: Callable[..., None], tmp_path: Path
) -> None:
    draw_scene(tmp_path / "p" / "a" / "1.jpg", 1)
    draw_scene(tmp_path / "p" / "b" / "2.jpg", 2)
    assert "No two of the 2 photos are nearly the same." in run(tmp_path / "p").stdout


def test_quarantine_moves_all_but_the_best_and_undo_brings_them_back(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    before = names(photos)
    away = tmp_path / "away"
    result = run(photos, "--quarantine", away, "--yes")
    # The group under two labels is a person's to settle.
    assert names(away) == ["gull/0 small.jpg", "heron/1.jpg"]
    assert names(photos) == [n for n in before if n not in ("gull/0 small.jpg", "heron/1.jpg")]
    assert "2 photos moved to" in result.stdout
    result = run(photos, "--quarantine", away, "--undo")
    assert "2 photos moved back to" in result.stdout
    assert names(photos) == before
    assert not away.exists()


def test_quarantine_across_labels_moves_those_too(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    run(photos, "--quarantine", tmp_path / "away", "--yes", "--across-labels", "--quiet")
    assert "heron/gull 2.jpg" in names(tmp_path / "away")


def test_quarantine_asks_first(run: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    before = names(photos)
    result = run(photos, "--quarantine", tmp_path / "away", stdin="n\n")
    assert "Move 2 photos from" in result.stderr
    assert "Nothing was moved." in result.stdout
    assert names(photos) == before


def test_undo_without_a_folder_is_refused(error_of: Callable[..., str], photos: Path) -> None:
    assert error_of(photos, "--undo") == (
        "--undo needs the folder to bring back: --quarantine DIR --undo."
    )


def test_page_is_one_file_without_external_resources(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    (photos / "gull" / "0.jpg").rename(photos / "gull" / "<script>alert(1)<script>.jpg")
    page = tmp_path / "page.html"
    run(photos, "--output", page)
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 6
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "http://" not in text
    assert "https://" not in text
    assert "under different labels" in text


def test_impossible_distance_is_a_usage_error(run: Callable[..., Result], photos: Path) -> None:
    run(photos, "--max-distance-bits", 30, code=2)

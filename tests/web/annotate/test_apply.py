"""Photos move into label folders and back, and none is ever lost or overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import CollectionError
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.file_mover import JOURNAL, Move
from finetune.photos.scan import scan
from finetune.web.annotate.apply import apply_moves, plan_moves, undo_moves


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file() and ".finetune" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def label(root: Path, path: str, *labels: str) -> None:
    collection = scan(root, workers=1)
    (photo,) = [photo for photo in collection.photos if photo.path == path]
    with open_catalog(root) as catalog:
        catalog.set_labels([photo.digest], labels)


def test_labeled_photos_move_to_their_folder_and_keep_their_label(
    make_photos: Callable[..., Path],
) -> None:
    root = make_photos({"heron": 2, "wren": 1})
    label(root, "heron/001.jpg", "wren")
    label(root, "heron/000.jpg", "heron", "wren")
    collection = scan(root, workers=1)
    moves = plan_moves(collection)
    assert moves == (Move(source="heron/001.jpg", target="wren/001.jpg"),)
    before = contents(root)
    assert apply_moves(root, root / ".finetune", moves) == moves
    assert set(contents(root)) == {"heron/000.jpg", "wren/000.jpg", "wren/001.jpg"}
    after = scan(root, workers=1)
    assert {p.path: p.labels for p in after.photos}["wren/001.jpg"] == ("wren",)
    assert plan_moves(after) == ()

    assert undo_moves(root, root / ".finetune").done == moves
    assert contents(root) == before
    assert not (root / ".finetune" / JOURNAL).exists()


def test_no_file_is_overwritten(make_photos: Callable[..., Path]) -> None:
    root = make_photos({"heron": 1, "wren": 1})
    label(root, "heron/000.jpg", "wren")
    moves = plan_moves(scan(root, workers=1))
    assert moves == (Move(source="heron/000.jpg", target="wren/000 (2).jpg"),)
    before = contents(root)
    apply_moves(root, root / ".finetune", moves)
    (root / "heron").mkdir(exist_ok=True)
    (root / "heron" / "000.jpg").write_bytes(b"new")
    assert undo_moves(root, root / ".finetune").done == ()
    assert contents(root) == {
        "heron/000.jpg": b"new",
        "wren/000.jpg": before["wren/000.jpg"],
        "wren/000 (2).jpg": before["heron/000.jpg"],
    }
    (root / "heron" / "000.jpg").unlink()
    assert undo_moves(root, root / ".finetune").done == moves
    assert contents(root) == before


@pytest.mark.parametrize(
    ("name", "folder"),
    [("../up", "_.. /up"), ("a:b?", "a_b_"), (".hidden", "hidden"), ("birds/wren", "birds/wren")],
)
def test_a_label_becomes_a_folder_inside_the_collection(
    make_photos: Callable[..., Path], name: str, folder: str
) -> None:
    root = make_photos({"heron": 2})
    label(root, "heron/000.jpg", name)
    (move,) = plan_moves(scan(root, workers=1))
    apply_moves(root, root / ".finetune", [move])
    assert (root / move.target).resolve().is_relative_to(root.resolve())
    assert not any(part.startswith(".") for part in Path(move.target).parts)
    if name != "../up":
        assert move.target == f"{folder}/000.jpg"
    undo_moves(root, root / ".finetune")
    assert sorted(contents(root)) == ["heron/000.jpg", "heron/001.jpg"]


def test_a_move_that_was_cut_short_is_taken_back(make_photos: Callable[..., Path]) -> None:
    root = make_photos({"heron": 2})
    cache_dir = root / ".finetune"
    apply_moves(root, cache_dir, [Move(source="heron/000.jpg", target="wren/000.jpg")])
    with (cache_dir / JOURNAL).open("a") as journal:
        journal.write(json.dumps(["heron/001.jpg", "wren/001.jpg"]) + "\n")  # not moved yet
        journal.write('["heron/0')  # cut off
    assert undo_moves(root, cache_dir).done == (
        Move(source="heron/000.jpg", target="wren/000.jpg"),
    )
    assert sorted(contents(root)) == ["heron/000.jpg", "heron/001.jpg"]


def test_a_journal_cannot_lead_out_of_the_collection(make_photos: Callable[..., Path]) -> None:
    root = make_photos({"heron": 1})
    cache_dir = root / ".finetune"
    cache_dir.mkdir(exist_ok=True)
    (cache_dir / JOURNAL).write_text('["../../evil.jpg", "heron/000.jpg"]\n')
    with pytest.raises(CollectionError, match=r"line 1 leads out of "):
        undo_moves(root, cache_dir)
    (cache_dir / JOURNAL).write_text("nonsense\n")
    with pytest.raises(CollectionError, match=r"line 1 is damaged: 'nonsense'\.$"):
        undo_moves(root, cache_dir)


def test_nothing_to_undo_moves_is_said(make_photos: Callable[..., Path]) -> None:
    root = make_photos({"heron": 1})
    journal = root / ".finetune" / JOURNAL
    with pytest.raises(CollectionError) as error:
        undo_moves(root, root / ".finetune")
    assert str(error.value) == f"Nothing was moved in {root}: there is no {journal}."

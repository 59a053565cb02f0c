from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from finetune.errors import CollectionError, StorageError
from finetune.evaluation.status import Status
from finetune.photos import file_mover
from finetune.photos.file_mover import MoveResult, Transfer
from finetune.prediction.predictions import PhotoPrediction, Ranked
from finetune.prediction.sort_into import Sorter, undo_sorting


def prediction(photo: Path, label: str, status: Status = "sure") -> PhotoPrediction:
    ranked = (Ranked(label=label, probability=1.0),)
    return PhotoPrediction(photo=str(photo), status=status, ranked=ranked)


def problems(result: MoveResult) -> list[tuple[str, str]]:
    return [(move.target, reason) for move, reason in result.problems]


def files_of(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".finetune" not in path.parts
    }


@pytest.mark.parametrize("transfer", get_args(Transfer))
def test_photos_go_to_their_labels_and_back(
    make_photos: Callable[..., Path], tmp_path: Path, transfer: Transfer
) -> None:
    root = make_photos({"in": 4, "other": 1})
    before = files_of(root)
    out = tmp_path / "out"
    sorter = Sorter(out, transfer)
    sorter.put(prediction(root / "in/000.jpg", "gulls/herring"))
    sorter.put(prediction(root / "in/001.jpg", "a:b"))
    sorter.put(prediction(root / "in/002.jpg", "a:b", "unsure"))
    sorter.put(prediction(root / "in/003.jpg", "a:b", "unknown"))
    sorter.put(prediction(root / "other/000.jpg", "gulls/herring"))
    assert sorter.put(PhotoPrediction.failed("x", "truncated")) is None
    assert files_of(out) == {
        "_unknown/003.jpg": before["in/003.jpg"],
        "_unsure/002.jpg": before["in/002.jpg"],
        "a_b/001.jpg": before["in/001.jpg"],
        "gulls/herring/000 (2).jpg": before["other/000.jpg"],
        "gulls/herring/000.jpg": before["in/000.jpg"],
    }
    assert files_of(root) == ({} if transfer == "move" else before)
    undone = undo_sorting(out)
    assert (len(undone.done), undone.problems) == (5, ())
    assert files_of(root) == before
    assert not out.exists()
    with pytest.raises(StorageError, match="There is nothing to undo in"):
        undo_sorting(out)


def test_a_second_call_sorts_only_what_is_new(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_photos({"in": 2})
    out = tmp_path / "out"
    for _ in range(2):
        sorter = Sorter(out)
        for photo in sorted(root.rglob("*.jpg")):
            sorter.put(prediction(photo, "x"))
    assert list(files_of(out)) == ["x/000.jpg", "x/001.jpg"]


def test_undo_leaves_what_a_person_changed(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_photos({"in": 2})
    out = tmp_path / "out"
    sorter = Sorter(out, "copy")
    for photo in sorted(root.rglob("*.jpg")):
        sorter.put(prediction(photo, "x"))
    (out / "x/000.jpg").write_bytes(b"painted over")
    undone = undo_sorting(out)
    assert len(undone.done) == 1
    assert problems(undone) == [("x/000.jpg", "it was changed since")]
    assert (out / "x/000.jpg").read_bytes() == b"painted over"


def test_undo_overwrites_nothing_that_took_a_photos_place(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_photos({"in": 1})
    out = tmp_path / "out"
    sorter = Sorter(out, "move")
    sorter.put(prediction(root / "in/000.jpg", "x"))
    (root / "in/000.jpg").write_bytes(b"another")
    undone = undo_sorting(out)
    assert problems(undone) == [("x/000.jpg", "another file has taken its place")]
    assert (root / "in/000.jpg").read_bytes() == b"another"


def test_a_kill_in_the_midst_of_a_move_loses_nothing(
    make_photos: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_photos({"in": 2})
    before = files_of(root)
    out = tmp_path / "out"
    sorter = Sorter(out, "move")
    sorter.put(prediction(root / "in/000.jpg", "x"))
    # The line is in the journal, and the move never comes.
    monkeypatch.setattr(file_mover, "_move", lambda source, target: None)
    sorter.put(prediction(root / "in/001.jpg", "x"))
    monkeypatch.undo()
    with (out / ".finetune" / "sorted.jsonl").open("a") as journal:
        journal.write('{"half a li')
    sorter = Sorter(out, "move")
    assert sorter.put(prediction(root / "in/001.jpg", "x")) == out / "x/001.jpg"
    undo_sorting(out)
    assert files_of(root) == before


def test_older_journals_with_a_cut_line_amid_them_are_undone(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_photos({"in": 2})
    before = files_of(root)
    out = tmp_path / "out"
    (out / "x").mkdir(parents=True)
    (out / ".finetune").mkdir()
    entries = []
    for name in before:
        status = (root / name).stat()
        mark = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        entries.append(
            {"transfer": "move", "source": f"{root / name}", "target": f"x/{Path(name).name}"}
            | mark
        )
        (root / name).rename(out / "x" / Path(name).name)
    lines = [json.dumps(entries[0]), '{"transfer": "mo', json.dumps(entries[1])]
    (out / ".finetune" / "sorted.jsonl").write_text("\n".join(lines) + "\n")
    assert len(undo_sorting(out).done) == 2
    assert files_of(root) == before
    assert not out.exists()


@pytest.mark.parametrize("target", ["../stolen.jpg", "/stolen.jpg"])
def test_a_journal_cannot_lead_out_of_the_folder(tmp_path: Path, target: str) -> None:
    journal = tmp_path / "out" / ".finetune" / "sorted.jsonl"
    journal.parent.mkdir(parents=True)
    entry = {"transfer": "move", "source": str(tmp_path / "x.jpg"), "target": target}
    journal.write_text(json.dumps(entry) + "\n")
    with pytest.raises(CollectionError) as caught:
        undo_sorting(tmp_path / "out")
    assert str(caught.value) == f"{journal}, line 1 leads out of the folder: {target!r}."


@pytest.mark.parametrize("transfer", get_args(Transfer))
def test_another_photo_with_the_name_of_a_sorted_one_is_sorted(
    make_photos: Callable[..., Path], tmp_path: Path, transfer: Transfer
) -> None:
    root = make_photos({"in": 2})
    first, second = ((root / f"in/00{n}.jpg").read_bytes() for n in (0, 1))
    out, photo = tmp_path / "out", root / "in/000.jpg"
    Sorter(out, transfer).put(prediction(photo, "x"))
    photo.write_bytes(second)  # the next card, with the name again
    again = Sorter(out, transfer)
    assert again.put(prediction(photo, "y")) == out / "y/000.jpg"
    assert (again.skipped, again.counts) == ([], {"y": 1})
    kept = {} if transfer == "link" else {"x/000.jpg": first}
    assert files_of(out) == kept | {"y/000.jpg": second}
    third = Sorter(out, transfer)
    if transfer == "move":
        photo.write_bytes(second)  # the same photo once more
    assert third.put(prediction(photo, "y")) is None
    assert third.skipped == [str(photo)]


def test_another_photo_of_the_same_size_and_time_is_sorted(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    photo, out = make_photos({"in": 1}) / "in/000.jpg", tmp_path / "out"
    status, content = photo.stat(), photo.read_bytes()
    Sorter(out).put(prediction(photo, "x"))
    photo.write_bytes(bytes(reversed(content)))
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Sorter(out).put(prediction(photo, "x")) == out / "x/000 (2).jpg"
    photo.write_bytes(content)
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    (out / "x/000.jpg").write_bytes(b"painted over")
    assert Sorter(out).put(prediction(photo, "x")) is None


def test_labels_whose_safe_names_are_equal_get_folders_of_their_own(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    root, out = make_photos({"in": 2}), tmp_path / "out"
    sorter = Sorter(out, labels=["owl:barn", "owl?barn"])
    sorter.put(prediction(root / "in/000.jpg", "owl?barn"))
    sorter.put(prediction(root / "in/001.jpg", "owl:barn"))
    assert set(files_of(out)) == {"owl_barn (2)/000.jpg", "owl_barn/001.jpg"}


def test_photos_move_with_the_links_that_lead_to_them_and_come_back(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    root, out = make_photos({"in": 2}), tmp_path / "out"
    (root / "in/before.jpg").symlink_to("001.jpg")
    (root / "in/x-after.jpg").symlink_to("001.jpg")
    (root / "in/nas").symlink_to(tmp_path / "nas", target_is_directory=True)
    (tmp_path / "nas").mkdir()
    (root / "in/000.jpg").rename(tmp_path / "nas/000.jpg")
    before = files_of(root)
    sorter = Sorter(out, "move", sources=[root / "in"])
    for name in ("before.jpg", "001.jpg", "x-after.jpg", "nas/000.jpg"):
        sorter.put(prediction(root / "in" / name, "x"))
    assert sorter.kept == [str(root / "in/nas/000.jpg")]
    content = before["in/001.jpg"]
    assert files_of(out) == dict.fromkeys(["x/001.jpg", "x/before.jpg", "x/x-after.jpg"], content)
    assert (tmp_path / "nas/000.jpg").exists()
    assert undo_sorting(out).problems == ()
    assert files_of(root) == before
    assert (root / "in/before.jpg").readlink() == Path("001.jpg")

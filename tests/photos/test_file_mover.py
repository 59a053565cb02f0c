from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from finetune.errors import CollectionError, StorageError
from finetune.photos.file_mover import JOURNAL, MoveResult, quarantine, restore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in ("gull/1.jpg", "gull/2.jpg", "heron/カワ.jpg", "heron/bad \udcff.jpg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def problems(result: MoveResult) -> list[tuple[str, str]]:
    return [(move.source, reason) for move, reason in result.problems]


ALL = ("gull/1.jpg", "heron/カワ.jpg", "heron/bad \udcff.jpg")


def test_quarantine_and_restore_leave_the_collection_as_it_was(root: Path, tmp_path: Path) -> None:
    before = tree(root)
    away = tmp_path / "away"
    moves = quarantine(root, ALL, away)
    assert tuple(move.source for move in moves.done) == ALL
    assert moves.problems == ()
    assert set(tree(root)) == {"gull/2.jpg"}
    assert {name: tree(away)[name] for name in ALL} == {name: before[name] for name in ALL}
    restored = restore(root, away)
    assert tuple(move.source for move in restored.done) == tuple(reversed(ALL))
    assert tree(root) == before
    assert not away.exists()


def test_two_quarantines_into_one_folder_overwrite_nothing(root: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    quarantine(root, ["gull/1.jpg"], away)
    (root / "gull/1.jpg").write_bytes(b"another photo")
    quarantine(root, ["gull/1.jpg"], away)
    assert (away / "gull/1.jpg").read_bytes() == b"gull/1.jpg"
    assert (away / "gull/1 (2).jpg").read_bytes() == b"another photo"
    moves = restore(root, away)
    # The later one is back; the earlier one has no place any more and stays.
    assert (root / "gull/1.jpg").read_bytes() == b"another photo"
    assert problems(moves) == [("gull/1.jpg", "another file has taken its place")]
    assert (away / "gull/1.jpg").read_bytes() == b"gull/1.jpg"
    (root / "gull/1.jpg").unlink()
    assert restore(root, away).problems == ()
    assert (root / "gull/1.jpg").read_bytes() == b"gull/1.jpg"


def test_a_photo_that_is_gone_is_reported(root: Path, tmp_path: Path) -> None:
    moves = quarantine(root, ["gull/9.jpg", "gull/1.jpg"], tmp_path / "away")
    assert problems(moves) == [("gull/9.jpg", "the file no longer exists")]
    assert [move.source for move in moves.done] == ["gull/1.jpg"]


@pytest.mark.parametrize("inside", [".", "away", "gull/away"])
def test_quarantine_inside_the_collection_is_refused(root: Path, inside: str) -> None:
    with pytest.raises(CollectionError) as caught:
        quarantine(root, ["gull/1.jpg"], root / inside)
    assert str(caught.value) == (
        f"--quarantine {(root / inside).resolve()} lies inside {root}, where the next scan would "
        "find the photos again. Choose a folder outside of it."
    )


def test_folder_of_another_collection_is_refused(root: Path, tmp_path: Path) -> None:
    quarantine(root, ["gull/1.jpg"], tmp_path / "away")
    other = tmp_path / "other"
    other.mkdir()
    for act in (restore, lambda root, folder: quarantine(root, [], folder)):
        with pytest.raises(CollectionError) as caught:
            act(other, tmp_path / "away")
        assert str(caught.value) == (
            f"{tmp_path / 'away'} holds photos of {root}, not of {other}. "
            "Name the collection of these photos, or choose another folder."
        )


def test_restore_from_a_folder_that_is_no_quarantine_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(CollectionError) as caught:
        restore(root, tmp_path / "nowhere")
    assert (
        str(caught.value)
        == f"{tmp_path / 'nowhere'} is not a quarantine folder: it has no moves.jsonl."
    )


def test_a_journal_cannot_send_photos_out_of_the_folder(root: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    quarantine(root, ["gull/1.jpg"], away)
    line = json.dumps({"root": str(root), "source": "../stolen.jpg", "target": "gull/1.jpg"})
    (away / JOURNAL).write_text(line + "\n")
    with pytest.raises(CollectionError) as caught:
        restore(root, away)
    assert str(caught.value) == (
        f"{away / JOURNAL}, line 1 leads out of the folder: '../stolen.jpg'."
    )
    (away / JOURNAL).write_text("nonsense\n")
    with pytest.raises(CollectionError) as caught:
        restore(root, away)
    assert str(caught.value) == f"{away / JOURNAL}, line 1 is damaged: 'nonsense'."


def test_older_journals_are_restored(root: Path, tmp_path: Path) -> None:
    before = tree(root)
    away = tmp_path / "away"
    away.mkdir()
    (root / "gull/1.jpg").rename(away / "1.jpg")
    line = json.dumps({"root": str(root), "path": "gull/1.jpg", "moved_to": "1.jpg"})
    (away / JOURNAL).write_text(line + "\n")
    assert restore(root, away).problems == ()
    assert tree(root) == before
    assert not away.exists()


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("moved_before", range(4))
def test_power_cut_at_any_move_loses_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved_before: int
) -> None:
    before = tree(root)
    away = tmp_path / "away"
    rename = Path.rename
    count = 0

    def cut(self: Path, target: Path) -> Path:
        nonlocal count
        if count == moved_before:
            raise PowerCut
        count += 1
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", cut)
    if moved_before < len(ALL):
        with pytest.raises(PowerCut):
            quarantine(root, ALL, away)
    else:
        quarantine(root, ALL, away)
    monkeypatch.setattr(Path, "rename", rename)
    with (away / JOURNAL).open("a") as log:
        log.write('{"root": "cut off')  # the next line was being written
    assert restore(root, away).problems == ()
    assert tree(root) == before


def test_move_to_another_disk_copies_before_it_deletes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(root)
    away = tmp_path / "away"
    rename = Path.rename

    def across(self: Path, target: Path) -> Path:
        if Path(target).name.startswith(".") or self.name.startswith("."):
            return rename(self, target)
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", across)
    quarantine(root, ALL, away)
    assert set(tree(root)) == {"gull/2.jpg"}
    restore(root, away)
    assert tree(root) == before


def test_unfinished_move_between_disks_is_undone(root: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    quarantine(root, ["gull/1.jpg"], away)
    # Cut between copying and deleting: the photo is in both places.
    (root / "gull/1.jpg").write_bytes((away / "gull/1.jpg").read_bytes())
    assert restore(root, away).problems == ()
    assert (root / "gull/1.jpg").read_bytes() == b"gull/1.jpg"
    assert not away.exists()


def test_full_disk_is_a_storage_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(StorageError) as caught:
        quarantine(root, ["gull/1.jpg"], tmp_path / "away")
    assert str(caught.value) == (
        f"Could not write {tmp_path / 'away' / 'gull' / '1.jpg'}: the disk is full. Free some "
        "space and run the same command again. Older files are intact."
    )
    assert (root / "gull/1.jpg").exists()


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A collection in which links lead to its own photo, to one outside, and to a folder."""
    root = tmp_path / "photos"
    for path in (root / "a/1.jpg", root / "a/2.jpg", root / "b/3.jpg", tmp_path / "nas/4.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    (root / "a/fav.jpg").symlink_to("1.jpg")
    (root / "b/fav.jpg").symlink_to("../a/1.jpg")
    (root / "b/chain.jpg").symlink_to("fav.jpg")
    (root / "b/out.jpg").symlink_to("../../nas/4.jpg")
    (root / "nas").symlink_to(tmp_path / "nas", target_is_directory=True)
    return root


def links(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): str(path.readlink())
        for path in sorted(root.rglob("*"))
        if path.is_symlink()
    }


def test_files_that_links_lead_to_and_linked_folders_stay(linked: Path, tmp_path: Path) -> None:
    before = tree(linked)
    moves = quarantine(linked, ["a/1.jpg", "nas/4.jpg", "a/2.jpg"], tmp_path / "away")
    assert problems(moves) == [
        ("a/1.jpg", "a link leads to it"),
        ("nas/4.jpg", "its folder is a link"),
    ]
    assert set(tree(tmp_path / "away")) == {"a/2.jpg", JOURNAL}
    assert set(tree(linked)) == set(before) - {"a/2.jpg"}


def test_a_moved_link_leads_to_its_file_and_comes_back_as_it_was(
    linked: Path, tmp_path: Path
) -> None:
    before, away = links(linked), tmp_path / "far" / "away"
    names = ["a/fav.jpg", "b/fav.jpg", "b/chain.jpg", "b/out.jpg"]
    assert quarantine(linked, names, away).problems == ()
    assert {name: (away / name).read_bytes() for name in names} == {
        "a/fav.jpg": b"1.jpg",
        "b/fav.jpg": b"1.jpg",
        "b/chain.jpg": b"1.jpg",
        "b/out.jpg": b"4.jpg",
    }
    assert restore(linked, away).problems == ()
    assert links(linked) == before
    assert not away.exists()


def test_an_undo_goes_on_past_what_it_cannot_do(linked: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    quarantine(linked, ["a/2.jpg", "b/fav.jpg", "b/3.jpg", "b/out.jpg"], away)
    (away / "b/fav.jpg").unlink()
    (away / "b/fav.jpg").write_bytes(b"no link any more")
    (linked / "b").rename(linked / "old b")
    (linked / "b").write_bytes(b"a file where a folder was")
    restored = restore(linked, away)
    assert [move.source for move in restored.done] == ["a/2.jpg"]
    assert problems(restored) == [
        ("b/out.jpg", "file exists"),
        ("b/3.jpg", "file exists"),
        ("b/fav.jpg", "it is no longer the link that was moved"),
    ]
    (linked / "b").unlink()
    (away / "b/fav.jpg").unlink()
    assert problems(restore(linked, away)) == [("b/fav.jpg", "the file no longer exists")]
    assert (linked / "b/3.jpg").read_bytes() == b"3.jpg"
    assert (linked / "b/out.jpg").readlink() == Path("../../nas/4.jpg")
    assert not away.exists()


def test_a_link_put_in_the_place_of_a_moved_file_never_loses_it(
    linked: Path, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    quarantine(linked, ["a/2.jpg"], away)
    (linked / "a/2.jpg").symlink_to(away / "a/2.jpg")
    assert problems(restore(linked, away)) == [("a/2.jpg", "another file has taken its place")]
    assert (away / "a/2.jpg").read_bytes() == b"2.jpg"


def test_a_file_with_the_longest_possible_name_moves_to_another_disk(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "x" * 251 + ".jpg"
    (root / "gull/1.jpg").rename(root / "gull" / name)
    rename = Path.rename

    def across(self: Path, target: Path) -> Path:
        if self.name.startswith("."):
            return rename(self, target)
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", across)
    quarantine(root, [f"gull/{name}"], tmp_path / "away")
    assert (tmp_path / "away" / "gull" / name).read_bytes() == b"gull/1.jpg"

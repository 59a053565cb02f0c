from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from finetune.config import CollectionConfig
from finetune.photos.collection import Collection, Part, Photo, PhotoHashes, pack_hashes
from finetune.photos.split.split import SplitRow, write_split
from finetune.runs.folder import RunFolder
from finetune.training.warm_start import Memory, keep_sides, remember, split_with_pinned

CONFIG = CollectionConfig()


def hashes(rng: np.random.Generator) -> bytes:
    numbers = [int(n) for n in rng.integers(2**63, size=8, dtype=np.uint64)]
    kinds = ("perceptual", "average", "difference", "wavelet")
    return pack_hashes(
        PhotoHashes(**dict(zip(kinds, numbers[:4], strict=True))),
        PhotoHashes(**dict(zip(kinds, numbers[4:], strict=True))),
    )


def photo(
    name: str, label: str = "a", *, like: Photo | None = None, part: Part | None = None
) -> Photo:
    """A photo whose content is its name, with hashes of its own or of the one that it is `like`."""
    rng = np.random.default_rng(sum(ord(c) * 131**i for i, c in enumerate(name)))
    return Photo(
        path=f"{label}/{name}.jpg",
        digest=name,
        labels=(label,),
        part=part,
        width=80,
        height=60,
        packed_hashes=like.packed_hashes if like else hashes(rng),
    )


def collection(root: Path, photos: Sequence[Photo]) -> Collection:
    return Collection(root=root, photos=tuple(sorted(photos, key=lambda p: p.path)))


@pytest.fixture
def old() -> dict[str, Photo]:
    return {name: photo(name) for name in ("t1", "t2", "v1", "x1")}


PARTS: dict[str, Part] = {"t1": "train", "t2": "train", "v1": "validation", "x1": "test"}


def test_photos_keep_their_side_and_what_looks_like_them_goes_along(
    tmp_path: Path, old: dict[str, Photo]
) -> None:
    alike = photo("n1", like=old["x1"])
    free = photo("n2")
    kept = keep_sides(
        collection(tmp_path, [*old.values(), alike, free]), Memory(parts=PARTS), CONFIG
    )
    assert dict(kept.parts) == {**PARTS, "n1": "test"}
    assert len(kept.collection) == 6
    assert kept.notes == (
        "4 photos keep their part of the earlier run; 1 that looks like one of them goes along; "
        "1 is new.",
    )


def test_a_relabeled_photo_keeps_its_side(tmp_path: Path, old: dict[str, Photo]) -> None:
    renamed = [photo(name, "new label") for name in old]
    kept = keep_sides(collection(tmp_path, renamed), Memory(parts=PARTS), CONFIG)
    assert dict(kept.parts) == PARTS


def test_a_new_photo_that_looks_like_both_sides_is_left_out(
    tmp_path: Path, old: dict[str, Photo]
) -> None:
    twin = photo("t3", like=old["x1"])
    interpolate = photo("n1", like=old["x1"])
    parts: dict[str, Part] = {**PARTS, "t3": "train"}
    kept = keep_sides(
        collection(tmp_path, [*old.values(), twin, interpolate]), Memory(parts=parts), CONFIG
    )
    assert [p.digest for p in kept.collection.photos] == ["t1", "t2", "t3", "v1", "x1"]
    assert kept.parts["t3"] == "train"
    assert kept.parts["x1"] == "test"
    assert kept.notes[-1] == (
        "1 new photo looks like earlier photos of more than one part and is left out, a/n1.jpg "
        "among them."
    )


def test_a_photo_like_one_that_is_no_longer_here_goes_where_that_one_was(
    tmp_path: Path, old: dict[str, Photo]
) -> None:
    memory = Memory(parts=PARTS, absent=(old["v1"], old["x1"]))
    here = [old["t1"], photo("n1", like=old["v1"]), photo("n2", like=old["x1"]), photo("n3")]
    kept = keep_sides(collection(tmp_path, here), memory, CONFIG)
    assert dict(kept.parts) == {"t1": "train", "n1": "validation", "n2": "test"}


def test_a_training_photo_that_was_moved_to_the_test_folder_still_trains(
    tmp_path: Path,
) -> None:
    photos = [photo("t1", part="test"), photo("v1", part="validation")]
    kept = keep_sides(collection(tmp_path, photos), Memory(parts=PARTS), CONFIG)
    assert kept.parts["t1"] == "train"
    assert kept.notes[-1] == (
        "1 photo is in the folder of another part than before, and stays in the old one, a/t1.jpg "
        "among them."
    )


def make_run(
    path: Path, rows: dict[str, Part], photos: Path, origin: Path | None = None
) -> RunFolder:
    path.mkdir()
    run = RunFolder(path)
    write_split(
        run.split_file,
        [
            SplitRow(path=f"{digest}.jpg", digest=digest, labels=("a",), group=digest, part=part)
            for digest, part in rows.items()
        ],
    )
    content = {"photos": str(photos), "settings": {"collection": {}}}
    if origin:
        content |= {"from": {"run": str(origin)}}
    run.config_file.write_text(json.dumps(content))
    return run


def test_what_the_runs_before_it_learned_is_remembered_too(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", {"p": "train", "q": "test"}, tmp_path)
    second = make_run(tmp_path / "second", {"q": "train", "r": "validation"}, tmp_path, first.path)
    third = make_run(tmp_path / "third", {"r": "validation"}, tmp_path, second.path)
    memory = remember(third, collection(tmp_path, []))
    assert memory.parts == {"p": "train", "q": "train", "r": "validation"}
    assert memory.notes == ()


def test_a_run_before_it_that_is_gone_is_said(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    run = make_run(tmp_path / "second", {"q": "train"}, tmp_path, gone)
    memory = remember(run, collection(tmp_path, []))
    assert memory.notes == (
        f"{gone}, which {run.path} came from, is gone: photos that it alone learned from cannot be "
        "told from new ones.",
    )


@pytest.mark.parametrize("seed", range(5))
def test_new_photos_are_split_as_usual_and_old_ones_stay(tmp_path: Path, seed: int) -> None:
    old = {f"o{label}{n}": photo(f"o{label}{n}", label) for label in "ab" for n in range(10)}
    where: list[Part] = ["train"] * 7 + ["validation", "test", "test"]
    parts = {digest: where[int(digest[-1])] for digest in old}
    new = [photo(f"n{label}{n}", label) for label in "abc" for n in range(20)]
    run = make_run(tmp_path / "run", parts, tmp_path)
    split = split_with_pinned(collection(tmp_path, [*old.values(), *new]), run, CONFIG, seed=seed)
    after = {row.digest: row.part for row in split.rows}
    assert {digest: after[digest] for digest in old} == parts
    for label in "abc":
        drawn = [after[f"n{label}{n}"] for n in range(20)]
        assert [drawn.count(p) for p in ("train", "validation", "test")] == [14, 3, 3]
    assert split.proof is not None
    assert split.proof.holds

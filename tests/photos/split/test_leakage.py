from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune.errors import ConfigError
from finetune.photos.collection import Part, Photo, pack_hashes
from finetune.photos.near_duplicates.hashing import PhotoHashes
from finetune.photos.quality import Quality
from finetune.photos.scan import scan
from finetune.photos.split.grouping import photo_groups
from finetune.photos.split.leakage import (
    audit_split,
    duplicates_in_training,
    prove_folds,
    prove_split,
)
from finetune.photos.split.split import SplitRow, split_groups

PLAIN_TEXTURE = Quality(brightness=0.5, contrast=0.3, sharpness=0.2)


def hashes(perceptual: int) -> PhotoHashes:
    return PhotoHashes(perceptual=perceptual, average=0, difference=0x5A5A5A5A5A5A5A5A, wavelet=0)


def half_set(rng: np.random.Generator) -> int:
    """A hash with 32 bits set, as photos have."""
    bits = np.zeros(64, dtype=bool)
    bits[rng.permutation(64)[:32]] = True
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def photo(path: str, perceptual: int, mirrored: int, **changes: Any) -> Photo:
    packed = pack_hashes(hashes(perceptual), hashes(mirrored))
    packed_photo = Photo(
        path=path,
        digest=f"digest of {path}",
        labels=(path.split("/")[0],),
        width=400,
        height=300,
        packed_hashes=packed,
        quality=PLAIN_TEXTURE,
    )
    return dataclasses.replace(packed_photo, **changes)


@pytest.fixture
def bursts() -> list[Photo]:
    """Two labels of 15 scenes each, every scene a burst of 4 frames within 4 bits."""
    rng = np.random.default_rng(0)
    photos = []
    for label in ("gull", "heron"):
        for scene in range(15):
            own, mirrored = half_set(rng), half_set(rng)
            for frame in range(4):
                flips = sum(1 << int(bit) for bit in rng.permutation(64)[:2])
                photos.append(photo(f"{label}/{scene}-{frame}.jpg", own ^ flips, mirrored ^ flips))
    return photos


def split(photos: list[Photo], groups: list[str], seed: int = 0) -> list[Part]:
    labels = [item.labels for item in photos]
    return split_groups(labels, groups, validation=0.2, test=0.2, seed=seed)


def split_rows(photos: list[Photo], groups: list[str], parts: list[Part]) -> list[SplitRow]:
    return [
        SplitRow(path=item.path, digest=item.digest, labels=item.labels, group=group, part=part)
        for item, group, part in zip(photos, groups, parts, strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_grouped_split_of_bursts_leaks_nothing_and_the_ungrouped_one_does(
    bursts: list[Photo], seed: int
) -> None:
    groups = photo_groups(bursts)
    assert len(set(groups)) == 30
    proof = prove_split(split_rows(bursts, groups, split(bursts, groups, seed)), bursts)
    assert proof.holds
    assert proof.straddling_groups == 0
    assert proof.leaks == {"validation": 0, "test": 0}
    assert proof.groups == 30
    loose = split(bursts, [item.path for item in bursts], seed)
    proof = prove_split(split_rows(bursts, groups, loose), bursts)
    assert not proof.holds
    assert proof.straddling_groups > 15
    assert proof.leaks["validation"] > 10
    assert proof.nearest is not None
    assert proof.nearest.distance_bits <= 4


def test_nearest_pair_names_the_photos_across_the_border() -> None:
    photos = [photo("a/1", 0xFFFFFFFF, 1 << 40), photo("a/2", 0xFFFFFFFF ^ 0b111, 1 << 41)]
    proof = prove_split(split_rows(photos, ["x", "y"], ["train", "validation"]), photos)
    assert proof.nearest is not None
    assert (proof.nearest.train, proof.nearest.held_out) == ("a/1", "a/2")
    assert proof.nearest.distance_bits == 3
    assert proof.summary() == {
        "groups": 2,
        "straddling": 0,
        "leaks": {"validation": 1},
        "nearest": {"train": "a/1", "held_out": "a/2", "distance_bits": 3},
    }


def test_nearest_pair_may_be_a_mirror_image() -> None:
    rng = np.random.default_rng(3)
    one, other = half_set(rng), half_set(rng)
    photos = [photo("a/1", one, other), photo("a/2", other ^ 1, one ^ 1)]
    proof = prove_split(split_rows(photos, ["x", "y"], ["train", "test"]), photos)
    assert proof.nearest is not None
    assert proof.nearest.distance_bits == 1
    assert proof.leaks == {"test": 1}


def test_no_near_pair_within_reach_is_none() -> None:
    rng = np.random.default_rng(4)
    photos = [photo(f"a/{i}", half_set(rng), half_set(rng)) for i in range(2)]
    rows = split_rows(photos, ["x", "y"], ["train", "validation"])
    assert prove_split(rows, photos).nearest is None


def test_a_copy_across_the_border_leaks_even_without_hashes() -> None:
    photos = [
        Photo(path="a", digest="same", labels=("x",), width=9, height=9),
        Photo(path="b", digest="same", labels=("x",), width=9, height=9),
        Photo(path="c", digest="other", labels=("x",), width=9, height=9),
    ]
    parts: list[Part] = ["train", "validation", "validation"]
    assert duplicates_in_training(photos, parts).tolist() == [False, True, False]
    proof = prove_split(split_rows(photos, ["1", "1", "2"], parts), photos)
    assert proof.leaks == {"validation": 1}
    assert proof.nearest is not None
    assert (proof.nearest.train, proof.nearest.held_out, proof.nearest.distance_bits) == (
        "a",
        "b",
        0,
    )


def test_audit_counts_correct_predictions_with_and_without_a_duplicate() -> None:
    rng = np.random.default_rng(5)
    seen = half_set(rng)
    photos = [photo("a/train", seen, half_set(rng))]
    parts: list[Part] = ["train"]
    correct = {"a/train": True}
    for index in range(10):
        duplicate = index < 6
        photos.append(photo(f"a/{index}", seen ^ (1 << index) if duplicate else half_set(rng), 0))
        parts.append("validation")
        correct[f"a/{index}"] = index not in (5, 6, 7)
    photos.append(photo("a/not predicted", half_set(rng), 0))
    parts.append("validation")
    audit = audit_split(photos, parts, correct)
    assert (audit.with_duplicate.photos, audit.with_duplicate.correct) == (6, 5)
    assert (audit.without_duplicate.photos, audit.without_duplicate.correct) == (4, 2)
    assert audit.without_duplicate.accuracy == 0.5
    assert audit.flattered_points == pytest.approx(100 * (7 / 10 - 2 / 4))


def test_audit_without_an_honest_photo_has_no_figure() -> None:
    photos = [
        Photo(path="a", digest="same", width=9, height=9),
        Photo(path="b", digest="same", width=9, height=9),
    ]
    audit = audit_split(photos, ["train", "validation"], {"b": True})
    assert audit.without_duplicate.accuracy is None
    assert audit.flattered_points is None


def test_group_by_folder_keeps_folders_and_copies_together() -> None:
    photos = [
        Photo(path="a/1", digest="1", width=9, height=9),
        Photo(path="a/2", digest="2", width=9, height=9),
        Photo(path="b/3", digest="3", width=9, height=9),
        Photo(path="c/4", digest="2", width=9, height=9),
    ]
    assert photo_groups(photos, group_by="folder") == ["1", "1", "3", "1"]
    assert photo_groups(photos, group_by="none") == ["1", "2", "3", "2"]


def test_assigned_groups_override_the_hashes() -> None:
    photos = [Photo(path=name, digest=name, width=9, height=9) for name in "abc"]
    assigned = {"a": "nest", "c": "nest"}
    for group_by in ("duplicates", "burst", "folder", "none"):
        keys = photo_groups(photos[:2] + photos[2:], group_by=group_by, assigned=assigned)
        assert keys[0] == keys[2]
    assert photo_groups(photos, group_by="none", assigned=assigned) == ["a", "b", "a"]


def test_group_by_burst_takes_time_and_camera_alone() -> None:
    rng = np.random.default_rng(6)
    photos = [
        photo(
            f"a/{index}",
            half_set(rng),
            half_set(rng),
            taken_at=f"2024-05-01T10:00:{second:02d}",
            camera="Canon",
        )
        for index, second in enumerate((0, 25, 50))
    ]
    assert len(set(photo_groups(photos, group_by="burst"))) == 1
    assert len(set(photo_groups(photos, group_by="duplicates"))) == 3


def test_unknown_group_by_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        photo_groups([], group_by="species")  # type: ignore[arg-type]
    assert str(caught.value) == "--group-by species is not one of duplicates, burst, folder, none."


def row(path: str, label: str, group: str, part: Part, digest: str = "") -> SplitRow:
    return SplitRow(path=path, digest=digest or path, labels=(label,), group=group, part=part)


def test_split_without_straddling_groups_is_proven() -> None:
    proof = prove_split(
        [
            row("1", "a", "x", "train"),
            row("2", "a", "x", "train"),
            row("3", "a", "y", "validation"),
            row("4", "b", "z", "train"),
        ]
    )
    assert proof.holds
    assert proof.photos == {"train": 3, "validation": 1}
    assert proof.by_label == {
        "a": {"train": 2, "validation": 1},
        "b": {"train": 1, "validation": 0},
    }
    assert (proof.groups, proof.largest_group) == (3, 2)
    assert proof.missing == (("b", "validation"),)


def test_group_in_two_parts_is_found() -> None:
    proof = prove_split([row("1", "a", "x", "train"), row("2", "a", "x", "test")])
    assert not proof.holds
    assert (proof.straddling_groups, proof.straddling_contents) == (1, 0)


def test_content_in_two_parts_is_found() -> None:
    rows = [row("1", "a", "x", "train", "same"), row("2", "a", "y", "test", "same")]
    proof = prove_split(rows)
    assert not proof.holds
    assert (proof.straddling_groups, proof.straddling_contents) == (0, 1)


def test_empty_split_has_no_parts() -> None:
    proof = prove_split([])
    assert (proof.photos, proof.groups, proof.largest_group) == ({}, 0, 0)


def test_the_folds_leak_as_each_fold_does_as_a_part(
    make_photos: Callable[..., Path],
) -> None:
    root = make_photos({"ant": 9, "bee": 9})
    (root / "ant" / "copy.jpg").write_bytes((root / "bee" / "003.jpg").read_bytes())
    with Image.open(root / "ant" / "004.jpg") as image:
        ImageOps.mirror(image).save(root / "bee" / "mirrored.png")
    photos = scan(root).photos
    rng = np.random.default_rng(0)
    leaks = 0
    for _ in range(8):
        folds = rng.integers(-1, 3, len(photos)).tolist()
        rows = [
            SplitRow(
                path=p.path, digest=p.digest, labels=p.labels, group=p.path, part="train", fold=fold
            )
            for p, fold in zip(photos, folds, strict=True)
        ]
        expected = 0
        for held in range(3):
            parts: list[Part] = ["validation" if fold == held else "train" for fold in folds]
            expected += int(duplicates_in_training(photos, parts).sum())
        assert prove_folds(rows, photos).leaks == {"validation": expected}
        leaks += expected
    assert leaks >= 16

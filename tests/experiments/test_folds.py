from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.config import CollectionConfig, TrainConfig
from finetune.config_io import resolve
from finetune.errors import CollectionError, ConfigError, RunError
from finetune.experiments.folds import (
    NEVER,
    OWN_TEST,
    FoldRow,
    assign_folds,
    final_splitter,
    fold_splitter,
    read_folds,
    write_folds,
)
from finetune.photos.collection import Collection, Part, Photo


def photo(number: int, label: str, group: int, part: Part | None = None) -> Photo:
    return Photo(
        path=f"{label}/{number:03d}.jpg",
        digest=f"{number:032x}",
        labels=(label,),
        part=part,
        width=80,
        height=60,
        group=f"g{group}",
    )


def collection(photos: list[Photo]) -> Collection:
    return Collection(
        root=Path("photos"), photos=tuple(sorted(photos, key=lambda p: p.path)), problems=()
    )


def config(seed: int = 0, **flags: object) -> TrainConfig:
    return resolve({}, {"group_by": "none", "seed": seed, **flags})


photo_lists = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 14)), min_size=12, max_size=60
).map(lambda pairs: [photo(n, label, group) for n, (label, group) in enumerate(pairs)])


@settings(max_examples=40, deadline=None)
@given(photo_lists, st.integers(2, 6), st.integers(0, 5))
def test_folds_are_a_partition_into_whole_groups(
    photos: list[Photo], folds: int, seed: int
) -> None:
    try:
        rows, _ = assign_folds(collection(photos), config(seed), folds)
    except (ConfigError, CollectionError):
        return
    assert sorted(row.path for row in rows) == sorted(p.path for p in photos)
    fold_of_group: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        fold_of_group[row.group].add(row.fold)
        assert 0 <= row.fold <= folds
    assert all(len(found) == 1 for found in fold_of_group.values())
    assert set(range(1, folds + 1)) <= {row.fold for row in rows}
    again, _ = assign_folds(collection(photos[::-1]), config(seed), folds)
    assert again == rows


@settings(max_examples=40, deadline=None)
@given(photo_lists, st.integers(2, 5))
def test_each_photo_is_held_out_once_and_no_group_is_on_both_sides(
    photos: list[Photo], folds: int
) -> None:
    found = collection(photos)
    try:
        rows, _ = assign_folds(found, config(), folds)
        splits = [fold_splitter(rows, config(), fold)(found) for fold in range(1, folds + 1)]
    except (ConfigError, CollectionError):
        return
    held_out: Counter[str] = Counter()
    for split in splits:
        parts_of_group: dict[str, set[str]] = defaultdict(set)
        for row in split.rows:
            parts_of_group[row.group].add(row.part)
        assert all(len(parts) == 1 for parts in parts_of_group.values())
        for part, samples in split.samples.items():
            assert {s.path for s in samples} == {r.path for r in split.rows if r.part == part}
        held_out.update(sample.path for sample in split.samples["test"])
        # The fold's training has every label that it holds out.
        taught = {row.labels[0] for row in split.rows if row.part != "test"}
        assert {row.labels[0] for row in split.rows if row.part == "test"} <= taught
    assert set(held_out.values()) <= {1}
    assert set(held_out) == {row.path for row in rows if row.fold != NEVER}


def test_each_label_is_spread_evenly_over_the_folds() -> None:
    photos = [photo(n, "ab"[n % 3 == 0], n) for n in range(90)]
    rows, _ = assign_folds(collection(photos), config(), 5)
    for label, share in (("a", 12), ("b", 6)):
        counts = Counter(row.fold for row in rows if row.labels == (label,))
        assert counts == dict.fromkeys(range(1, 6), share)


def test_a_label_of_one_group_trains_in_every_fold() -> None:
    photos = [photo(n, "a", n) for n in range(8)] + [photo(n, "b", 99) for n in range(10, 14)]
    rows, notes = assign_folds(collection(photos), config(), 4)
    assert {row.fold for row in rows if row.labels == ("b",)} == {NEVER}
    assert notes == (
        "4 folds of 8 photos (8 groups, each in one fold); each of them is held out once.",
        "4 photos of 'b' are never held out and train in every fold: without them, too few photos "
        "of a label would be left for training.",
    )


def test_more_folds_than_groups_are_refused() -> None:
    photos = [photo(n, "ab"[n % 2], n // 4) for n in range(12)]
    with pytest.raises(ConfigError) as caught:
        assign_folds(collection(photos), config(), 9)
    assert str(caught.value) == (
        "--folds 9 is too many: only 3 of them would have a photo. Choose --folds 3, or add photos."
    )


def test_own_train_and_validation_are_merged_and_own_test_is_unused() -> None:
    parts: list[Part] = ["train", "train", "train", "validation", "test"]
    photos = [photo(n, "ab"[n % 2], n, parts[n % 5]) for n in range(40)]
    rows, notes = assign_folds(collection(photos), config(), 4)
    assert {row.path for row in rows if row.fold == OWN_TEST} == {
        p.path for p in photos if p.part == "test"
    }
    assert all(row.fold > 0 for row in rows if row.fold != OWN_TEST)
    assert "No fold uses the collection's own test folder (8 photos)." in notes
    split = fold_splitter(rows, config(), 1)(collection(photos))
    assert not {p.path for p in photos if p.part == "test"} & {row.path for row in split.rows}
    whole = final_splitter(rows, config())(collection(photos))
    assert {s.path for s in whole.samples["test"]} == {p.path for p in photos if p.part == "test"}


def test_the_final_split_puts_nothing_aside_for_a_test() -> None:
    photos = [photo(n, "ab"[n % 2], n) for n in range(20)]
    rows, _ = assign_folds(collection(photos), config(), 4)
    split = final_splitter(rows, config())(collection(photos))
    both = [*split.samples["train"], *split.samples["validation"]]
    assert sorted(s.path for s in both) == sorted(p.path for p in photos)
    assert split.samples["test"] == ()
    assert split.notes == (
        "The final model uses all 20 photos: 17 for training, 3 to select the epoch and calibrate.",
    )


def test_folds_csv_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows = (
        FoldRow(path="a/1, 2.jpg", digest="d1", labels=("a",), group="g", fold=2),
        FoldRow(path="カワセミ/3.jpg", digest="d2", labels=("x", "y"), group="h", fold=NEVER),
    )
    assert read_folds(write_folds(tmp_path / "folds.csv", rows)) == rows


def test_a_damaged_folds_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folds.csv").write_text("path,digest\nx,y\n")
    with pytest.raises(RunError, match="is damaged, so the cross-validation cannot be resumed"):
        read_folds(tmp_path / "folds.csv")


def test_a_photo_that_changed_since_is_named() -> None:
    photos = [photo(n, "ab"[n % 2], n) for n in range(12)]
    rows, _ = assign_folds(collection(photos), config(), 3)
    changed = [dataclasses.replace(photos[0], digest="other"), *photos[1:]]
    with pytest.raises(RunError, match=r"a.000\.jpg has changed since the run began"):
        fold_splitter(rows, config(), 1)(collection(changed))


def test_the_test_share_is_ignored() -> None:
    assert CollectionConfig().test_share > 0
    photos = [photo(n, "ab"[n % 2], n) for n in range(40)]
    rows, _ = assign_folds(collection(photos), config(test=0.5), 4)
    split = fold_splitter(rows, config(test=0.5), 1)(collection(photos))
    assert {part: len(samples) for part, samples in split.samples.items()} == {
        "train": 26,
        "validation": 4,
        "test": 10,
    }

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import CollectionError, ConfigError
from finetune.photos.collection import Part
from finetune.photos.labels import join_labels, split_labels
from finetune.photos.split.grouping import Labels, imbalances, summarize_imbalances
from finetune.photos.split.split import (
    SplitRow,
    fold_groups,
    fold_parts,
    read_split,
    split_groups,
    write_split,
)


def groups_of_labels(labels: Sequence[Labels], groups: Sequence[int]) -> dict[str, set[int]]:
    found = defaultdict(set)
    for entry, group in zip(labels, groups, strict=True):
        for label in (entry,) if isinstance(entry, str) else entry:
            found[label].add(group)
    return found


def parts_of_labels(labels: Sequence[Labels], parts: Sequence[str]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for entry, part in zip(labels, parts, strict=True):
        for label in (entry,) if isinstance(entry, str) else entry:
            found[label][part] += 1
    return found


# Labels and groups drawn apart, so that a group may well hold several labels.
anything = st.lists(
    st.tuples(st.sampled_from("abcde"), st.integers(0, 25)), min_size=1, max_size=80
)
# A group decides the label: the usual case.
one_label_a_group = st.lists(st.integers(0, 40), min_size=1, max_size=120).map(
    lambda groups: [("abcde"[group % 5], group) for group in groups]
)


@given(anything, st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 3))
def test_groups_stay_whole_and_each_label_keeps_a_training_photo(
    photos: list[tuple[str, int]], validation: float, test: float, seed: int
) -> None:
    labels, groups = zip(*photos, strict=True)
    parts = split_groups(labels, groups, validation=validation, test=test, seed=seed)
    assert len(set(zip(groups, parts, strict=True))) == len(set(groups))
    assert all(held["train"] >= 1 for held in parts_of_labels(labels, parts).values())


@given(one_label_a_group, st.floats(0.01, 0.45), st.floats(0, 0.45), st.integers(0, 3))
def test_each_label_of_two_groups_has_a_validation_photo(
    photos: list[tuple[str, int]], validation: float, test: float, seed: int
) -> None:
    labels, groups = zip(*photos, strict=True)
    parts = split_groups(labels, groups, validation=validation, test=test, seed=seed)
    held = parts_of_labels(labels, parts)
    for label, found in groups_of_labels(labels, groups).items():
        assert (held[label]["validation"] >= 1) == (len(found) >= 2)
        if test > 0 and len(found) >= 4:
            assert held[label]["test"] >= 1


def test_validation_leaves_a_group_for_the_test() -> None:
    groups = [0, 5, 25, 25, 25, 35]
    parts = split_groups(["a"] * 6, groups, validation=0.375, test=0.25, seed=0)
    assert set(parts) == {"train", "validation", "test"}


@given(anything, st.randoms(use_true_random=False))
def test_split_is_the_same_in_any_order_of_photos(
    photos: list[tuple[str, int]], shuffler: random.Random
) -> None:
    shuffled = list(photos)
    shuffler.shuffle(shuffled)

    def split(rows: list[tuple[str, int]]) -> dict[int, str]:
        labels, groups = zip(*rows, strict=True)
        parts = split_groups(labels, groups, validation=0.2, test=0.2, seed=3)
        return dict(zip(groups, parts, strict=True))

    assert split(photos) == split(shuffled)


def test_shares_are_exact_where_all_photos_are_single() -> None:
    labels = ["a"] * 100 + ["b"] * 40 + ["c"] * 60
    parts = split_groups(labels, range(200), validation=0.15, test=0.1, seed=0)
    assert parts_of_labels(labels, parts) == {
        "a": {"train": 75, "validation": 15, "test": 10},
        "b": {"train": 30, "validation": 6, "test": 4},
        "c": {"train": 45, "validation": 9, "test": 6},
    }


def test_rounding_keeps_the_overall_share() -> None:
    labels = [f"species {index // 10}" for index in range(400)]
    parts = split_groups(labels, range(400), validation=0.15, test=0.25, seed=0)
    assert Counter(parts) == {"train": 240, "validation": 60, "test": 100}
    held = parts_of_labels(labels, parts)
    assert {counts["validation"] for counts in held.values()} == {1, 2}
    assert {counts["test"] for counts in held.values()} == {2, 3}


def test_another_seed_is_another_split() -> None:
    labels = ["a"] * 50
    splits = {
        tuple(split_groups(labels, range(50), validation=0.2, test=0, seed=seed))
        for seed in range(5)
    }
    assert len(splits) == 5


def test_a_burst_too_large_for_validation_stays_in_training() -> None:
    labels = ["a"] * 40
    groups = ["burst"] * 30 + list(range(10))
    parts = split_groups(labels, groups, validation=0.15, test=0, seed=0)
    assert parts[0] == "train"
    assert Counter(parts)["validation"] == 6


def test_new_photos_move_few_of_the_old_ones() -> None:
    labels = ["a"] * 200 + ["b"] * 200
    names = [f"photo {index}" for index in range(400)]
    before = split_groups(labels, names, validation=0.2, test=0.2, seed=0)
    more = [f"new {index}" for index in range(20)]
    after = split_groups([*labels, *["a"] * 20], [*names, *more], validation=0.2, test=0.2, seed=0)
    moved = sum(a != b for a, b in zip(before, after[:400], strict=True))
    assert moved <= 20


def test_photo_with_several_labels_counts_for_each() -> None:
    labels: list[Labels] = [("gull", "flying"), "gull", "gull", "flying", "flying"]
    parts = split_groups(labels, range(5), validation=0.2, test=0, seed=1)
    held = parts_of_labels(labels, parts)
    assert held["gull"]["train"] >= 1
    assert held["flying"]["train"] >= 1
    assert held["gull"]["validation"] >= 1
    assert held["flying"]["validation"] >= 1


def test_label_of_one_group_is_named_as_a_shortfall() -> None:
    labels = ["heron"] * 3 + ["gull"] * 20
    groups = ["burst"] * 3 + list(range(20))
    parts = split_groups(labels, groups, validation=0.2, test=0, seed=0)
    found = imbalances(labels, groups, parts, validation=0.2, test=0)
    assert [str(item) for item in found] == [
        "'heron' has 0 photos in validation, not 0.6: all its photos are one group."
    ]


def test_uneven_groups_are_named_as_a_shortfall() -> None:
    labels = ["a"] * 40
    groups = ["first"] * 20 + ["second"] * 20
    parts = split_groups(labels, groups, validation=0.2, test=0, seed=0)
    found = imbalances(labels, groups, parts, validation=0.2, test=0)
    assert [str(item) for item in found] == [
        "'a' has 20 photos in validation, not 8: its 2 groups cannot be divided more evenly."
    ]


def test_balanced_split_has_no_shortfall() -> None:
    labels = ["a"] * 30 + ["b"] * 30
    parts = split_groups(labels, range(60), validation=0.15, test=0.15, seed=0)
    assert imbalances(labels, range(60), parts, validation=0.15, test=0.15) == ()


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0), (0.5, 0.5), (float("nan"), 0)])
def test_impossible_shares_are_refused(validation: float, test: float) -> None:
    with pytest.raises(ConfigError) as caught:
        split_groups(["a", "a"], [1, 2], validation=validation, test=test, seed=0)
    assert str(caught.value) == (
        f"--validation {validation:g} and --test {test:g} must be 0 or more and leave "
        "something to train on."
    )


@given(anything, st.integers(2, 6), st.integers(0, 3))
@settings(max_examples=60)
def test_folds_keep_groups_whole_and_every_label_in_training(
    photos: list[tuple[str, int]], folds: int, seed: int
) -> None:
    labels, groups = zip(*photos, strict=True)
    try:
        held = fold_groups(labels, groups, folds=folds, seed=seed)
    except ConfigError:
        return
    assert set(held) <= set(range(-1, folds))
    assert len(set(zip(groups, held, strict=True))) == len(set(groups))
    for fold in range(folds):
        training = {label for label, at in zip(labels, held, strict=True) if at != fold}
        assert training == set(labels)


def test_folds_are_even_in_each_label() -> None:
    rng = random.Random(5)
    labels, groups = [], []
    for label in "abc":
        for group in range(40):
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                labels.append(label)
                groups.append((label, group))
    held = fold_groups(labels, groups, folds=5, seed=0)
    for label in "abc":
        counts = Counter(at for at, name in zip(held, labels, strict=True) if name == label)
        assert set(counts) == set(range(5))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_label_of_one_group_is_held_out_in_no_fold() -> None:
    labels = ["heron"] * 3 + ["gull"] * 6
    groups = ["burst"] * 3 + list(range(6))
    held = fold_groups(labels, groups, folds=3, seed=0)
    assert held[:3] == [-1, -1, -1]
    assert sorted(held[3:]) == [0, 0, 1, 1, 2, 2]
    assert fold_parts(held, 0).count("validation") == 2


def test_impossible_folds_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        fold_groups(["a"], [1], folds=1, seed=0)
    assert str(caught.value) == "--folds 1 must be at least 2."
    with pytest.raises(ConfigError) as caught:
        fold_groups(["a", "a"], [1, 1], folds=3, seed=0)
    assert str(caught.value) == (
        "--folds 3 cannot be made: no label has two groups of photos. "
        "Add photos, or use --group-by none."
    )


def row(path: str, part: Part = "train", labels: tuple[str, ...] = ("gull",)) -> SplitRow:
    return SplitRow(path=path, digest="d" * 32, labels=labels, group="g" * 8, part=part)


def test_split_file_reads_back_what_was_written(tmp_path: Path) -> None:
    rows = (
        row("カワセミ/1.jpg", labels=("カワセミ",)),
        row('a "quoted", name.jpg', "validation", ("gull", "in|flight", "back\\slash")),
        row("bytes \udcff.jpg", "test"),
        row("line\nbreak.jpg"),
    )
    path = write_split(tmp_path / "split.csv", rows)
    assert read_split(path) == tuple(sorted(rows, key=lambda item: item.path))
    header = path.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    assert header == "path,digest,label,group,part"


def test_no_cell_of_a_split_file_is_a_formula(tmp_path: Path) -> None:
    rows = [
        SplitRow(path="=1+1/a.jpg", digest="00", labels=("@sum",), group="-g", part="train"),
        SplitRow(path="plain/b.jpg", digest="01", labels=("heron",), group="01", part="test"),
    ]
    file = write_split(tmp_path / "split.csv", rows)
    assert file.read_text().splitlines()[1] == "'=1+1/a.jpg,00,'@sum,'-g,train"
    assert read_split(file) == tuple(rows)


def test_split_file_is_the_same_for_any_order_of_rows(tmp_path: Path) -> None:
    rows = [row(f"{index}.jpg") for index in range(5)]
    first = write_split(tmp_path / "1.csv", rows).read_bytes()
    assert write_split(tmp_path / "2.csv", rows[::-1]).read_bytes() == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,digest\n",
            "{path} is not a split.csv: it has no column label, group, part. "
            "Make a new one with: finetune split",
        ),
        (
            "path,digest,label,group,part\na.jpg,1,x,g,val\n",
            "{path}, line 2: the part is 'val'; it must be one of train, validation, test.",
        ),
        (
            "path,digest,label,group,part\na.jpg,1,x,g,test\na.jpg,1,x,g,test\n",
            "{path}, line 3: 'a.jpg' is listed twice.",
        ),
        ("path,digest,label,group,part\n,1,x,g,test\n", "{path}, line 2: the path is empty."),
        (
            f"path,digest,label,group,part\n{'9' * 256},1,x,g,test\n",
            "{path}, line 2: no file can have this path.",
        ),
    ],
)
def test_broken_split_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "split.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CollectionError) as caught:
        read_split(path)
    assert str(caught.value) == message.format(path=path)


def test_missing_split_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError) as caught:
        read_split(tmp_path / "split.csv")
    assert str(caught.value) == (
        f"{tmp_path / 'split.csv'} cannot be read: No such file or directory."
    )


@given(st.lists(st.text(min_size=1), max_size=4))
def test_any_labels_survive_one_cell(labels: list[str]) -> None:
    assert split_labels(join_labels(labels)) == tuple(labels)


def test_many_imbalances_are_summarized_in_one_note() -> None:
    labels = [f"label {number:02}" for number in range(20)]
    found = imbalances(labels, labels, ["train"] * 20, validation=0.2, test=0)
    assert len(found) == 20
    assert summarize_imbalances(found) == (
        "'label 00' has 0 photos in validation, not 0.2: all its photos are one group. "
        "'label 01' has 0 photos in validation, not 0.2: all its photos are one group. "
        "'label 02' has 0 photos in validation, not 0.2: all its photos are one group. "
        "And 17 more labels."
    )
    assert summarize_imbalances(()) == ""

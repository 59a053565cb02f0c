from __future__ import annotations

from finetune.photos.split.split import SplitRow
from finetune.reporting.split_proof import prove_split


def row(path: str, label: str, group: str, part: str, digest: str = "") -> SplitRow:
    return SplitRow(path=path, digest=digest or path, labels=(label,), group=group, part=part)


def test_a_clean_split_is_proven():
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


def test_a_group_in_two_parts_is_found():
    proof = prove_split([row("1", "a", "x", "train"), row("2", "a", "x", "test")])
    assert not proof.holds
    assert (proof.straddling_groups, proof.straddling_contents) == (1, 0)


def test_one_content_in_two_parts_is_found():
    rows = [row("1", "a", "x", "train", "same"), row("2", "a", "y", "test", "same")]
    proof = prove_split(rows)
    assert not proof.holds
    assert (proof.straddling_groups, proof.straddling_contents) == (0, 1)


def test_an_empty_split_holds_nothing():
    proof = prove_split([])
    assert (proof.photos, proof.groups, proof.largest_group) == ({}, 0, 0)

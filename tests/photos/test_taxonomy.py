from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.errors import CollectionError
from finetune.photos.taxonomy import Taxonomy, make_taxonomy, read_taxonomy

GULLS = ["gulls/common gull", "gulls/herring gull", "owl", "terns/arctic", "terns/common"]


def test_nested_folders_are_a_tree(tmp_path: Path) -> None:
    tree = read_taxonomy(tmp_path, GULLS)
    assert tree is not None
    assert tree.levels == ("level 1", "label")
    assert tree.labels == tuple(GULLS)
    assert tree.nodes[0] == ("gulls", "owl", "terns")
    assert tree.ancestors.tolist() == [[0, 0, 1, 2, 2], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    "labels",
    [["ant", "bee"], ["a/ant", "b/bee"], ["birds/owl", "birds/tern"]],
    ids=["flat", "one label each", "one folder holds all"],
)
def test_folders_that_group_nothing_are_no_tree(tmp_path: Path, labels: list[str]) -> None:
    assert read_taxonomy(tmp_path, labels) is None


def test_levels_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    labels = ["all/a/x/1", "all/a/y/2", "all/b/z/3"]
    tree = read_taxonomy(tmp_path, labels)
    assert tree is not None
    assert tree.levels == ("level 2", "label")
    assert tree.nodes[0] == ("all/a", "all/b")


@pytest.mark.parametrize("turned", [False, True])
def test_ranks_are_read_from_either_end(tmp_path: Path, turned: bool) -> None:
    rows = [
        ["species", "genus", "family"],
        ["herring gull", "Larus", "Laridae"],
        ["common gull", "Larus", "Laridae"],
        ["arctic tern", "Sterna", "Laridae"],
        ["tawny owl", "Strix", "Strigidae"],
        ["not in the collection", "Bubo", "Strigidae"],
    ]
    text = "\n".join(",".join(row[::-1] if turned else row) for row in rows)
    (tmp_path / "taxonomy.csv").write_text(text + "\n\n", encoding="utf-8-sig")
    tree = read_taxonomy(tmp_path, ["arctic tern", "common gull", "herring gull", "tawny owl"])
    assert tree is not None
    assert tree.levels == ("family", "genus", "label")
    assert tree.paths == (
        ("Laridae", "Sterna", "arctic tern"),
        ("Laridae", "Larus", "common gull"),
        ("Laridae", "Larus", "herring gull"),
        ("Strigidae", "Strix", "tawny owl"),
    )


def test_parents_may_have_parents(tmp_path: Path) -> None:
    (tmp_path / "taxonomy.csv").write_text(
        "Label,Parent\nrobin,songbird\nwren,songbird\nsongbird,bird\nowl,bird\nant,insect\n"
    )
    tree = read_taxonomy(tmp_path, ["ant", "owl", "robin", "wren", "fern"])
    assert tree is not None
    assert tree.nodes == (
        ("insect", "bird", "fern"),
        ("ant", "owl", "songbird", "fern"),
        ("ant", "owl", "robin", "wren", "fern"),
    )
    assert tree.lineage(1, "songbird") == ("bird", "songbird")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,parent\na,b\na,c\n", "line 3: 'a' has two parents, 'b' and 'c'."),
        ("label,parent\na,b\nb,a\n", "the ancestors of 'a' do not end: b > a."),
        ("label\na\n", "its first line is 'label'; it must be label,parent or different"),
        ("species,genus\na,G,F\n", "line 2: 3 cells for 2 columns."),
        ("species,genus,family\na,G,F\nb,G,E\n", "line 3: the genus 'G' has other ancestors"),
        ("species,genus\na,G\na,H\n", "line 3: 'a' is listed twice."),
        ("label,parent\nx,y\n", "has none of the labels: they are 'a', 'b' ..."),
        ("label,parent\n", "has no rows; name the parent of each label, or delete the file."),
        ("", "cannot be read: "),
    ],
)
def test_a_table_that_is_no_tree_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "taxonomy.csv").write_text(text)
    with pytest.raises(CollectionError) as error:
        read_taxonomy(tmp_path, ["a", "b"])
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "taxonomy.csv"))


def test_probabilities_add_up_along_the_tree() -> None:
    tree = make_taxonomy(GULLS, {label: [label.split("/")[0]] for label in GULLS})
    assert tree is not None
    shares = np.random.default_rng(0).dirichlet(np.ones(5), size=7)
    np.testing.assert_allclose(
        tree.at(0, shares),
        np.stack([shares[:, :2].sum(1), shares[:, 2], shares[:, 3:].sum(1)], axis=1),
    )
    np.testing.assert_array_equal(tree.at(1, shares), shares)


def test_distance_is_the_height_of_the_lowest_common_ancestor() -> None:
    above = {"a": ["x", "p"], "b": ["x", "p"], "c": ["x", "q"], "d": ["y", "r"], "e": ["y", "r"]}
    tree = make_taxonomy(list("abcde"), above)
    assert tree is not None
    first, second = np.array([0, 0, 0, 0]), np.array([0, 1, 2, 3])
    assert tree.distances(first, second).tolist() == [0, 1, 2, 3]


def test_a_saved_taxonomy_is_the_same() -> None:
    tree = make_taxonomy(GULLS, {label: [label.split("/")[0]] for label in GULLS})
    assert tree is not None
    content = tree.to_dict()
    assert Taxonomy.from_dict(content) == tree
    content["paths"][0] = ["gulls"]
    with pytest.raises(ValueError, match="one node for each level"):
        Taxonomy.from_dict(content)

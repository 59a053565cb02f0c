from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity

from finetune.curation.similar import (
    By,
    Link,
    Match,
    Query,
    check_target,
    feature_similarities,
    find_similar,
    gather,
    hash_similarities,
    rank,
)
from finetune.demo_data import DemoCollection
from finetune.errors import CollectionError
from finetune.photos.collection import Photo
from finetune.photos.crops import load_image
from finetune.photos.scan import scan


def test_feature_similarity_is_the_cosine_about_the_pools_mean() -> None:
    rng = np.random.default_rng(1)
    seeds, pool = rng.gamma(1, size=(3, 40)), rng.gamma(1, size=(50, 40))
    found = feature_similarities(seeds.astype(np.float32), pool.astype(np.float32))
    assert np.allclose(
        found, cosine_similarity(pool - pool.mean(0), seeds - pool.mean(0)), atol=1e-6
    )


def test_an_empty_pool_and_a_pool_of_one_have_no_likeness() -> None:
    seeds = np.ones((2, 5), np.float32)
    assert feature_similarities(seeds, np.empty((0, 5), np.float32)).shape == (0, 2)
    one = feature_similarities(seeds, np.full((1, 5), 3, np.float32))
    assert np.array_equal(one, np.zeros((1, 2)))


def test_hash_similarity_is_the_share_of_equal_bits() -> None:
    rng = np.random.default_rng(2)
    seeds = rng.integers(0, 2**63, 4, dtype=np.uint64)
    pool = rng.integers(0, 2**63, 30, dtype=np.uint64)
    found = hash_similarities(seeds, pool)
    for i, a in enumerate(pool):
        for j, b in enumerate(seeds):
            assert found[i, j] == pytest.approx(1 - bin(int(a) ^ int(b)).count("1") / 64)


TABLE = np.array([[0.9, 0.1], [0.6, 0.6], [0.2, 0.8], [0.6, 0.6]], np.float32)


def test_all_ranks_by_the_mean_and_any_by_the_nearest_seed() -> None:
    together = rank(TABLE, like="all")
    assert [(m.position, round(m.similarity, 6)) for m in together] == [
        (1, 0.6),
        (3, 0.6),
        (0, 0.5),
        (2, 0.5),
    ]
    nearest = rank(TABLE, like="any")
    assert nearest[:2] == [
        Match(position=0, similarity=float(np.float32(0.9)), seed=0),
        Match(position=2, similarity=float(np.float32(0.8)), seed=1),
    ]


def test_bounds_and_what_is_left_out() -> None:
    assert [m.position for m in rank(TABLE, like="any", top=2, exclude=[0])] == [2, 1]
    assert [m.position for m in rank(TABLE, like="any", min_similarity=0.75)] == [0, 2]
    assert rank(np.empty((0, 2), np.float32)) == []


def test_the_same_species_is_found_by_features(
    demo_collection: DemoCollection, at_their_birds: Callable[..., list[Photo]], tmp_path: Path
) -> None:
    collection = scan(demo_collection.folder)
    photos = at_their_birds(demo_collection, collection.photos)
    pool = dataclasses.replace(collection, photos=tuple(photos))
    seeds = []
    for number, photo in enumerate([p for p in photos if p.labels == ("mallard",)][:2]):
        seeds.append(tmp_path / f"{number}.png")
        square = load_image(pool.path_of(photo), size=224, crop=photo.crop)
        Image.fromarray(square).save(seeds[-1])
    found = find_similar(seeds, pool, Query(top=4))
    shown = [pool.photos[m.position].labels for m in found.matches]
    assert shown.count(("mallard",)) >= 3


def test_by_hash_ranks_by_the_average_hash_of_imagehash(birds: Path) -> None:
    collection = scan(birds)
    seed = birds / collection.photos[0].path
    found = find_similar([seed], collection, Query(by="hash", top=None))

    def average(path: Path) -> imagehash.ImageHash:
        with Image.open(path) as image:
            return imagehash.average_hash(image)

    assert len(found.matches) == len(collection) - 1
    distances = [
        average(birds / collection.photos[m.position].path) - average(seed) for m in found.matches
    ]
    # Ours come from a small draft of the JPEG, so that a bit or two of each hash may differ.
    assert all(
        abs(64 * (1 - m.similarity) - bits) <= 4
        for m, bits in zip(found.matches, distances, strict=True)
    )


def test_a_copy_of_the_seed_under_another_name_is_a_seed(birds: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    photos = sorted((birds / "mallard").iterdir())[:3]
    for number, path in enumerate(photos):
        shutil.copy(path, pool / f"{number}.jpg")
    collection = scan(pool)
    found = find_similar([photos[0]], collection, Query(by="hash"))
    assert sorted(m.position for m in found.matches) == [1, 2]


def test_a_bad_seed_is_named_and_the_others_count(birds: Path, tmp_path: Path) -> None:
    collection = scan(birds)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    good = birds / collection.photos[0].path
    for by in ("hash", "features"):
        found = find_similar([bad, good], collection, Query(by=by))
        assert found.seeds == (good,)
        assert [(p.path, p.reason) for p in found.problems] == [(str(bad), "not a photo")]


@pytest.mark.parametrize("by", ["hash", "features"])
def test_no_good_seed_is_an_error(by: By, birds: Path, tmp_path: Path) -> None:
    gone, bad = tmp_path / "gone.jpg", tmp_path / "bad.jpg"
    bad.write_text("no photo")
    collection = scan(birds)
    with pytest.raises(CollectionError) as caught:
        find_similar([gone], collection, Query(by=by))
    assert str(caught.value) == (
        f"The seed cannot be opened: {gone}: no such file or directory. "
        "Choose photos that other programs open."
    )
    with pytest.raises(CollectionError) as caught:
        find_similar([gone, bad], collection, Query(by=by))
    assert str(caught.value) == (
        f"None of the 2 seeds can be opened: {gone}: no such file or directory. "
        "Choose photos that other programs open."
    )


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pool"
    paths = []
    for number, name in enumerate(("b.jpg", "sub/a.jpg", "x/a.jpg")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 9)
        paths.append(path)
    return paths


@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_files_keep_their_names(sources: list[Path], tmp_path: Path, link: Link) -> None:
    before = {path: path.read_bytes() for path in sources}
    made = gather(sources, tmp_path / "out", link=link)
    assert [path.name for path in made] == ["b.jpg", "a.jpg", "a (2).jpg"]
    assert [path.read_bytes() for path in made] == list(before.values())
    assert made[0].is_symlink() == (link == "symlink")
    assert made[0].samefile(sources[0]) == (link != "copy")
    assert {path: path.read_bytes() for path in sources} == before


def test_a_folder_with_something_in_it_is_refused(sources: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(CollectionError) as caught:
        gather(sources, out)
    assert str(caught.value) == (
        f"{out} is not an empty folder. Choose a new one; nothing is lost."
    )
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_folder_in_the_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError) as caught:
        check_target(tmp_path / "found", tmp_path)
    assert str(caught.value) == (
        f"--to {tmp_path / 'found'} lies inside {tmp_path}, where the next search would find the "
        "photos again. Choose a folder outside of it."
    )

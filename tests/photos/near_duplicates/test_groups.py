from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from finetune.errors import ConfigError
from finetune.photos.collection import Photo, hash_array, pack_hashes
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.decode.photo_names import is_photo_name
from finetune.photos.near_duplicates.groups import (
    Components,
    component_members,
    detail_score,
    group_keys,
    group_photos,
    near_duplicate_groups,
)
from finetune.photos.near_duplicates.hamming import nearest_distance, pair_blocks
from finetune.photos.near_duplicates.hashing import PhotoHashes, hash_with_mirror
from finetune.photos.near_duplicates.pairs import (
    Fingerprints,
    NearDuplicateRule,
    are_near_duplicates,
    compute_fingerprints,
)
from finetune.photos.quality import Quality, measure

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "photos"

hash_lists = st.lists(
    # Few distinct values and near ones: neighbors, copies and buckets of several come up.
    st.one_of(
        st.integers(0, 2**64 - 1),
        st.integers(0, 15),
        st.integers(0, 63).map(lambda bit: 1 << bit),
        st.tuples(st.integers(0, 63), st.integers(0, 63)).map(lambda b: (1 << b[0]) | (1 << b[1])),
    ),
    max_size=60,
)


def near_pairs(hashes: NDArray[np.uint64], *, max_distance_bits: int) -> list[tuple[int, int]]:
    """All pairs of `pair_blocks`, the smaller index first, sorted."""
    return sorted(
        (min(first, second), max(first, second))
        for block in pair_blocks(hashes, max_distance_bits=max_distance_bits)
        for first, second in zip(block.first.tolist(), block.second.tolist(), strict=True)
    )


def brute_force(hashes: list[int], others: list[int], limit: int) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i, j in itertools.product(range(len(hashes)), range(len(others)))
        if (hashes[i] ^ others[j]).bit_count() <= limit
    }


@given(hash_lists, st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_near_pairs_are_those_of_brute_force(hashes: list[int], limit: int) -> None:
    found = near_pairs(np.array(hashes, dtype=np.uint64), max_distance_bits=limit)
    assert found == sorted((i, j) for i, j in brute_force(hashes, hashes, limit) if i < j)


@given(hash_lists, hash_lists, st.integers(0, 14))
@settings(max_examples=40, deadline=None)
def test_pairs_between_two_arrays_are_those_of_brute_force(
    hashes: list[int], others: list[int], limit: int
) -> None:
    blocks = pair_blocks(
        np.array(hashes, dtype=np.uint64),
        np.array(others, dtype=np.uint64),
        max_distance_bits=limit,
    )
    found = [
        (i, j, distance)
        for block in blocks
        for i, j, distance in zip(*(part.tolist() for part in block), strict=True)
    ]
    assert len(found) == len(set(found))
    assert {(i, j) for i, j, _ in found} == brute_force(hashes, others, limit)
    assert all((hashes[i] ^ others[j]).bit_count() == distance for i, j, distance in found)


def flipped(hashes: NDArray[np.uint64], flips: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """The hashes with `flips` different bits turned in each."""
    out = []
    for value in hashes.tolist():
        for bit in rng.choice(64, flips, replace=False).tolist():
            value ^= 1 << bit
        out.append(value)
    return np.array(out, dtype=np.uint64)


@pytest.mark.parametrize("flips", [0, 3, 6, 8])
def test_planted_neighbors_among_many_are_all_found(flips: int) -> None:
    rng = np.random.default_rng(flips)
    hashes = rng.integers(0, 2**64, 20_000, dtype=np.uint64)
    near = flipped(hashes[:500], flips, rng)
    found = near_pairs(np.concatenate([hashes, near]), max_distance_bits=8)
    assert {(index, 20_000 + index) for index in range(500)} <= set(found)
    ends = np.concatenate([hashes, near])[np.array(found)]
    assert np.bitwise_count(ends[:, 0] ^ ends[:, 1]).max() <= 8


def test_pairs_come_in_blocks_of_bounded_size() -> None:
    hashes = np.zeros(3_000, dtype=np.uint64)
    sizes = [len(block.first) for block in pair_blocks(hashes, max_distance_bits=2)]
    assert sum(sizes) == 3_000 * 2_999 // 2
    assert max(sizes) < 1_100_000


@pytest.mark.parametrize("limit", [-1, 21])
def test_impossible_distance_is_refused(limit: int) -> None:
    with pytest.raises(ConfigError) as caught:
        near_pairs(np.zeros(2, dtype=np.uint64), max_distance_bits=limit)
    assert str(caught.value) == f"--max-distance-bits {limit} must lie between 0 and 20."


@given(hash_lists, hash_lists)
@settings(max_examples=40, deadline=None)
def test_nearest_distance_is_that_of_brute_force(hashes: list[int], others: list[int]) -> None:
    expected = min(
        ((a ^ b).bit_count(), i, j)
        for i, a in enumerate([*hashes, 5])
        for j, b in enumerate([*others, 9])
    )
    found = nearest_distance(
        np.array([*hashes, 5], dtype=np.uint64), np.array([*others, 9], dtype=np.uint64)
    )
    assert found == (expected[1], expected[2], expected[0])


def test_nearest_distance_is_capped_at_the_limit() -> None:
    far = np.array([0], dtype=np.uint64), np.array([2**64 - 1], dtype=np.uint64)
    assert nearest_distance(*far, at_most=10) == (-1, -1, 11)
    assert nearest_distance(far[0], far[1][:0]) == (-1, -1, 13)


@given(st.integers(1, 40), st.data())
def test_components_are_those_of_a_graph_search(size: int, data: st.DataObject) -> None:
    index = st.integers(0, size - 1)
    pairs = data.draw(st.lists(st.tuples(index, index), max_size=60))
    expected = list(range(size))
    for _ in range(size):
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    joined = Components(size)
    half = len(pairs) // 2
    for part in (pairs[:half], pairs[half:]):
        array = np.array(part, dtype=np.intp).reshape(-1, 2)
        joined.join(array[:, 0], array[:, 1])
    assert joined.ids().tolist() == expected
    assert [part.tolist() for part in component_members(joined.ids())] == [
        [i for i in range(size) if expected[i] == root]
        for root in range(size)
        if expected.count(root) > 1
    ]


def scene(seed: int, width: int = 400, height: int = 300) -> NDArray[np.uint8]:
    """A picture of blobs: (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    image = np.full((height, width, 3), rng.uniform(60, 160, 3))
    for _ in range(14):
        distance = (x - rng.random()) ** 2 + (y - rng.random()) ** 2
        blob = np.exp(-distance / rng.uniform(0.002, 0.04))
        image += blob[..., None] * rng.normal(0, 90, 3)
    drawn: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return drawn


def resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def noisy(image: NDArray[np.uint8], seed: int, amount: float = 4) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    changed: NDArray[np.uint8] = np.clip(image + rng.normal(0, amount, image.shape), 0, 255).astype(
        np.uint8
    )
    return changed


def photo(
    name: str,
    image: NDArray[np.uint8],
    *,
    digest: str | None = None,
    taken_at: str | None = None,
    camera: str | None = None,
) -> Photo:
    return Photo(
        path=name,
        digest=digest or f"digest of {name}",
        width=image.shape[1],
        height=image.shape[0],
        taken_at=taken_at,
        camera=camera,
        packed_hashes=pack_hashes(*hash_with_mirror(image)),
        quality=measure(image),
    )


def grouped(photos: list[Photo], rule: None = None) -> list[list[str]]:
    """The names of the photos in each group of two or more."""
    ids = group_photos(compute_fingerprints(photos), rule)
    return [[photos[index].path for index in part] for part in component_members(ids)]


def test_resized_recompressed_and_mirrored_copies_are_one_group() -> None:
    image = scene(1)
    photos = [
        photo("original", image),
        photo("small", resized(image, 160, 120)),
        photo("noisy", noisy(image, 0)),
        photo("bright", np.clip(image * 1.15, 0, 255).astype(np.uint8)),
        photo("mirror", image[:, ::-1]),
        *(photo(f"other {seed}", scene(seed)) for seed in range(2, 40)),
    ]
    assert grouped(photos) == [["original", "small", "noisy", "bright", "mirror"]]


def test_groups_do_not_depend_on_the_order_of_photos() -> None:
    photos = [
        photo(f"{seed} {copy}", noisy(scene(seed), copy)) for seed in range(20) for copy in range(3)
    ]
    expected = {frozenset(group) for group in grouped(photos)}
    assert len(expected) == 20
    shuffled = [photos[index] for index in np.random.default_rng(0).permutation(len(photos))]
    assert {frozenset(group) for group in grouped(shuffled)} == expected


def test_group_keys_are_the_smallest_digest_and_do_not_depend_on_order() -> None:
    photos = [photo(name, noisy(scene(1), int(name))) for name in ("2", "1", "3")]
    ids = group_photos(compute_fingerprints(photos))
    assert group_keys(ids, [item.digest for item in photos]) == ["digest of 1"] * 3


def sky(
    low: int, high: int, seed: int, *, across: bool = False, grain: float = 0.0
) -> NDArray[np.uint8]:
    """A featureless gradient from one gray level to another, as a sky is."""
    ramp = np.linspace(low, high, 400 if across else 300)
    image = np.broadcast_to(ramp[None, :] if across else ramp[:, None], (300, 400))
    image = image + np.random.default_rng(seed).normal(0, grain, (300, 400))
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def plain_photos() -> Iterator[Photo]:
    for level in range(40):
        yield photo(
            f"black {level}", noisy(np.full((300, 400, 3), level % 4, np.uint8), level, 0.6)
        )
        yield photo(f"gray {level}", np.full((300, 400, 3), 100 + level, np.uint8))
        yield photo(f"sky {level}", sky(180 - level, 240, level))
        yield photo(f"grainy sky {level}", sky(180 - level, 240, level, grain=2))
        yield photo(f"side light {level}", sky(40, 90 + level, level, across=True))


def test_plain_photos_whose_hashes_collide_stay_apart() -> None:
    photos = list(plain_photos())
    hashes = hash_array(photos).tolist()
    assert len(hashes) - len(set(hashes)) > 50  # they do collide
    assert grouped(photos) == []


def test_plain_photos_do_not_link_groups_of_others() -> None:
    photos = [
        photo(f"{seed}{copy}", noisy(scene(seed), seed)) for seed in range(12) for copy in "ab"
    ]
    assert len(grouped([*photos, *plain_photos()])) == 12


def test_exact_copies_of_a_plain_photo_are_one_group() -> None:
    black = np.zeros((300, 400, 3), np.uint8)
    photos = [
        photo("first", black, digest="same"),
        photo("second", black, digest="same"),
        photo("third", black, digest="another"),
    ]
    assert grouped(photos) == [["first", "second"]]


def test_photos_without_hashes_are_grouped_by_content_alone() -> None:
    photos = [
        Photo(path="a", digest="1", width=10, height=10),
        Photo(path="b", digest="1", width=10, height=10),
        Photo(path="c", digest="2", width=10, height=10),
    ]
    assert grouped(photos) == [["a", "b"]]


def prints_of(
    perceptual: list[int], difference: list[int] | None = None, **changes: Any
) -> Fingerprints:
    """Fingerprints with hashes as given and mirror images unlike anything."""
    size = len(perceptual)
    rng = np.random.default_rng(9)
    values = {
        "content": np.arange(size),
        "perceptual": np.array(perceptual, dtype=np.uint64),
        "difference": np.array(difference or [0x5A5A5A5A5A5A5A5A] * size, dtype=np.uint64),
        "mirrored_perceptual": rng.integers(0, 2**64, size, dtype=np.uint64),
        "mirrored_difference": rng.integers(0, 2**64, size, dtype=np.uint64),
        "featureless": np.zeros(size, dtype=bool),
        "seconds": np.full(size, np.nan),
        "camera": np.zeros(size, dtype=np.intp),
    }
    return Fingerprints(**{**values, **changes})


def chain(links: int, step: int = 6) -> list[int]:
    """Hashes that differ by `step` bits from the previous one, and by more from the others."""
    values = [0x0123456789ABCDEF]
    for link in range(links):
        value = values[-1]
        for bit in range(step):
            value ^= 1 << ((link * step + bit) % 64)
        values.append(value)
    return values


def test_a_chain_is_cut_where_its_ends_differ() -> None:
    hashes = chain(9)
    assert len(near_pairs(np.array(hashes, dtype=np.uint64), max_distance_bits=8)) == 9
    ids = group_photos(prints_of(hashes))
    assert len(set(ids.tolist())) == 10


def test_a_short_chain_within_the_span_is_one_group() -> None:
    ids = group_photos(prints_of(chain(2)))
    assert ids.tolist() == [0, 0, 0]


def test_a_bridge_between_two_tight_groups_is_cut_and_they_stay() -> None:
    left = [0, 1, 2, 3]
    far = sum(1 << bit for bit in range(20, 36))
    right = [far, far ^ 1, far ^ 2]
    bridge = sum(1 << bit for bit in range(20, 28))
    ids = group_photos(prints_of([*left, bridge, *right]))
    assert ids.tolist() == [0, 0, 0, 0, 4, 5, 5, 5]


def test_a_split_keeps_chains_up_to_the_maximum_size() -> None:
    rule = NearDuplicateRule(chain_photos=10)
    assert set(group_photos(prints_of(chain(9)), rule).tolist()) == {0}
    assert len(set(group_photos(prints_of(chain(10)), rule).tolist())) == 11


def test_near_perceptual_hashes_need_near_difference_hashes_too() -> None:
    same = [7, 7]
    assert group_photos(prints_of(same, [0x5A5A, 0x5A5A])).tolist() == [0, 0]
    twelve = (1 << 12) - 1
    assert group_photos(prints_of(same, [0, twelve])).tolist() == [0, 0]
    assert group_photos(prints_of(same, [0, 2 * twelve + 1])).tolist() == [0, 1]


def frames(seconds: int, *, camera: str = "A", bits: int = 0) -> tuple[int, str, int]:
    """Photos of one camera at these seconds, each `bits` further from the first."""
    return seconds, camera, bits


def burst_ids(rows: list[tuple[int, str, int]], rule: NearDuplicateRule) -> list[int]:
    rng = np.random.default_rng(1)
    base = int(rng.integers(0, 2**63))
    hashes = [base ^ (((1 << bits) - 1) << (3 * index)) for index, (_, _, bits) in enumerate(rows)]
    prints = prints_of(
        hashes,
        rng.integers(0, 2**63, len(rows)).tolist(),
        seconds=np.array([row[0] for row in rows], dtype=float),
        camera=np.array([ord(row[1]) for row in rows]),
    )
    return [int(group) for group in group_photos(prints, rule)]


BURSTS = NearDuplicateRule(burst_seconds=2.0)


def test_frames_of_one_camera_seconds_apart_are_one_group() -> None:
    rows = [frames(0), frames(1, bits=10), frames(3, bits=10), frames(60), frames(61, bits=9)]
    assert burst_ids(rows, BURSTS) == [0, 0, 0, 3, 3]
    assert burst_ids(rows, NearDuplicateRule()) == [0, 1, 2, 3, 4]


def test_another_camera_at_the_same_time_is_another_group() -> None:
    rows = [frames(0), frames(0, camera="B", bits=10), frames(1, bits=10)]
    assert burst_ids(rows, BURSTS) == [0, 1, 0]


def test_unlike_frames_seconds_apart_are_a_burst_only_by_time_alone() -> None:
    rows = [frames(0), frames(1, bits=30)]
    assert burst_ids(rows, BURSTS) == [0, 1]
    assert burst_ids(rows, dataclasses.replace(BURSTS, burst_bits=64)) == [0, 0]


def test_one_blurred_frame_does_not_break_a_burst() -> None:
    rows = [frames(0), frames(1, bits=40), frames(2)]
    assert burst_ids(rows, BURSTS) == [0, 1, 0]


def test_negative_burst_time_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        NearDuplicateRule(burst_seconds=-1)
    assert str(caught.value) == "--burst-seconds -1 must be at least 0."


def test_bursts_are_read_from_exif_times() -> None:
    images = [noisy(scene(5), seed, 2) for seed in range(2)]
    times = ["2024-05-01T10:00:00", "2024-05-01T10:00:01.50"]
    photos = [
        photo(f"{index}", image, taken_at=time, camera="Canon")
        for index, (image, time) in enumerate(zip(images, times, strict=True))
    ]
    seconds = compute_fingerprints([*photos, photo("odd", scene(8), taken_at="yesterday")]).seconds
    assert seconds[1] - seconds[0] == 1.5
    assert np.isnan(seconds[2])


def test_alike_tells_the_pairs_that_grouping_uses() -> None:
    image = scene(3)
    photos = [photo("a", image), photo("b", image[:, ::-1]), photo("c", scene(4))]
    prints = compute_fingerprints(photos)
    assert are_near_duplicates(prints, 0, np.array([0, 1, 2]), 8).tolist() == [True, True, False]


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the shared photos are not here")
def test_real_photos_are_not_glued_together() -> None:
    photos = []
    for path in sorted((SHARED / "birds5").rglob("*")):
        if path.is_file() and is_photo_name(path.name):
            photos.append(photo(path.name, decode_photo(path, min_side_pixels=128)))
    groups = grouped(photos)
    # Its validation photos are copies of training photos.
    assert len(groups) == 27
    assert all(len(group) == 2 for group in groups)


OWN = 0x00FF00FF00FF00FF
MIRRORED = 0x0F0F0F0F0F0F0F0F


def hashed_photo(
    path: str,
    *,
    own: int = OWN,
    mirrored: int = MIRRORED,
    side: int = 300,
    sharpness: float = 0.2,
    **changes: Any,
) -> Photo:
    def hashes(perceptual: int) -> PhotoHashes:
        return PhotoHashes(
            perceptual=perceptual, average=0, difference=0x5A5A5A5A5A5A5A5A, wavelet=0
        )

    return dataclasses.replace(
        Photo(
            path=path,
            digest=f"digest of {path}",
            width=side * 4 // 3,
            height=side,
            packed_hashes=pack_hashes(hashes(own), hashes(mirrored)),
            quality=Quality(brightness=0.5, contrast=0.3, sharpness=sharpness),
            file_bytes=side * side,
        ),
        **changes,
    )


def test_best_photo_is_first_and_the_others_have_a_kind() -> None:
    original = hashed_photo("original", side=3000)
    photos = [
        hashed_photo("shrunken", side=200, own=OWN ^ 0b1111),
        hashed_photo("mirror", own=MIRRORED ^ 1, mirrored=OWN ^ 1),
        original,
        hashed_photo("copy", side=3000, digest=original.digest),
        hashed_photo("blurred", side=3000, sharpness=0.02),
        hashed_photo("unlike", own=0x3333333333333333, mirrored=0x1111222244448888),
    ]
    (group,) = near_duplicate_groups(photos)
    assert [(item.photo.path, item.kind, item.distance_bits) for item in group.photos] == [
        ("copy", None, 0),
        ("original", "copy", 0),
        ("blurred", "similar", 0),
        ("mirror", "mirror", 1),
        ("shrunken", "similar", 4),
    ]
    assert group.best.path == "copy"
    assert [item.duplicate_of and item.duplicate_of.path for item in group.photos] == [
        None,
        "copy",
        "copy",
        "copy",
        "copy",
    ]


def test_files_with_several_names_are_kept() -> None:
    linked = hashed_photo("linked", side=200)
    photos = [
        hashed_photo("best", side=900),
        linked,
        hashed_photo("link", side=200, digest=linked.digest),
        hashed_photo("copy", side=200, digest=linked.digest),
    ]
    (group,) = near_duplicate_groups(photos, other_names={"link": "linked"})
    assert [
        (item.photo.path, item.kind, item.duplicate_of and item.duplicate_of.path)
        for item in group.photos
    ] == [
        ("best", None, None),
        ("copy", "similar", "best"),
        ("linked", "similar", None),
        ("link", "similar", None),
    ]
    (group,) = near_duplicate_groups(photos[1:3], other_names={"link": "linked"})
    assert [(item.photo.path, item.kind) for item in group.photos] == [
        ("linked", None),
        ("link", "name"),
    ]


def test_detail_ranks_sharp_over_blurred_and_large_over_shrunken() -> None:
    assert detail_score(hashed_photo("a", sharpness=0.2)) > detail_score(
        hashed_photo("b", sharpness=0.1)
    )
    assert detail_score(hashed_photo("a", side=3000)) > detail_score(
        hashed_photo("b", side=300, sharpness=0.3)
    )
    assert detail_score(hashed_photo("a", quality=None)) > 0


def test_what_is_not_like_a_kept_photo_is_kept_too() -> None:
    # best - middle - far is a chain: far is like middle only, which goes.
    photos = [
        hashed_photo("best", side=900),
        hashed_photo("middle", side=800, own=OWN ^ 0b111111),
        hashed_photo("far", side=700, own=OWN ^ 0b111111 ^ (0b111111 << 20)),
    ]
    (group,) = near_duplicate_groups(photos)
    kept = [item.photo.path for item in group.photos if item.duplicate_of is None]
    assert kept == ["best", "far"]


def test_group_under_two_labels_contradicts_and_unlabeled_photos_do_not_count() -> None:
    photos = [
        hashed_photo("1", labels=("gull",)),
        hashed_photo("2", labels=("heron",)),
        hashed_photo("3"),
    ]
    (group,) = near_duplicate_groups(photos)
    assert group.contradicts
    assert group.labels == ("gull", "heron")
    (group,) = near_duplicate_groups([photos[0], photos[2]])
    assert not group.contradicts


def test_larger_groups_come_first() -> None:
    other = 0x3333333333333333
    photos = [hashed_photo("a1"), hashed_photo("a2")]
    photos += [hashed_photo(f"b{i}", own=other, mirrored=0x1111222244448888) for i in range(3)]
    groups = near_duplicate_groups(photos)
    assert [len(group.photos) for group in groups] == [3, 2]


def test_burst_frames_are_named_as_such() -> None:
    rng = np.random.default_rng(0)
    flips = sum(1 << int(bit) for bit in rng.permutation(64)[:14])
    photos = [
        hashed_photo("first", taken_at="2024-05-01T10:00:00", camera="A", side=900),
        hashed_photo("second", own=OWN ^ flips, taken_at="2024-05-01T10:00:01", camera="A"),
    ]
    assert near_duplicate_groups(photos) == ()
    (group,) = near_duplicate_groups(photos, NearDuplicateRule(burst_seconds=2))
    assert [item.kind for item in group.photos] == [None, "burst"]
    assert group.photos[1].distance_bits == 14
    assert group.photos[1].duplicate_of == photos[0]


@pytest.mark.parametrize("bits", [9, 20])
def test_unlike_photos_are_in_no_group(bits: int) -> None:
    flips = sum(1 << (3 * bit) for bit in range(bits))
    assert near_duplicate_groups([hashed_photo("a"), hashed_photo("b", own=OWN ^ flips)]) == ()

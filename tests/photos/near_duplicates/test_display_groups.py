import dataclasses

import numpy as np
import pytest

from finetune.photos.collection import Photo, pack_hashes
from finetune.photos.near_duplicates.display_groups import detail_score, near_duplicate_groups
from finetune.photos.near_duplicates.hashing import PhotoHashes
from finetune.photos.near_duplicates.pairs import NearDuplicateRule
from finetune.photos.quality import Quality

OWN = 0x00FF00FF00FF00FF
MIRRORED = 0x0F0F0F0F0F0F0F0F


def photo(path, *, own=OWN, mirrored=MIRRORED, side=300, sharpness=0.2, **changes):
    def hashes(perceptual):
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


def test_best_photo_comes_first_and_the_others_say_what_they_are():
    original = photo("original", side=3000)
    photos = [
        photo("shrunken", side=200, own=OWN ^ 0b1111),
        photo("mirror", own=MIRRORED ^ 1, mirrored=OWN ^ 1),
        original,
        photo("copy", side=3000, digest=original.digest),
        photo("blurred", side=3000, sharpness=0.02),
        photo("unlike", own=0x3333333333333333, mirrored=0x1111222244448888),
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


def test_detail_ranks_sharp_over_blurred_and_large_over_shrunken():
    assert detail_score(photo("a", sharpness=0.2)) > detail_score(photo("b", sharpness=0.1))
    assert detail_score(photo("a", side=3000)) > detail_score(photo("b", side=300, sharpness=0.3))
    assert detail_score(photo("a", quality=None)) > 0


def test_what_is_not_like_a_kept_photo_is_kept_too():
    # best - middle - far is a chain: far is like middle only, which goes.
    photos = [
        photo("best", side=900),
        photo("middle", side=800, own=OWN ^ 0b111111),
        photo("far", side=700, own=OWN ^ 0b111111 ^ (0b111111 << 20)),
    ]
    (group,) = near_duplicate_groups(photos)
    kept = [item.photo.path for item in group.photos if item.duplicate_of is None]
    assert kept == ["best", "far"]


def test_group_under_two_labels_contradicts_and_unlabeled_photos_do_not_count():
    photos = [photo("1", labels=("gull",)), photo("2", labels=("heron",)), photo("3")]
    (group,) = near_duplicate_groups(photos)
    assert group.contradicts
    assert group.labels == ("gull", "heron")
    (group,) = near_duplicate_groups([photos[0], photos[2]])
    assert not group.contradicts


def test_larger_groups_come_first():
    other = 0x3333333333333333
    photos = [photo("a1"), photo("a2")]
    photos += [photo(f"b{i}", own=other, mirrored=0x1111222244448888) for i in range(3)]
    groups = near_duplicate_groups(photos)
    assert [len(group.photos) for group in groups] == [3, 2]


def test_burst_frames_are_named_as_such():
    rng = np.random.default_rng(0)
    flips = sum(1 << int(bit) for bit in rng.permutation(64)[:14])
    photos = [
        photo("first", taken_at="2024-05-01T10:00:00", camera="A", side=900),
        photo("second", own=OWN ^ flips, taken_at="2024-05-01T10:00:01", camera="A"),
    ]
    assert near_duplicate_groups(photos) == ()
    (group,) = near_duplicate_groups(photos, NearDuplicateRule(burst_seconds=2))
    assert [item.kind for item in group.photos] == [None, "burst"]
    assert group.photos[1].distance_bits == 14
    assert group.photos[1].duplicate_of == photos[0]


@pytest.mark.parametrize("bits", [9, 20])
def test_unlike_photos_are_in_no_group(bits):
    flips = sum(1 << (3 * bit) for bit in range(bits))
    assert near_duplicate_groups([photo("a"), photo("b", own=OWN ^ flips)]) == ()

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from finetune.errors import CollectionError
from finetune.photos.collection import Collection, Part, Photo
from finetune.photos.labels import (
    check_labels,
    label_index,
    nfc,
    photo_counts,
    targets_of,
    without_labels,
)


def collection(*labeled: tuple[str, ...], parts: list[Part] | None = None) -> Collection:
    photos = tuple(
        Photo(
            path=f"{number}.jpg",
            digest=f"{number:032x}",
            width=1,
            height=1,
            labels=labels,
            part=None if parts is None else parts[number],
        )
        for number, labels in enumerate(labeled)
    )
    return Collection(root=Path("photos"), photos=photos)


HERON, GULL, TERN = ("heron",), ("gull",), ("tern",)


def test_nfc_gives_both_spellings_of_a_label_one():
    assert nfc("ガ") == nfc("カ\u3099") == "ガ"
    assert nfc("Mo\u0308we") == "Möwe"


def test_good_labels_pass_unchanged():
    given = collection(HERON, HERON, GULL, GULL)
    assert check_labels(given).photos == given.photos


@pytest.mark.parametrize(
    ("labeled", "message"),
    [
        (
            [HERON, GULL, GULL],
            "Label 'heron' has 1 photo; a split into train and validation needs 2. "
            "Add a photo, or leave the label out with --min-photos 2.",
        ),
        (
            [HERON, GULL, TERN, TERN],
            "Labels 'gull', 'heron' have 1 photo each; a split into train and validation needs 2. "
            "Add photos, or leave these labels out with --min-photos 2.",
        ),
        (
            [HERON, HERON],
            "photos has only the label 'heron' to learn; a classifier needs 2 or more. "
            "Add a folder of photos of something else.",
        ),
        (
            [(), ()],
            "The photos in photos have no labels. Put them into one folder for each label, "
            "or label them with: finetune annotate",
        ),
    ],
)
def test_labels_that_cannot_be_learned_are_named(labeled, message):
    with pytest.raises(CollectionError) as caught:
        check_labels(collection(*labeled))
    assert str(caught.value) == message


def test_min_photos_leaves_small_labels_out_and_says_so(caplog):
    given = collection(HERON, GULL, GULL, TERN, TERN, TERN)
    with caplog.at_level(logging.WARNING):
        checked = check_labels(given, min_photos=2)
    assert checked.labels == ("gull", "tern")
    assert caplog.messages == ["Left out by --min-photos 2: 'heron' with 1 photo."]


def test_min_photos_that_leaves_too_little_is_an_error():
    with pytest.raises(CollectionError) as caught:
        check_labels(collection(HERON, GULL, GULL), min_photos=2)
    assert str(caught.value) == (
        "photos has only the label 'gull' to learn; a classifier needs 2 or more. "
        "Add a folder of photos of something else."
    )
    with pytest.raises(CollectionError, match="photos has no label to learn"):
        check_labels(collection(HERON, GULL), min_photos=2)


def test_photos_without_label_are_left_out_and_counted(caplog):
    checked = check_labels(collection(HERON, HERON, GULL, GULL, ()))
    assert len(checked) == 4
    assert caplog.messages == ["1 photo has no label and is left out."]


def test_ready_parts_may_have_one_training_photo_a_label():
    given = collection(HERON, GULL, HERON, parts=["train", "train", "validation"])
    assert len(check_labels(given)) == 3


def test_label_that_is_missing_from_the_training_part_is_named():
    given = collection(HERON, GULL, TERN, TERN, parts=["train", "train", "validation", "test"])
    with pytest.raises(CollectionError) as caught:
        check_labels(given)
    assert str(caught.value) == (
        "Label 'tern' has no photo in the train folder of photos. "
        "Add some, or take the label out of the other folders."
    )


def test_without_labels_keeps_the_other_labels_of_a_photo():
    photos = collection(("gull", "heron"), HERON, GULL).photos
    kept = without_labels(photos, {"heron": 1})
    assert [photo.labels for photo in kept] == [("gull",), ("gull",)]
    assert [photo.path for photo in kept] == ["0.jpg", "2.jpg"]


def test_photo_counts_count_a_photo_for_each_of_its_labels():
    counts = photo_counts(collection(("heron", "gull"), HERON).photos)
    assert list(counts.items()) == [("gull", 1), ("heron", 2)]


def test_targets_follow_the_given_order_of_labels():
    photos = collection(HERON, GULL, HERON).photos
    assert label_index(["heron", "gull"]) == {"heron": 0, "gull": 1}
    targets = targets_of(photos, ["heron", "gull"])
    assert (targets.tolist(), str(targets.dtype)) == ([0, 1, 0], "int64")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "0.jpg has 0 labels (none) where one is needed."),
        (("a", "b"), "0.jpg has 2 labels ('a', 'b') where one is needed."),
        (("owl",), "0.jpg has the unknown label 'owl'."),
    ],
)
def test_targets_need_one_known_label(labels, message):
    with pytest.raises(CollectionError) as caught:
        targets_of(collection(labels).photos, ["heron"])
    assert str(caught.value) == message

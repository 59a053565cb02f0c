from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.errors import CollectionError
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.collection import Collection, Part, Photo
from finetune.photos.datasets.import_labels import apply_import, plan_import, read_labels
from finetune.photos.labels import (
    MultiLabelPhotos,
    check_labels,
    few_photos,
    label_index,
    label_of_folder,
    multilabel_photos,
    nfc,
    photo_counts,
    targets_of,
    without_labels,
)
from finetune.photos.scan import scan
from finetune.photos.split.split import fold_groups


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


def test_nfc_gives_both_spellings_of_a_label_one() -> None:
    assert nfc("ガ") == nfc("カ\u3099") == "ガ"
    assert nfc("Mo\u0308we") == "Möwe"


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("", None),
        ("DCIM", None),
        ("DCIM/100CANON", None),
        ("101_PANA", None),
        ("100MSDCF", None),
        ("202405_a", None),
        ("wren/DCIM/100CANON", "wren"),
        ("wren", "wren"),
        ("100 birds", "100 birds"),
        ("20240501", "20240501"),
        ("dcim", "dcim"),
    ],
)
def test_folders_of_a_memory_card_are_no_labels(folder: str, label: str | None) -> None:
    assert label_of_folder(folder) == label


def test_good_labels_pass_unchanged() -> None:
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
def test_labels_that_cannot_be_learned_are_named(labeled: list[tuple[str]], message: str) -> None:
    with pytest.raises(CollectionError) as caught:
        check_labels(collection(*labeled))
    assert str(caught.value) == message


def test_min_photos_leaves_small_labels_out_with_a_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = collection(HERON, GULL, GULL, TERN, TERN, TERN)
    with caplog.at_level(logging.WARNING):
        checked = check_labels(given, min_photos=2)
    assert checked.labels == ("gull", "tern")
    assert caplog.messages == ["Left out by --min-photos 2: 'heron' with 1 photo."]


def test_min_photos_that_leaves_too_little_is_an_error() -> None:
    with pytest.raises(CollectionError) as caught:
        check_labels(collection(HERON, GULL, GULL), min_photos=2)
    assert str(caught.value) == (
        "photos has only the label 'gull' to learn; a classifier needs 2 or more. "
        "Add a folder of photos of something else."
    )
    with pytest.raises(CollectionError, match="photos has no label to learn"):
        check_labels(collection(HERON, GULL), min_photos=2)


def test_photos_without_label_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    checked = check_labels(collection(HERON, HERON, GULL, GULL, ()))
    assert len(checked) == 4
    assert caplog.messages == ["1 photo has no label and is left out."]


def test_ready_parts_may_have_one_training_photo_a_label() -> None:
    given = collection(HERON, GULL, HERON, parts=["train", "train", "validation"])
    assert len(check_labels(given)) == 3


def test_label_that_is_missing_from_the_training_part_is_named() -> None:
    given = collection(HERON, GULL, TERN, TERN, parts=["train", "train", "validation", "test"])
    with pytest.raises(CollectionError) as caught:
        check_labels(given)
    assert str(caught.value) == (
        "Label 'tern' has no photo in the train folder of photos. "
        "Add some, or take the label out of the other folders."
    )


def test_without_labels_keeps_the_other_labels_of_a_photo() -> None:
    photos = collection(("gull", "heron"), HERON, GULL).photos
    kept = without_labels(photos, {"heron": 1})
    assert [photo.labels for photo in kept] == [("gull",), ("gull",)]
    assert [photo.path for photo in kept] == ["0.jpg", "2.jpg"]


def test_photo_counts_count_a_photo_for_each_of_its_labels() -> None:
    counts = photo_counts(collection(("heron", "gull"), HERON).photos)
    assert list(counts.items()) == [("gull", 1), ("heron", 2)]


def test_targets_follow_the_given_order_of_labels() -> None:
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
def test_targets_need_one_known_label(labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(CollectionError) as caught:
        targets_of(collection(labels).photos, ["heron"])
    assert str(caught.value) == message


def photo(
    path: str, digest: str, *labels: str, part: Part | None = None, confirmed: bool = False
) -> Photo:
    return Photo(path=path, digest=digest, labels=labels, part=part, width=9, height=9,
                 confirmed=confirmed)  # fmt: skip


def photos_in_folders(*photos: Photo) -> Collection:
    return Collection(root=Path("photos"), photos=photos)


def labels_of(found: MultiLabelPhotos) -> dict[str, Any]:
    return {p.path: p.labels for p in found.collection.photos}


PLAIN = (photo("ant/1", "1", "ant"), photo("ant/2", "2", "ant"), photo("bee/3", "3", "bee"))


def test_a_file_in_several_folders_has_the_labels_of_all() -> None:
    found = multilabel_photos(photos_in_folders(*PLAIN, photo("bee/also 1", "1", "bee")))
    assert labels_of(found) == {"ant/1": ("ant", "bee"), "ant/2": ("ant",), "bee/3": ("bee",)}
    assert found.notes == (
        "Several labels a photo: 1 photo with more than one, 0 with none, 1.33 labels a photo.",
        "1 file is a copy of another; a photo that lies in several folders has all their labels.",
    )


def test_assigned_labels_are_kept_and_none_counts_as_a_negative() -> None:
    found = multilabel_photos(
        photos_in_folders(
            *PLAIN,
            photo("x", "4", "ant", "bee", "owl", confirmed=True),
            photo("ant/5", "5", confirmed=True),
            photo("y", "6", "owl", confirmed=True),
            photo("z", "7"),
        )
    )
    assert labels_of(found)["ant/5"] == ()
    assert labels_of(found)["x"] == ("ant", "bee", "owl")
    assert "z" not in labels_of(found)
    assert found.notes[0] == (
        "Several labels a photo: 1 photo with more than one, 1 with none, 1.17 labels a photo."
    )
    assert found.notes[1] == (
        "1 photo without a label left out. If none of the labels fits, mark them with "
        "--negatives, or in finetune annotate."
    )


@pytest.mark.parametrize(
    ("negatives", "path"),
    [("none", "none/9"), ("none/", "none/deep/9"), (".", "9"), ("a/none", "a/none/9")],
)
def test_photos_of_the_folder_of_negatives_have_no_label(negatives: str, path: str) -> None:
    own = tuple(filter(None, [path.rpartition("/")[0]]))
    found = multilabel_photos(
        photos_in_folders(*PLAIN, photo("bee/4", "4", "bee"), photo(path, "9", *own)),
        negatives=negatives,
    )
    assert labels_of(found)[path] == ()
    assert found.collection.labels == ("ant", "bee")


def test_ready_parts_have_each_their_folder_of_negatives() -> None:
    found = multilabel_photos(
        photos_in_folders(
            photo("train/ant/1", "1", "ant", part="train"),
            photo("train/none/2", "2", "none", part="train"),
            photo("val/ant/3", "3", "ant", part="validation"),
            photo("val/none/4", "4", "none", part="validation"),
        ),
        negatives="none",
    )
    assert [p.labels for p in found.collection.photos] == [("ant",), (), ("ant",), ()]


def test_a_content_in_two_parts_is_in_both_with_all_its_labels() -> None:
    found = multilabel_photos(
        photos_in_folders(
            photo("train/ant/1", "1", "ant", part="train"),
            photo("train/bee/2", "2", "bee", part="train"),
            photo("val/bee/1", "1", "bee", part="validation"),
        )
    )
    assert labels_of(found) == {
        "train/ant/1": ("ant", "bee"),
        "train/bee/2": ("bee",),
        "val/bee/1": ("ant", "bee"),
    }


def test_one_label_is_enough_beside_photos_without_it() -> None:
    ants = tuple(photo(f"ant/{k}", str(k), "ant") for k in range(3))
    none = photo("none/9", "9", "none")
    assert multilabel_photos(
        photos_in_folders(*ants, none), negatives="none"
    ).collection.labels == ("ant",)
    with pytest.raises(CollectionError, match="has only the label 'ant' to learn"):
        multilabel_photos(photos_in_folders(*ants))


def test_a_folder_of_negatives_that_is_not_there_is_named() -> None:
    with pytest.raises(CollectionError) as error:
        multilabel_photos(photos_in_folders(*PLAIN), negatives="nothing")
    assert str(error.value) == (
        "--negatives nothing: photos has no photo in its folder 'nothing'. "
        "Name the folder as it is called below PHOTOS."
    )


def test_min_photos_takes_labels_off_and_drops_photos_that_have_no_other() -> None:
    found = multilabel_photos(
        photos_in_folders(
            *PLAIN,
            photo("bee/4", "4", "bee"),
            photo("owl/5", "5", "owl"),
            dataclasses.replace(photo("ant/6", "6", "ant"), labels=("ant", "fox")),
        ),
        min_photos=2,
    )
    assert labels_of(found)["ant/6"] == ("ant",)
    assert "owl/5" not in labels_of(found)


def test_labels_of_few_photos_are_named_with_advice() -> None:
    many = [photo(f"ant/{k}", str(k), "ant") for k in range(60)]
    few = [photo(f"bee/{k}", f"b{k}", "bee") for k in range(6)]
    assert few_photos(many) is None
    assert few_photos([*many, *few]) == (
        "1 label has under 20 photos: 'bee' (6). Photos of these would help most; until then "
        "their figures are rough, and --balance sampling gives all labels the same weight."
    )
    alike = [photo(f"{k}/{n}", f"{k}{n}", str(k)) for k in range(8) for n in range(5)]
    assert few_photos(alike) == (
        "8 labels have under 20 photos: '0' (5), '1' (5), '2' (5), '3' (5), '4' (5), '5' (5) and "
        "2 more. Photos of these would help most; until then their figures are rough."
    )


def test_photos_without_a_label_are_spread_over_the_folds() -> None:
    folds = fold_groups([("a",)] * 9 + [()] * 6, range(15), folds=3, seed=0)
    assert sorted(folds[:9]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sorted(folds[9:]) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("says_none", [False, True])
def test_an_empty_row_is_a_negative_with_the_option(tmp_path: Path, says_none: bool) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(4):
        Image.effect_noise((40, 30 + number), 60).convert("RGB").save(root / f"{number}.png")
    file = tmp_path / "labels.csv"
    file.write_text("path,labels\n0.png,ant\n1.png,ant|bee\n2.png,bee\n3.png,\n")
    with open_catalog(root) as catalog:
        for _ in range(2):
            plan = plan_import(
                read_labels(file),
                scan(root),
                catalog.assigned_labels(),
                beside=tmp_path,
                empty_is_none=says_none,
            )
            apply_import(catalog, plan)
    assert plan.new == {}
    assert plan.same == (4 if says_none else 3)
    assert plan.unlabeled == (0 if says_none else 1)
    expected = {"0.png": ("ant",), "1.png": ("ant", "bee"), "2.png": ("bee",)}
    assert labels_of(multilabel_photos(scan(root))) == (
        expected | {"3.png": ()} if says_none else expected
    )

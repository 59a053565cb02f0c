from __future__ import annotations

import dataclasses
import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from finetune.errors import CollectionError, ConfigError, StorageError
from finetune.photos.collection import Collection, Part
from finetune.photos.crops import Crop, crop_and_resize, load_image
from finetune.photos.datasets.export import ExportOptions, Transfer, export_photos
from finetune.photos.datasets.label_table import read_label_table
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.scan import scan

WritePhoto = Callable[..., Path]


@pytest.fixture
def collection(birds: Path) -> Collection:
    return scan(birds, workers=1)


def relabeled(collection: Collection, labels: dict[str, tuple[str, ...]]) -> Collection:
    """The collection with other labels by path."""
    photos = tuple(
        dataclasses.replace(photo, labels=labels.get(photo.path, photo.labels))
        for photo in collection.photos
    )
    return dataclasses.replace(collection, photos=photos)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_folders_hold_the_same_bytes_under_their_labels(
    collection: Collection, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = export_photos(collection, out, ExportOptions())
    assert files(out) == [f"{label}/{i}.jpg" for label in ("gull", "heron") for i in range(3)]
    for photo in collection.photos:
        assert (out / photo.path).read_bytes() == collection.path_of(photo).read_bytes()
    assert (done.files, done.unlabeled, done.problems, done.tables) == (6, 0, (), ())


def test_ready_parts_become_train_val_and_test_folders(
    collection: Collection, tmp_path: Path
) -> None:
    parts: tuple[Part, ...] = ("train", "validation", "test")
    photos = tuple(
        dataclasses.replace(photo, part=parts[index % 3])
        for index, photo in enumerate(collection.photos)
    )
    out = tmp_path / "out"
    export_photos(dataclasses.replace(collection, photos=photos), out, ExportOptions())
    assert files(out) == [
        "test/gull/2.jpg",
        "test/heron/2.jpg",
        "train/gull/0.jpg",
        "train/heron/0.jpg",
        "val/gull/1.jpg",
        "val/heron/1.jpg",
    ]


def test_names_that_meet_in_one_folder_get_numbers(collection: Collection, tmp_path: Path) -> None:
    merged = relabeled(collection, {f"gull/{i}.jpg": ("heron",) for i in range(3)})
    out = tmp_path / "out"
    export_photos(merged, out, ExportOptions())
    assert files(out) == ["heron/0 (2).jpg", "heron/0.jpg", "heron/1 (2).jpg", "heron/1.jpg",
                          "heron/2 (2).jpg", "heron/2.jpg"]  # fmt: skip
    content = {path.read_bytes() for path in (out / "heron").iterdir()}
    assert content == {collection.path_of(p).read_bytes() for p in collection.photos}


def test_photo_with_two_labels_is_in_both_folders_and_in_one_csv_row(
    collection: Collection, tmp_path: Path
) -> None:
    several = relabeled(collection, {"gull/0.jpg": ("gull", "in flight")})
    done = export_photos(several, tmp_path / "folders", ExportOptions())
    assert done.files == 7
    assert "in flight/0.jpg" in files(tmp_path / "folders")
    done = export_photos(several, tmp_path / "csv", ExportOptions(layout="csv"))
    (table,) = done.tables
    read = {row.path: row.labels for row in read_label_table(table).rows}
    assert read["photos/gull/0.jpg"] == ("gull", "in flight")
    assert read["photos/heron/2.jpg"] == ("heron",)
    assert set(read) == {f for f in files(tmp_path / "csv") if f.endswith(".jpg")}


def test_labels_cannot_lead_out_of_the_folder(collection: Collection, tmp_path: Path) -> None:
    hostile = relabeled(collection, {"gull/0.jpg": ("../../etc",), "gull/1.jpg": ("a\0b:c",)})
    out = tmp_path / "deep" / "out"
    export_photos(hostile, out, ExportOptions())
    assert files(tmp_path / "deep") == sorted(f"out/{name}" for name in files(out))
    assert len(files(out)) == 7
    assert (out / "folders.csv").read_text().splitlines()[0] == "folder,label"


def test_labels_whose_safe_names_are_equal_stay_apart_and_are_written_down(
    collection: Collection, tmp_path: Path
) -> None:
    alike = relabeled(
        collection,
        {
            "gull/0.jpg": ("owl:barn",),
            "gull/1.jpg": ("owl?barn",),
            "gull/2.jpg": ("OWL_barn",),
            "heron/0.jpg": ("owl/Barn.",),
            "heron/1.jpg": ("owl/barn",),
        },
    )
    done = export_photos(alike, tmp_path / "out", ExportOptions())
    assert done.renamed == (
        ("owl/Barn.", "owl/Barn"),
        ("owl/barn", "owl/barn (2)"),
        ("owl:barn", "owl_barn (2)"),
        ("owl?barn", "owl_barn (3)"),
    )
    rows = (tmp_path / "out" / "folders.csv").read_text().splitlines()
    assert rows == ["folder,label", *(f"{folder},{label}" for label, folder in done.renamed)]
    assert "owl_barn (3)/1.jpg" in files(tmp_path / "out")


def test_long_names_keep_their_suffix(collection: Collection, tmp_path: Path) -> None:
    name = "鳥" * 80 + ".jpeg"
    (collection.root / "gull" / "0.jpg").rename(collection.root / "gull" / name)
    first = dataclasses.replace(collection.photos[0], path=f"gull/{name}")
    one = dataclasses.replace(collection, photos=(first,))
    export_photos(one, tmp_path / "out", ExportOptions())
    (written,) = files(tmp_path / "out")
    assert re.fullmatch(r"gull/鳥{40,70}\.jpeg", written)


def test_unlabeled_photos_stay_out_of_folders_and_in_the_csv(
    collection: Collection, tmp_path: Path
) -> None:
    bare = relabeled(collection, {"gull/0.jpg": ()})
    assert export_photos(bare, tmp_path / "folders", ExportOptions()).unlabeled == 1
    done = export_photos(bare, tmp_path / "csv", ExportOptions(layout="csv"))
    assert (done.files, done.unlabeled) == (6, 0)


def test_console_csv_reads_back_by_its_names(collection: Collection, tmp_path: Path) -> None:
    done = export_photos(collection, tmp_path / "nnc", ExportOptions(layout="nnc"))
    assert [table.name for table in done.tables] == ["labels.txt", "data.csv"]
    text = done.tables[1].read_text(encoding="utf-8").splitlines()
    assert text[:2] == ["x:image,y:label", "./photos/gull/0.jpg,0"]
    assert text[-1] == "./photos/heron/2.jpg,1"
    read = read_label_table(done.tables[1])
    assert {row.labels for row in read.rows} == {("gull",), ("heron",)}
    assert all((tmp_path / "nnc" / row.path).is_file() for row in read.rows)


def test_console_csv_of_several_labels_has_a_column_a_label(
    collection: Collection, tmp_path: Path
) -> None:
    several = relabeled(collection, {"gull/0.jpg": ("gull", "heron")})
    done = export_photos(several, tmp_path / "nnc", ExportOptions(layout="nnc"))
    assert done.tables[1].read_text().splitlines()[:3] == [
        "x:image,y__0:gull,y__1:heron",
        "./photos/gull/0.jpg,1,1",
        "./photos/gull/1.jpg,1,0",
    ]
    assert read_label_table(done.tables[1]).rows[0].labels == ("gull", "heron")


@pytest.mark.parametrize("transfer", ["hardlink", "symlink"])
def test_links_share_the_original(
    collection: Collection, tmp_path: Path, transfer: Transfer
) -> None:
    out = tmp_path / "out"
    export_photos(collection, out, ExportOptions(transfer=transfer))
    path = out / "gull" / "0.jpg"
    assert path.is_symlink() == (transfer == "symlink")
    assert path.samefile(collection.root / "gull" / "0.jpg")


def test_hard_link_to_another_disk_suggests_a_copy(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(StorageError) as caught:
        export_photos(collection, tmp_path / "out", ExportOptions(transfer="hardlink"))
    assert str(caught.value) == (
        f"{tmp_path / 'out' / 'gull' / '0.jpg'} cannot be a hard link: it is on another disk than "
        f"{collection.root / 'gull' / '0.jpg'}. Leave out --hardlink to copy, or use --symlink."
    )


def with_crop(collection: Collection, path: str, crop: Crop) -> Collection:
    photos = tuple(
        dataclasses.replace(photo, crop=crop) if photo.path == path else photo
        for photo in collection.photos
    )
    return dataclasses.replace(collection, photos=photos)


def difference(path: Path, expected: NDArray[np.uint8]) -> float:
    return float(np.abs(decode_photo(path).astype(int) - expected).mean())


def test_size_and_crops_write_the_squares_that_training_sees(
    collection: Collection, tmp_path: Path
) -> None:
    crop = Crop(center_x=0.4, center_y=0.5, side=0.5)
    cropped = with_crop(collection, "gull/0.jpg", crop)
    out = tmp_path / "out"
    export_photos(cropped, out, ExportOptions(size=32, crops=True, fit="pad"))
    source = collection.root / "gull"
    assert difference(out / "gull/0.jpg", load_image(source / "0.jpg", size=32, crop=crop)) < 3
    assert difference(out / "gull/1.jpg", load_image(source / "1.jpg", size=32, fit="pad")) < 3
    assert decode_photo(out / "heron/2.jpg").shape == (32, 32, 3)


def test_crops_alone_keep_their_pixels_and_leave_the_others_alone(
    collection: Collection, tmp_path: Path
) -> None:
    crop = Crop(side=0.5)
    out = tmp_path / "out"
    export_photos(with_crop(collection, "gull/0.jpg", crop), out, ExportOptions(crops=True))
    full = decode_photo(collection.root / "gull/0.jpg")
    expected = crop_and_resize(full, size=min(full.shape[:2]) // 2, crop=crop)
    assert difference(out / "gull/0.jpg", expected) < 3
    assert (out / "gull/1.jpg").read_bytes() == (collection.root / "gull/1.jpg").read_bytes()


def test_redrawn_photos_keep_their_time(tmp_path: Path, write_photo: WritePhoto) -> None:
    root = tmp_path / "photos"
    write_photo(root / "gull" / "1.png", 1)
    write_photo(root / "gull" / "2.jpg", 2, taken_at="2024:05:01 10:00:01", camera=("Canon", "EOS"))
    export_photos(scan(root, workers=1), tmp_path / "out", ExportOptions(size=16))
    assert files(tmp_path / "out") == ["gull/1.jpg", "gull/2.jpg"]
    with Image.open(tmp_path / "out/gull/2.jpg") as image:
        taken = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal]
    assert taken == "2024:05:01 10:00:01"


def test_photo_that_went_bad_since_the_scan_is_reported(
    collection: Collection, tmp_path: Path
) -> None:
    (collection.root / "gull/0.jpg").write_bytes(b"\xff\xd8\xff broken")
    done = export_photos(collection, tmp_path / "out", ExportOptions(size=16))
    assert [path for path, _ in done.problems] == ["gull/0.jpg"]
    assert done.files == 5


def test_folder_in_use_or_inside_the_collection_is_refused(
    collection: Collection, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(CollectionError) as caught:
        export_photos(collection, tmp_path / "full", ExportOptions())
    assert str(caught.value) == (
        f"{tmp_path / 'full'} is not an empty folder. Choose a new one; nothing changed."
    )
    with pytest.raises(CollectionError) as caught:
        export_photos(collection, collection.root / "out", ExportOptions())
    assert str(caught.value) == (
        f"{collection.root / 'out'} lies inside {collection.root}, where the next scan would find "
        "the photos again. Choose a folder outside of it."
    )


@pytest.mark.parametrize("transfer", ["hardlink", "symlink"])
def test_links_cannot_be_resized(transfer: Transfer) -> None:
    with pytest.raises(ConfigError) as caught:
        ExportOptions(transfer=transfer, size=32)
    assert str(caught.value) == (
        f"--{transfer} keeps the files as they are; leave out --crops and --size, or copy."
    )


@pytest.mark.parametrize("existed", [False, True])
def test_an_export_to_a_full_disk_leaves_nothing_behind(
    collection: Collection, tmp_path: Path, existed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    if existed:
        out.mkdir()
    copy, calls = shutil.copy2, [0]

    def full(source: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(StorageError, match="run the same command again"):
        export_photos(collection, out, ExportOptions())
    assert out.exists() == existed
    assert files(tmp_path / "out") == []
    assert export_photos(collection, out, ExportOptions()).files == len(collection)

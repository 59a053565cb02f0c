from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import CollectionError
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.datasets.import_labels import (
    LabelImport,
    apply_import,
    plan_import,
    read_labels,
)
from finetune.photos.datasets.label_table import LabelTable, read_label_table
from finetune.photos.scan import scan

WritePhoto = Callable[..., Path]


def rows(table: LabelTable) -> list[tuple[str | tuple[str, ...], ...]]:
    return [(row.path, row.labels) for row in table.rows]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_plain_csv_with_several_labels_and_a_comma_in_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'Path,Label\n"a, b.jpg",gull| in flight \nc.jpg,\n\n')
    table = read_label_table(path)
    assert table.format == "CSV"
    assert rows(table) == [("a, b.jpg", ("gull", "in flight")), ("c.jpg", ())]
    assert [row.line for row in table.rows] == [2, 3]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_separators_of_spreadsheets_are_understood(tmp_path: Path, mark: str) -> None:
    path = write(tmp_path / "a.csv", f"\ufefffilename{mark}species\nx.jpg{mark}heron\n")
    assert rows(read_label_table(path)) == [("x.jpg", ("heron",))]


def test_labels_are_composed_to_nfc(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "path,label\nx.jpg,カ\u3099\n")
    assert rows(read_label_table(path)) == [("x.jpg", ("ガ",))]


def test_console_csv_with_numbers_takes_names_from_labels_txt(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x:image,y:label\n./img/1.png,0\n.\\img\\2.png,1\n")
    assert rows(read_label_table(path)) == [("./img/1.png", ("0",)), (".\\img\\2.png", ("1",))]
    write(tmp_path / "labels.txt", "カワセミ\nheron\n")
    table = read_label_table(path)
    assert table.format == "Neural Network Console"
    assert rows(table) == [("./img/1.png", ("カワセミ",)), (".\\img\\2.png", ("heron",))]


def test_console_csv_with_a_column_a_label_is_multi_label(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", "x:image,y__0:gull,y__1:flying\n1.png,1,1\n2.png,0,1\n3.png,0,0\n"
    )
    assert rows(read_label_table(path)) == [
        ("1.png", ("gull", "flying")),
        ("2.png", ("flying",)),
        ("3.png", ()),
    ]


def test_console_csv_with_an_index_beyond_the_names_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "labels.txt", "gull\nheron\n")
    path = write(tmp_path / "a.csv", "x:image,y:label\n1.png,2\n")
    with pytest.raises(CollectionError) as caught:
        read_label_table(path)
    assert str(caught.value) == (
        f"{path}, line 2: the label is '2'; labels.txt beside it names 0 to 1."
    )


def test_hugging_face_metadata_as_csv_and_as_lines_of_json(tmp_path: Path) -> None:
    path = write(tmp_path / "metadata.csv", "file_name,text,label\n1.png,hello,gull\n")
    assert read_label_table(path).format == "Hugging Face"
    assert rows(read_labels(tmp_path)) == [("1.png", ("gull",))]
    lines = [{"file_name": "1.png", "label": "gull"}, {"file_name": "2.png", "labels": ["a", "b"]}]
    path = write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, lines)))
    assert rows(read_label_table(path)) == [("1.png", ("gull",)), ("2.png", ("a", "b"))]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "photo_id,bird\n1,gull\n",
            "{path} has the columns photo_id, bird; it needs one of paths (path, file_name, "
            "filename, file ...) and one of labels (labels, label, class, class_name ...).",
        ),
        ("a.csv", "", "{path} is empty."),
        ("a.jsonl", "{}\n", "{path}, line 1 is not a JSON object with a file_name."),
    ],
)
def test_file_that_is_no_table_of_labels_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(CollectionError) as caught:
        read_label_table(path)
    assert str(caught.value) == message.format(path=path)


def test_other_encodings_are_named_and_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "path,label\n1.jpg,カワセミ\n", encoding="cp932")
    with pytest.raises(CollectionError) as caught:
        read_label_table(path)
    assert str(caught.value) == (
        f"{path}, line 2 is not written in utf-8. Save it as UTF-8, or name its encoding: "
        "--encoding cp932 (Japanese Windows), cp1252 (Western Windows)."
    )
    assert rows(read_label_table(path, encoding="cp932")) == [("1.jpg", ("カワセミ",))]
    with pytest.raises(CollectionError) as caught:
        read_label_table(path, encoding="klingon")
    assert str(caught.value) == "--encoding klingon is unknown. Try utf-8 or cp932."
    with pytest.raises(CollectionError) as caught:
        read_label_table(tmp_path / "none.csv")
    assert (
        str(caught.value) == f"{tmp_path / 'none.csv'} cannot be read: No such file or directory."
    )


@pytest.fixture
def pool(tmp_path: Path, write_photo: WritePhoto) -> Path:
    """Six photos without labels: two folders deep, two of one name."""
    root = tmp_path / "pool"
    for index, name in enumerate(("1.jpg", "2.jpg", "sub/3.jpg", "sub/1.jpg", "4.jpg", "5.jpg")):
        write_photo(root / "2024" / name, index)
    return root


def imported(
    root: Path, source: Path, *, overwrite: bool = False
) -> tuple[LabelImport, dict[str, tuple[str, ...]]]:
    collection = scan(root, workers=1)
    with open_catalog(root) as catalog:
        beside = source if source.is_dir() else source.parent
        plan = plan_import(
            read_labels(source),
            collection,
            catalog.assigned_labels(),
            beside=beside,
            overwrite=overwrite,
        )
        apply_import(catalog, plan)
        labels = {photo.path: photo.labels for photo in catalog.collection(root).photos}
    return plan, labels


def test_photos_are_found_by_path_by_place_of_the_file_and_by_name(
    pool: Path, tmp_path: Path
) -> None:
    absolute = pool / "2024" / "2.jpg"
    path = write(
        pool / "2024" / "labels.csv",
        "path,label\n"
        "2024/1.jpg,below the root\n"
        "sub/3.jpg,beside the file\n"
        f"{absolute},absolute\n"
        "C:\\pool\\2024\\4.jpg,by the end\n"
        "sub/1.jpg,beside the file too\n"
        "other/9.jpg,unknown\n",
    )
    plan, labels = imported(pool, path)
    assert labels == {
        "2024/1.jpg": ("below the root",),
        "2024/2.jpg": ("absolute",),
        "2024/4.jpg": ("by the end",),
        "2024/5.jpg": ("2024",),
        "2024/sub/1.jpg": ("beside the file too",),
        "2024/sub/3.jpg": ("beside the file",),
    }
    assert [row.path for row in plan.unknown] == ["other/9.jpg"]
    assert len(plan.new) == 5


def test_a_name_that_two_photos_have_finds_neither(pool: Path, tmp_path: Path) -> None:
    plan, _ = imported(pool, write(tmp_path / "l.csv", "path,label\nelse/1.jpg,gull\n"))
    assert [row.path for row in plan.unknown] == ["else/1.jpg"]


@pytest.mark.parametrize(
    "row", ["2023/4.jpg", "other/2024/4.jpg", "/disk/pool/2023/4.jpg", "else\\2024\\4.jpg"]
)
def test_folders_in_a_table_must_not_contradict_those_of_a_photo(
    pool: Path, tmp_path: Path, row: str
) -> None:
    table = write(tmp_path / "l.csv", f"path,label\n{row},gull\n")
    collection = scan(pool, workers=1)
    plan = plan_import(read_labels(table), collection, {}, beside=tmp_path)
    assert plan.new == {}
    assert plan.elsewhere == ((row, "2024/4.jpg"),)
    plan = plan_import(read_labels(table), collection, {}, beside=tmp_path, by_name=True)
    assert list(plan.new.values()) == [("gull",)]


@pytest.mark.parametrize(
    "row",
    [
        "4.jpg",
        "2024/4.JPG",
        "/old/pool/2024/4.jpg",
        " 2024/4.jpg ",
        "file:///x/pool/2024/4.jpg",
        "/data/upload/3/1a2b3c4d-4.jpg",
        "/data/local-files/?d=pool/2024/4.jpg",
    ],
)
def test_paths_from_elsewhere_find_their_photo(pool: Path, tmp_path: Path, row: str) -> None:
    _, labels = imported(pool, write(tmp_path / "l.csv", f"path,label\n{row},gull\n"))
    assert labels["2024/4.jpg"] == ("gull",)


def test_blanks_in_file_names_are_kept(tmp_path: Path, write_photo: WritePhoto) -> None:
    names = ["a b.jpg", "a.jpg", " a.jpg", "c%20d.jpg"]
    for seed, name in enumerate(names):
        write_photo(tmp_path / "photos" / name, seed)
    table = write(
        tmp_path / "l.csv", "path,label\n" + "".join(f"{n},{i}\n" for i, n in enumerate(names))
    )
    _, labels = imported(tmp_path / "photos", table)
    assert labels == {name: (str(index),) for index, name in enumerate(names)}


def test_new_labels_that_are_nearly_old_ones_are_named(pool: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "l.csv", "path,label\n2024/1.jpg,Owl.\n2024/2.jpg,owl\n")
    plan, _ = imported(pool, table)
    assert plan.twins == (("Owl.", "owl"),)


def test_several_rows_of_a_photo_are_several_labels(pool: Path, tmp_path: Path) -> None:
    text = "path,label\n2024/1.jpg,gull\n2024/1.jpg,flying\n2024/2.jpg,\n"
    plan, labels = imported(pool, write(tmp_path / "l.csv", text))
    assert labels["2024/1.jpg"] == ("flying", "gull")
    assert plan.unlabeled == 1


def test_assigned_labels_are_kept_without_overwrite(pool: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "l.csv", "path,label\n2024/1.jpg,gull\n2024/2.jpg,gull\n")
    _, labels = imported(pool, table)
    again, _ = imported(pool, table)
    assert (len(again.new), again.same, again.kept) == (0, 2, ())
    write(table, "path,label\n2024/1.jpg,heron\n2024/2.jpg,gull\n")
    plan, labels = imported(pool, table)
    assert plan.kept == (("2024/1.jpg", ("heron",)),)
    assert labels["2024/1.jpg"] == ("gull",)
    _, labels = imported(pool, table, overwrite=True)
    assert labels["2024/1.jpg"] == ("heron",)


def test_import_can_be_undone(pool: Path, tmp_path: Path) -> None:
    before = {photo.path: photo.labels for photo in scan(pool, workers=1).photos}
    imported(pool, write(tmp_path / "l.csv", "path,label\n2024/1.jpg,gull\n2024/2.jpg,gull\n"))
    with open_catalog(pool) as catalog:
        catalog.undo()
        assert {p.path: p.labels for p in catalog.collection(pool).photos} == before


def test_folders_of_renamed_copies_label_photos_by_content(pool: Path, tmp_path: Path) -> None:
    sorted_by_hand = tmp_path / "sorted"
    for label, name in (("gull", "1.jpg"), ("heron/gray", "sub/1.jpg")):
        target = sorted_by_hand / label / f"renamed {label[0]}.jpg"
        target.parent.mkdir(parents=True)
        target.write_bytes((pool / "2024" / name).read_bytes())
    plan, labels = imported(pool, sorted_by_hand)
    assert plan.format == "folders"
    assert labels["2024/1.jpg"] == ("gull",)
    assert labels["2024/sub/1.jpg"] == ("heron/gray",)
    assert not (sorted_by_hand / ".finetune").exists()


def test_folder_without_labels_is_refused(tmp_path: Path, write_photo: WritePhoto) -> None:
    write_photo(tmp_path / "flat" / "1.jpg")
    with pytest.raises(CollectionError) as caught:
        read_labels(tmp_path / "flat")
    assert str(caught.value) == (
        f"{tmp_path / 'flat'} has no folder of photos for a label. "
        "Give such a folder, or a CSV file."
    )


def test_plan_changes_nothing(pool: Path, tmp_path: Path) -> None:
    collection = scan(pool, workers=1)
    table = read_labels(write(tmp_path / "l.csv", "path,label\n2024/1.jpg,gull\n"))
    plan = plan_import(table, collection, {}, beside=tmp_path)
    assert list(plan.new.values()) == [("gull",)]
    assert dataclasses.replace(collection) == scan(pool, workers=1)

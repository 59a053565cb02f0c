from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from finetune.errors import ConfigError
from finetune.photos.collection import Collection, Photo, Problem
from finetune.photos.issues import ADVICE, Issue, Kind, find_issues, summarize_labels
from finetune.photos.scan import scan
from finetune.photos.split.grouping import photo_groups
from finetune.reporting.photo_page import write_contact_sheet

WritePhoto = Callable[..., Path]
Draw = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def good(tmp_path: Path, write_photo: WritePhoto, draw: Draw) -> Path:
    """Two labels with twelve sharp and different photos each."""
    root = tmp_path / "good"
    rng = np.random.default_rng(0)
    for number in range(24):
        texture = rng.integers(0, 60, (120, 160, 1))
        image = np.clip(draw(number, 160, 120) + texture, 0, 255).astype(np.uint8)
        write_photo(root / ("gull", "heron")[number % 2] / f"{number:02}.jpg", image)
    return root


def found(root: Path, **options: int) -> dict[Kind, Issue]:
    return {issue.kind: issue for issue in find_issues(scan(root), **options)}


def paths_of(issue: Issue) -> list[tuple[str, ...]]:
    return [item.paths for item in issue.items]


def test_good_collection_has_no_findings(good: Path) -> None:
    assert find_issues(scan(good)) == ()


def test_unreadable_files_are_listed_with_reasons(good: Path) -> None:
    (good / "gull" / "bad.jpg").write_bytes(b"rubbish")
    issue = found(good)["unreadable"]
    assert issue.title == "1 file cannot be opened."
    assert [(item.paths, item.note) for item in issue.items] == [(("gull/bad.jpg",), "not a photo")]


def test_copies_within_a_label_are_exact_duplicates(good: Path) -> None:
    for name in ("b.jpg", "c.jpg"):
        shutil.copy(good / "gull" / "00.jpg", good / "gull" / name)
    issues = found(good)
    assert set(issues) == {"exact_duplicates"}
    assert issues["exact_duplicates"].title == "2 files are copies."
    assert paths_of(issues["exact_duplicates"]) == [("gull/00.jpg", "gull/b.jpg", "gull/c.jpg")]


def test_same_photo_under_two_labels_is_listed_first(good: Path) -> None:
    shutil.copy(good / "gull" / "00.jpg", good / "heron" / "same.jpg")
    (good / "gull" / "bad.jpg").write_bytes(b"rubbish")
    issues = find_issues(scan(good))
    assert [issue.kind for issue in issues] == [
        "two_labels",
        "unreadable",
        "exact_duplicates",
    ]
    assert issues[0].title == "1 photo is under two labels."
    assert set(issues[0].items[0].paths) == {"gull/00.jpg", "heron/same.jpg"}
    assert issues[0].items[0].note == "gull (1), heron (1)"


def test_resaved_photo_under_another_label_is_found_too(
    good: Path, write_photo: WritePhoto
) -> None:

    image = Image.open(good / "gull" / "00.jpg").resize((110, 82))
    write_photo(good / "heron" / "smaller.jpg", image, quality=60)
    issues = found(good)
    assert set(issues["two_labels"].items[0].paths) == {"gull/00.jpg", "heron/smaller.jpg"}
    assert set(issues) == {"two_labels", "near_duplicates"}


def test_mirror_images_are_found(good: Path, write_photo: WritePhoto) -> None:

    image = ImageOps.mirror(Image.open(good / "gull" / "00.jpg"))
    write_photo(good / "gull" / "mirrored.jpg", image, quality=90)
    issues = found(good)
    assert set(issues) == {"mirror_images"}
    assert issues["mirror_images"].title == "1 group of a photo and its mirror image."


def test_bursts_are_found_with_camera_and_time(
    good: Path, write_photo: WritePhoto, draw: Draw
) -> None:
    rng = np.random.default_rng(9)
    base = np.clip(draw(99, 160, 120) + rng.integers(0, 60, (120, 160, 1)), 0, 255)
    for frame in range(3):
        image = np.roll(base, 5 * frame, axis=1).astype(np.uint8)
        write_photo(
            good / "gull" / f"burst{frame}.jpg",
            image,
            taken_at=f"2024:05:01 12:30:0{frame}",
            camera=("Canon", "EOS 90D"),
        )
    issue = found(good)["bursts"]
    assert issue.title == "1 burst of one camera."
    assert paths_of(issue) == [tuple(f"gull/burst{frame}.jpg" for frame in range(3))]
    assert issue.items[0].note == "Canon EOS 90D, 2024-05-01T12:30:00"


def test_duplicates_across_parts_are_a_leak(
    tmp_path: Path, write_photo: WritePhoto, good: Path
) -> None:
    root = tmp_path / "parts"
    for label in ("gull", "heron"):
        shutil.copytree(good / label, root / "train" / label)
    shutil.copytree(good / "gull", root / "val" / "gull")
    issue = found(root)["leak"]
    assert issue.title == "12 photos are in more than one part."


@pytest.mark.parametrize(
    ("kind", "image", "title"),
    [
        ("dark", np.zeros((100, 100, 3), np.uint8), "1 photo is too dark."),
        ("bright", np.full((100, 100, 3), 255, np.uint8), "1 photo is too bright."),
        ("plain", np.full((100, 100, 3), 99, np.uint8), "1 photo is plain."),
        (
            "blurred",
            np.tile(np.linspace(0, 255, 300)[:, None, None], (1, 300, 3)).astype(np.uint8),
            "1 photo is blurred.",
        ),
    ],
)
def test_bad_quality_is_found(
    good: Path, write_photo: WritePhoto, kind: Kind, image: NDArray[np.uint8], title: str
) -> None:
    write_photo(good / "gull" / "poor.png", image)
    issue = found(good)[kind]
    assert issue.title == title
    assert paths_of(issue) == [("gull/poor.png",)]


def test_tiny_and_long_photos_are_found_with_their_size(
    good: Path, write_photo: WritePhoto
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (90, 400, 3), np.uint8)
    write_photo(good / "gull" / "long.png", noise)
    write_photo(good / "gull" / "tiny.png", noise[:40, :50])
    issues = found(good)
    assert [item.note for item in issues["long"].items] == ["400 x 90"]
    assert [item.note for item in issues["tiny"].items] == ["50 x 40"]


def drawn(**counts: int) -> Collection:
    photos = [
        Photo(
            path=f"{label}/{number}.jpg",
            digest=f"{label}{number}",
            labels=(label,),
            width=99,
            height=99,
        )
        for label, count in counts.items()
        for number in range(count)
    ]
    return Collection(root=Path("x"), photos=tuple(photos))


def test_imbalance_and_few_photos_are_reported() -> None:
    issues = {issue.kind: issue for issue in find_issues(drawn(gull=90, heron=9))}
    assert issues["imbalance"].title == (
        "The largest label has 10 times the photos of the smallest."
    )
    assert [item.note for item in issues["imbalance"].items] == [
        "'gull': 90 photos",
        "'heron': 9 photos",
    ]
    assert issues["few_photos"].title == "1 label has fewer than 10 photos."
    assert find_issues(drawn(gull=99, heron=10)) == ()


def test_labels_that_differ_in_spelling_alone_are_found() -> None:
    labels = ("Blue tit", "blue_tit", "ＢＬＵＥＴＩＴ", "great tit")
    (issue,) = find_issues(drawn(**dict.fromkeys(labels, 20)))
    assert issue.kind == "similar_labels"
    assert [item.note for item in issue.items] == ["'Blue tit' / 'blue_tit' / 'ＢＬＵＥＴＩＴ'"]


def test_label_with_folders_in_two_unicode_forms_is_found(good: Path) -> None:
    for name in ("gull", "heron"):
        (good / name).rename(good / ("ガ" if name == "gull" else "カ\u3099"))
    issue = found(good)["two_folders"]
    assert issue.title == "1 label has a folder in each of two Unicode spellings."
    assert [item.note for item in issue.items] == ["'ガ': 2 folders"]


def test_photos_without_label_are_found_beside_labeled_ones(
    good: Path, write_photo: WritePhoto, draw: Draw
) -> None:
    rng = np.random.default_rng(4)
    image = np.clip(draw(77, 160, 120) + rng.integers(0, 60, (120, 160, 1)), 0, 255)
    write_photo(good / "loose.jpg", image.astype(np.uint8))
    issue = found(good)["unlabeled"]
    assert issue.title == "1 photo has no label."
    assert paths_of(issue) == [("loose.jpg",)]


def test_distance_out_of_bounds_is_refused(good: Path) -> None:
    with pytest.raises(ConfigError):
        find_issues(scan(good), max_distance_bits=65)


def test_every_kind_has_advice() -> None:

    assert set(ADVICE) == set(get_args(Kind))


def test_label_table_counts_scenes_bad_files_and_sizes() -> None:
    photos = tuple(
        Photo(path=f"{label}/{n}.jpg", digest=f"{label}{n}", labels=(label,), width=w, height=h)
        for label, n, w, h in [
            ("gull", 0, 400, 300),
            ("gull", 1, 300, 400),
            ("gull", 2, 90, 60),
            ("heron", 3, 50, 500),
        ]
    )
    loose = Photo(path="loose.jpg", digest="l", width=10, height=20)
    problems = (
        Problem(path="gull/bad.jpg", reason="truncated"),
        Problem(path="カ\u3099/bad.jpg", reason="truncated"),
    )
    collection = Collection(root=Path("x"), photos=(*photos, loose), problems=problems)
    rows = summarize_labels(collection, ["a", "a", "b", "b", "c"])
    assert [(row.label, row.photos, row.groups, row.scenes, row.bad) for row in rows] == [
        ("gull", 3, 1, 2, 1),
        ("heron", 1, 0, 1, 0),
        ("ガ", 0, 0, 0, 1),
        ("", 1, 0, 1, 0),
    ]
    assert [(row.smallest_side, row.median_side, row.largest_side) for row in rows] == [
        (60, 300, 300),
        (50, 50, 50),
        (None, None, None),
        (10, 10, 10),
    ]


def test_label_table_counts_bad_files_of_parts_under_their_label(
    good: Path, tmp_path: Path
) -> None:
    root = tmp_path / "parts"
    shutil.copytree(good, root / "train")
    shutil.copytree(good, root / "test")
    (root / "test" / "gull" / "bad.jpg").write_bytes(b"rubbish")
    collection = scan(root)
    rows = summarize_labels(collection, photo_groups(collection.photos))
    assert [(row.label, row.photos, row.scenes, row.bad) for row in rows] == [
        ("gull", 24, 12, 1),
        ("heron", 24, 12, 0),
    ]


def sheet(root: Path, path: Path) -> str:
    collection = scan(root)
    rows = summarize_labels(collection, photo_groups(collection.photos))
    write_contact_sheet(path, collection, rows, find_issues(collection))
    return path.read_text(encoding="utf-8")


def test_contact_sheet_shows_the_photos_of_each_finding(good: Path, tmp_path: Path) -> None:
    shutil.copy(good / "gull" / "00.jpg", good / "heron" / "same.jpg")
    (good / "gull" / "bad.jpg").write_bytes(b"rubbish")
    page = sheet(good, tmp_path / "sheet.html")
    assert page.count("<img") == 4
    assert re.findall(r'<section id="(\w+)">', page) == [
        "two_labels",
        "unreadable",
        "exact_duplicates",
    ]
    assert "<li>gull/bad.jpg: not a photo</li>" in page
    assert "<td>gull</td><td>12</td>" in page


def test_contact_sheet_needs_nothing_from_elsewhere(good: Path, tmp_path: Path) -> None:
    shutil.copy(good / "gull" / "00.jpg", good / "heron" / "same.jpg")
    page = sheet(good, tmp_path / "sheet.html")
    assert not re.findall(r"https?://|<script|<link|url\(", page)
    assert all(source.startswith("data:image/jpeg") for source in re.findall(r'src="([^"]*)', page))


def test_contact_sheet_escapes_names(tmp_path: Path, write_photo: WritePhoto) -> None:
    label = "<script>alert(1)</script>"
    write_photo(tmp_path / "photos" / label.replace("/", "\u2215") / "a&b.png", 1)
    (tmp_path / "photos" / "<b>").mkdir()
    (tmp_path / "photos" / "<b>" / "<i>.jpg").write_bytes(b"rubbish")
    page = sheet(tmp_path / "photos", tmp_path / "sheet.html")
    assert "<script" not in page
    assert "&lt;b&gt;/&lt;i&gt;.jpg: not a photo" in page


def test_contact_sheet_counts_what_it_does_not_show(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.reporting.photo_page.MOST_ITEMS", 2)
    monkeypatch.setattr("finetune.reporting.photo_page.MOST_PICTURES", 1)
    for number in range(0, 8, 2):
        shutil.copy(good / "gull" / f"{number:02}.jpg", good / "gull" / f"copy {number}.jpg")
    page = sheet(good, tmp_path / "sheet.html")
    assert '<p class="more">and 2 more</p>' in page
    assert page.count('<div class="more">and 1 more</div>') == 2
    assert page.count("<img") == 2


def test_contact_sheet_of_a_good_collection_reports_no_issues(good: Path, tmp_path: Path) -> None:
    assert "Nothing to report." in sheet(good, tmp_path / "sheet.html")


def test_contact_sheet_does_without_a_photo_that_has_gone(good: Path, tmp_path: Path) -> None:
    shutil.copy(good / "gull" / "00.jpg", good / "heron" / "same.jpg")
    collection = scan(good)
    issues = find_issues(collection)
    (good / "heron" / "same.jpg").unlink()
    seen: list[tuple[int, int]] = []
    write_contact_sheet(
        tmp_path / "sheet.html",
        collection,
        (),
        issues,
        progress=lambda done, total: seen.append((done, total)),
    )
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2
    assert "heron/same.jpg" in page
    assert seen == [(1, 2), (2, 2)]

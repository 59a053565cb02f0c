from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.scan import scan


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for label in ("gull", "[heron]"):
        (root / label).mkdir(parents=True)
        for number in range(12):
            coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
            image = coarse.resize((160, 120), Image.Resampling.BICUBIC)
            noise = rng.integers(-20, 20, (120, 160, 3))
            pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.jpg")
    (root / "gull" / "bad.jpg").write_bytes(b"rubbish")
    (root / "gull" / "copy.jpg").write_bytes((root / "[heron]" / "0.jpg").read_bytes())
    return root


def test_table_and_findings_are_printed(run: Callable[..., Result], photos: Path) -> None:
    result = run("scan", photos)
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert [line.split()[:6] for line in lines[:4]] == [
        ["label", "photos", "groups", "scenes", "bad", "shorter"],
        ["[heron]", "12", "0", "12", "0", "120"],
        ["gull", "13", "0", "13", "1", "120"],
        ["all", "25", "0", "25", "1"],
    ]
    assert lines[4:] == [
        "",
        "1 photo is under two labels.",
        "  One of the labels is wrong, or both fit: decide with 'finetune annotate', or delete the "
        "wrong file.",
        "  - [heron]/0.jpg, gull/copy.jpg: [heron] (1), gull (1)",
        "",
        "1 file cannot be opened.",
        "  They are left out of everything. Export them again, or delete them.",
        "  - gull/bad.jpg: not a photo",
        "",
        "1 file is a copy.",
        "  When finetune splits, copies stay together. To clear them out: "
        "'finetune duplicates --quarantine DIR'.",
        "  - [heron]/0.jpg, gull/copy.jpg",
    ]


def test_json_is_one_document(run: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    result = run("scan", photos, "--json", "--output", tmp_path / "sheet.html")
    document = json.loads(result.stdout)
    assert document["photos"] == 25
    assert document["has_parts"] is False
    assert document["labels"][1] == {
        "label": "gull",
        "photos": 13,
        "groups": 0,
        "scenes": 13,
        "bad": 1,
        "smallest_side": 120,
        "median_side": 120,
        "largest_side": 120,
    }
    assert document["problems"] == [{"path": "gull/bad.jpg", "reason": "not a photo"}]
    assert [issue["kind"] for issue in document["issues"]] == [
        "two_labels",
        "unreadable",
        "exact_duplicates",
    ]
    assert document["issues"][0]["items"][0]["paths"] == ["[heron]/0.jpg", "gull/copy.jpg"]
    assert document["html"] == str(tmp_path / "sheet.html")


def test_page_is_written_and_its_path_printed(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    result = run("scan", photos, "--output", tmp_path / "sheet.html")
    assert "<img" in (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert f"Written: {tmp_path / 'sheet.html'}" in result.stderr


def test_catalog_option_sets_its_path(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    run("scan", photos, "--catalog", tmp_path / "mine.sqlite3")
    assert (tmp_path / "mine.sqlite3").is_file()
    assert not (photos / ".finetune").exists()


def test_photos_folder_is_the_default(
    run: Callable[..., Result], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    assert "gull" in run("scan").stdout
    monkeypatch.chdir(photos)
    assert "gull" in run("scan").stdout


def test_distance_changes_what_counts_as_nearly_the_same(
    run: Callable[..., Result], photos: Path
) -> None:
    image = Image.open(photos / "gull" / "0.jpg")
    image.rotate(2, resample=Image.Resampling.BICUBIC).save(photos / "gull" / "turned.jpg")
    kinds = []
    for bits in ("0", "12"):
        document = json.loads(run("scan", photos, "--json", "--max-distance-bits", bits).stdout)
        kinds.append({issue["kind"] for issue in document["issues"]})
    assert "near_duplicates" not in kinds[0]
    assert "near_duplicates" in kinds[1]


def test_missing_folder_is_one_line_and_exit_code_one(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    result = run("scan", tmp_path / "nowhere", code=1)
    assert result.stdout == ""
    assert result.stderr.strip() == (
        f"Error: There is no folder {tmp_path / 'nowhere'}. "
        "Give a folder with one sub-folder of photos for each label."
    )


def test_good_collection_has_nothing_to_report(run: Callable[..., Result], photos: Path) -> None:
    (photos / "gull" / "bad.jpg").unlink()
    (photos / "gull" / "copy.jpg").unlink()
    assert run("scan", photos).stdout.rstrip().endswith("Nothing to report.")


def test_a_memory_card_is_unlabeled_and_the_next_step_is_named(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    card = tmp_path / "card" / "DCIM" / "100CANON"
    shutil.copytree(photos / "gull", card)
    result = run("scan", tmp_path / "card")
    assert "(no label)" in result.stdout
    assert f"Next: finetune annotate {tmp_path / 'card'}" in " ".join(result.stderr.split())


def test_repair_saves_the_labels_of_a_damaged_catalog(
    run: Callable[..., Result], photos: Path
) -> None:
    collection = scan(photos)
    with open_catalog(photos) as catalog:
        catalog.set_labels([collection.photos[0].digest], ["tern"])
    open_catalog(photos).close()
    file = photos / ".finetune" / "catalog.sqlite3"
    for log in file.parent.glob("catalog.sqlite3-*"):
        log.unlink()
    file.write_bytes(b"rubbish" * 1000)
    refused = run("scan", photos, code=1)
    assert "finetune scan PHOTOS --repair" in refused.stderr
    result = run("scan", photos, "--repair")
    assert "Saved: 1 label, 0 crops, 0 groups, 0 other decisions, 1 of them" in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[1:4]] == [
        "[heron]",
        "gull",
        "tern",
    ]
    assert "is not damaged" in run("scan", photos, "--repair").stderr

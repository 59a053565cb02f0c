from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from finetune.photos.analyze import digest_of
from finetune.photos.split.split import SplitRow, write_split


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for number, label in enumerate(("gull", "カワセミ")):
        for index in range(3):
            draw(root / label / f"{label} {index}.png", 10 * number + index)
    return root


@pytest.mark.parametrize("layout", ["folders", "csv", "nnc"])
def test_labels_survive_export_and_import(
    run: Callable[..., Result], photos: Path, tmp_path: Path, layout: str
) -> None:
    out = tmp_path / "out"
    result = run("export-photos", out, photos, "--layout", layout)
    assert f"6 photos written to {out}." in result.stdout
    pool = tmp_path / "pool"
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        (pool / "all").mkdir(parents=True, exist_ok=True)
        (pool / "all" / f"{number}.png").write_bytes(path.read_bytes())
    source = {"folders": out, "csv": out / "labels.csv", "nnc": out / "data.csv"}[layout]
    result = run("import", source, pool, "--json")
    assert json.loads(result.stdout)["labeled"] == 6
    result = run("export-photos", tmp_path / "again", pool, "--json")
    assert json.loads(result.stdout)["files"] == 6
    assert len(list((tmp_path / "again" / "カワセミ").iterdir())) == 3


def test_dry_run_changes_nothing(run: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label\ngull/gull 0.png,heron\nnone.png,heron\n", encoding="utf-8")
    result = run("import", table, photos, "--dry-run")
    assert "CSV: 1 photo would get new labels, 0 had them already." in result.stdout
    assert "Not in the collection: none.png." in result.stderr
    assert "CSV: 1 photo got new labels, 0 had them already." in run("import", table, photos).stdout
    assert (
        "CSV: 0 photos got new labels, 1 had them already." in run("import", table, photos).stdout
    )


def test_assigned_labels_are_kept_and_listed(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label\ngull/gull 0.png,heron\n", encoding="utf-8")
    run("import", table, photos)
    table.write_text("path,label\ngull/gull 0.png,tern\n", encoding="utf-8")
    assert (
        "1 photo kept labels that a person assigned, gull/gull 0.png (tern in the file) among "
        "them; --overwrite replaces it."
    ) in run("import", table, photos).stderr
    assert "1 photo got new labels" in run("import", table, photos, "--overwrite").stdout


def test_square_export_and_links(run: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    run("export-photos", tmp_path / "squares", photos, "--size", 24, "--fit", "pad")
    with Image.open(tmp_path / "squares" / "gull" / "gull 0.jpg") as image:
        assert image.size == (24, 24)
    run("export-photos", tmp_path / "links", photos, "--symlink")
    assert (tmp_path / "links" / "gull" / "gull 0.png").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "zip"], "--layout zip is not one of folders, csv, nnc."),
        (["--fit", "fill"], "--fit fill is not one of crop, pad, squash."),
        (["--hardlink", "--symlink"], "--hardlink and --symlink exclude each other."),
        (
            ["--symlink", "--size", "9"],
            "--symlink keeps the files as they are; leave out --crops and --size, or copy.",
        ),
    ],
)
def test_impossible_exports_are_refused(
    error_of: Callable[..., str], photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert error_of("export-photos", tmp_path / "out", photos, *arguments) == message


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """MNIST's four files, of three images each."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for prefix in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
        head = bytes((0, 0, 8, 3)) + struct.pack(">III", 3, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = bytes((0, 0, 8, 1)) + struct.pack(">I", 3)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + bytes((0, 1, 2)))
    return folder


def test_a_data_set_becomes_a_new_folder_of_photos(
    run: Callable[..., Result], digits: Path, tmp_path: Path
) -> None:
    dry = run("import", digits, tmp_path / "photos", "--dry-run")
    message = f"MNIST (idx files): 6 photos would be written to {tmp_path / 'photos'}."
    assert message in dry.stdout.replace("\n", "")
    assert not (tmp_path / "photos").exists()
    result = run("import", digits, tmp_path / "photos", "--json")
    assert json.loads(result.stdout) == {
        "format": "MNIST (idx files)",
        "folder": str(tmp_path / "photos"),
        "photos": 6,
        "labels": {"0": 2, "1": 2, "2": 2},
        "renamed": {},
        "dry_run": False,
    }
    assert len(list((tmp_path / "photos").rglob("*.png"))) == 6


def test_a_data_set_needs_a_folder_of_its_own(error_of: Callable[..., str], digits: Path) -> None:
    assert error_of("import", digits) == (
        f"{digits} is a data set (MNIST (idx files)). Name a new folder for its photos: "
        f"finetune import {digits} NEW_FOLDER"
    )
    assert f"{digits} exists already." in error_of("import", digits, digits)


def test_the_split_of_a_run_is_written_as_a_table_a_part(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    parts = ["train", "train", "validation", "train", "train", "validation"]
    paths = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    rows = [
        SplitRow(
            path=path,
            digest=digest_of((photos / path).read_bytes()),
            # Labels as they were learned, not as they are now.
            labels=("tern" if path.startswith("gull") else "カワセミ",),
            group=path,
            part=part,  # type: ignore[arg-type]
        )
        for path, part in zip(paths, parts, strict=True)
    ]
    trained = tmp_path / "runs" / "mine"
    trained.mkdir(parents=True)
    write_split(trained / "split.csv", rows)
    (trained / "config.json").write_text(json.dumps({"model": "m", "settings": {}}))
    (photos / paths[0]).rename(photos / "gull" / "renamed.png")
    (photos / paths[5]).unlink()
    result = run(
        "export-photos", tmp_path / "out", photos, "--run", trained, "--layout", "nnc", "--json"
    )
    document = json.loads(result.stdout)
    assert [Path(table).name for table in document["tables"]] == [
        "labels.txt",
        "train.csv",
        "validation.csv",
    ]
    assert (tmp_path / "out" / "labels.txt").read_text("utf-8").split() == ["tern", "カワセミ"]
    table = (tmp_path / "out" / "train.csv").read_text("utf-8").splitlines()
    assert table[0] == "x:image,y:label"
    assert "./photos/gull/renamed.png,0" in table
    assert len(table) == 1 + 4
    assert f"1 photo of the run no longer in {photos}, {paths[5]} among them." in result.stderr


def test_contradictions_and_collisions_are_named(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    copy = photos / "gull" / "カワセミ 0.png"
    copy.write_bytes((photos / "カワセミ" / "カワセミ 0.png").read_bytes())
    # One name on macOS and Windows.
    draw(photos / "gull" / "GULL 0.png", 99)
    result = run("export-photos", tmp_path / "out", photos, "--json")
    document = json.loads(result.stdout)
    assert document["contradictions"] == [["gull/カワセミ 0.png", "カワセミ/カワセミ 0.png"]]
    assert "1 photo has a copy under another label" in result.stderr
    assert document["collisions"] == [["gull/gull 0.png", "gull/gull 0 (2).png"]]
    assert "1 photo got another name, because one of that name was there" in result.stderr

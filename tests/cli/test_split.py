from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from finetune.evaluation.predictions import Prediction, write_predictions
from finetune.photos.collection import Part
from finetune.photos.scan import scan
from finetune.photos.split.split import SplitRow, read_split, write_split


@pytest.fixture(scope="module")
def drawn(draw_scene: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels of eight scenes, three frames each."""
    root = tmp_path_factory.mktemp("drawn")
    for number, label in enumerate(("gull", "heron")):
        for scene in range(8):
            for frame in range(3):
                path = root / label / f"{scene}-{frame}.jpg"
                draw_scene(path, 100 * number + scene, size=(160, 120), grain=frame)
    scan(root, workers=1)
    return root


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "photos")


def test_split_keeps_bursts_together_and_proves_it(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    result = run("split", photos, "--output", tmp_path / "split.csv")
    assert "Groups that straddle: 0 of 16." in result.stdout
    assert (
        "Held-out photos with a near-duplicate in training: 0 in validation, 0 in test."
        in result.stdout
    )
    rows = read_split(tmp_path / "split.csv")
    assert len(rows) == 48
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row.path.split("-")[0], set()).add(row.part)
    assert all(len(found) == 1 for found in parts.values())


def test_split_without_groups_reports_leaks(run: Callable[..., Result], photos: Path) -> None:
    result = run("split", photos, "--group-by", "none", "--json")
    document = json.loads(result.stdout)
    assert not document["proof"]["holds"]
    assert document["proof"]["leaks"]["validation"] > 0
    assert document["proof"]["nearest"]["distance_bits"] <= 8
    assert "Figures on these parts will be flattered." in result.stderr


def test_split_names_what_it_could_not_balance(run: Callable[..., Result], photos: Path) -> None:
    for index in range(1, 8):
        for frame in range(3):
            (photos / "heron" / f"{index}-{frame}.jpg").unlink()
    result = run("split", photos)
    assert (
        "'heron' has 0 photos in validation, not 0.45: all its photos are one group."
        in result.stderr
    )


def test_folds_hold_every_scene_out_once(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    run("split", photos, "--folds", 4, "--output", tmp_path / "folds")
    held = []
    for fold in range(1, 5):
        with (tmp_path / "folds" / f"split-fold-{fold}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        held += [row["path"] for row in rows if row["part"] == "validation"]
    assert sorted(held) == sorted(p.path for p in scan(photos, workers=1).photos)


def run_folder(
    photos: Path, parts: Callable[[str], Part], correct: Callable[[str], bool], folder: Path
) -> Path:
    """A run as far as the audit reads it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "labels.json").write_text('["gull", "heron"]')
    collection = scan(photos, workers=1)
    rows, predictions = [], []
    for photo in collection.photos:
        part = parts(photo.path)
        rows.append(
            SplitRow(path=photo.path, digest=photo.digest, labels=photo.labels, group="", part=part)
        )
        if part != "train":
            wrong = "heron" if photo.labels[0] == "gull" else "gull"
            predicted = photo.labels[0] if correct(photo.path) else wrong
            predictions.append(
                Prediction(
                    path=photo.path,
                    digest=photo.digest,
                    part=part,
                    label=photo.labels[0],
                    ranked=((predicted, 0.9),),
                )
            )
    write_split(folder / "split.csv", rows)
    write_predictions(folder / "predictions.csv", predictions)
    return folder


def test_audit_reports_the_points_that_near_duplicates_add(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    # Frame 2 of scenes 0 to 3 is held out beside its burst; of scenes 6 and 7 all frames are.
    def parts(path: str) -> Part:
        scene, frame = path.rpartition("/")[2].removesuffix(".jpg").split("-")
        return "validation" if scene in "67" or (scene in "0123" and frame == "2") else "train"

    folder = run_folder(photos, parts, lambda path: "/7-" not in path, tmp_path / "runs" / "leaky")
    result = run("split", photos, "--audit", folder, "--json")
    document = json.loads(result.stdout)
    assert document["with_duplicate"] == {"photos": 8, "correct": 8}
    assert document["without_duplicate"] == {"photos": 12, "correct": 6}
    assert document["flattered_points"] == pytest.approx(100 * (14 / 20 - 6 / 12))
    assert document["ungrouped"]["with_duplicate"] > 0
    assert (
        "Near-duplicates raise the accuracy of the run by 20.0 points."
        in run("split", photos, "--audit", folder).stdout
    )


def test_audit_of_a_clean_split_reports_no_leak(
    run: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    def parts(path: str) -> Part:
        return "test" if path.rpartition("/")[2][0] in "67" else "train"

    folder = run_folder(photos, parts, lambda path: True, tmp_path / "runs" / "clean")
    assert (
        "No held-out photo has a near-duplicate in train, so the run's accuracy is unbiased."
        in run("split", photos, "--audit", folder).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--group-by", "species"],
            "--group-by species is not one of duplicates, burst, folder, none.",
        ),
        (["--folds", "3", "--audit", "x"], "--folds and --audit exclude each other."),
        (["--validation", "0.9"], "--validation 0.9 must be at most 0.8."),
    ],
)
def test_impossible_wishes_are_refused(
    error_of: Callable[..., str], photos: Path, arguments: list[str], message: str
) -> None:
    assert error_of("split", photos, *arguments) == message

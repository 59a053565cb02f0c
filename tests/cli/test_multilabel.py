"""Several labels a photo on the command line, from a file of labels to answers and a page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from finetune.cli.console import output
from finetune.photos.labels import join_labels, split_labels
from finetune.runs.folder import RunFolder

FLAGS = ("--model", "test_resnet", "--size", "48", "--device", "cpu", "--epochs", "2")


@pytest.fixture(scope="module")
def cache_dir(
    run: Callable[..., Result],
    tmp_path_factory: pytest.TempPathFactory,
    tiny_weights: Path,
    draw: Callable[..., Image.Image],
) -> Path:
    """Photos of two things side by side, of one, and of none, with their labels in a CSV file."""
    root = tmp_path_factory.mktemp("pairs")
    (root / "photos").mkdir()
    lines = ["path;labels"]
    names = ("ant", "bee")
    for number in range(32):
        shown = [k for k in (0, 1) if number >> k & 1]
        photo = Image.new("RGB", (160, 60), (90 + number, 120, 90))
        for place, label in enumerate(shown):
            photo.paste(draw(label, number), (80 * place, 0))
        photo.save(root / "photos" / f"{number:02d}.png")
        lines.append(f"{number:02d}.png;{join_labels([names[k] for k in shown])}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    photos = root / "photos"
    result = json.loads(
        run("import", root / "labels.csv", photos, "--empty-is-none", "--json").stdout
    )
    assert result["labeled"] == 32
    assert result["unlabeled"] == 0
    made = run("train", photos, "--multi-label", "--weights", tiny_weights, *FLAGS,
               "--name", root / "runs" / "pairs", "--mode", "head", "--json")  # fmt: skip
    metrics = json.loads(made.stdout)["metrics"]
    assert "mean_average_precision" in metrics["test"]
    return root


def test_training_tells_of_its_labels_and_shows_map(
    run: Callable[..., Result], cache_dir: Path, tiny_weights: Path
) -> None:
    result = run("train", cache_dir / "photos", "--multi-label", "--weights", tiny_weights, *FLAGS,
               "--mode", "head", "--name", cache_dir / "runs" / "again")  # fmt: skip
    header = next(line for line in result.stdout.splitlines() if line.startswith("part"))
    assert header.split()[:3] == ["part", "photos", "mAP"]
    assert "8 photos with more than one, 8 with none, 1.00 labels a photo." in result.stderr
    assert "2 labels have under 20 photos: 'ant' (16), 'bee' (16)." in " ".join(
        result.stderr.split()
    )


def test_predicted_labels_are_marked_in_the_table_of_a_photo(
    run: Callable[..., Result], cache_dir: Path
) -> None:
    name, photo = cache_dir / "runs" / "pairs", cache_dir / "photos" / "03.png"
    (found,) = json.loads(run("predict", photo, "--run", name, "--json").stdout)
    shown = run("predict", photo, "--run", name).stdout
    rows = [line.split() for line in shown.splitlines() if line[:1] in ("1", "2")]
    assert len(rows) == 2
    for row, item in zip(rows, found["ranked"], strict=True):
        assert ("yes" in row) == item["predicted"] == (item["label"] in found["labels"])
        assert item["label"] in row
    high = run("predict", photo, "--run", name, "--threshold", "1").stdout
    assert "No label reaches its threshold." in high


def test_many_photos_are_a_line_each_and_the_csv_has_all_predicted_labels(
    run: Callable[..., Result], cache_dir: Path, tmp_path: Path
) -> None:
    name = cache_dir / "runs" / "pairs"
    table = tmp_path / "answers.csv"
    run("predict", cache_dir / "photos", "--run", name, "--csv", table)
    lines = run("predict", cache_dir / "photos", "--run", name).stdout.splitlines()
    with table.open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(lines) == 32
    for row, line in zip(rows, lines, strict=True):
        photo, _, prediction = line.partition(": ")
        assert photo == row["photo"]
        predicted = split_labels(row["labels"])
        assert (row["status"] == "unsure") == (not predicted)
        assert [
            word for word in prediction.replace(",", "").split() if word in ("ant", "bee")
        ] == list(predicted)
        if not predicted:
            assert prediction == "no label reaches its threshold"


def test_evaluation_prints_what_several_labels_come_to(
    run: Callable[..., Result], cache_dir: Path
) -> None:
    name = cache_dir / "runs" / "pairs"
    shown = run("evaluate", name).stdout
    assert "mAP" in shown
    result = json.loads(run("evaluate", name, "--json").stdout)
    kept = json.loads(RunFolder(name).metrics_file.read_text())
    for part, figures in result["metrics"].items():
        expected = kept[part]["mean_average_precision"]
        assert figures["mean_average_precision"] == pytest.approx(expected, abs=1e-6)


def test_the_report_opens(run: Callable[..., Result], cache_dir: Path) -> None:
    run("report", cache_dir / "runs" / "pairs")
    text = (cache_dir / "runs" / "pairs" / "report.html").read_text(encoding="utf-8")
    assert "<span>2 labels</span><span>several labels per photo</span>" in text


def test_one_label_a_photo_refuses_what_several_need(
    run: Callable[..., Result], cache_dir: Path, tiny_weights: Path
) -> None:
    failed = run("train", cache_dir / "photos", "--weights", tiny_weights, *FLAGS,
                 "--negatives", "none", code=1)  # fmt: skip
    assert "--negatives none is for photos of several labels: add --multi-label." in " ".join(
        failed.stderr.split()
    )


def test_folds_searches_and_ablations_call_their_score_map(
    run: Callable[..., Result],
    cache_dir: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output.stdout, "width", 200)
    flags = ("--multi-label", "--weights", tiny_weights, *FLAGS, "--mode", "head")
    photos = cache_dir / "photos"
    folds = run("train", photos, *flags, "--folds", "2", "--no-final", "--name", "f")
    assert "Fold 1 of 2 done in " in folds.stderr
    done = [line for line in folds.stderr.splitlines() if " done in " in line]
    assert all("% mAP of 16 held-out photos." in line for line in done)
    header = next(line for line in folds.stdout.splitlines() if line.startswith("part"))
    assert header.split()[:3] == ["part", "photos", "mAP"]
    study = json.loads((tmp_path / "runs" / "f" / "folds.json").read_text())
    assert f"Mean of the 2 folds: {study['figures']['mean'] * 100:.1f}\u202f% mAP" in folds.stdout
    metrics = json.loads((tmp_path / "runs" / "f" / "metrics.json").read_text())["folds"]
    share = metrics["exact_match"]
    assert f"All 32 held-out photos: {share * 100:.1f}\u202f% all labels right." in folds.stdout

    search = ("--trials", "2", "--views", "1")
    tuned = run("tune", photos, *flags, *search).stdout
    header = next(line for line in tuned.splitlines() if line.startswith("trial"))
    assert header.split()[:2] == ["trial", "mAP"]
    assert "mAP: mean average precision on the validation photos." in tuned
    assert "Test photos, which no trial used: " in tuned
    assert "% right" not in tuned

    ablated = run("ablate", photos, *flags, "--over", "lr=0.001,0.01", "--seeds", "1").stdout
    header = next(line for line in ablated.splitlines() if line.startswith("lr"))
    assert header.split()[:2] == ["lr", "mAP"]
    assert "A photo counts as right where exactly its labels are predicted" in ablated

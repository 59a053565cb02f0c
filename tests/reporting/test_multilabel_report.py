"""The report of a multi-label run, as a file and in a real Chromium."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from PIL import Image

from finetune.evaluation.predictions import EvaluatedPhoto, write_predictions
from finetune.files import write_json
from finetune.photos.split.split import SplitRow, write_split
from finetune.reporting.compare import compare, contender
from finetune.reporting.gallery import most_confident
from finetune.reporting.report import Extras, Report, Suspect, write_report
from finetune.reporting.run_record import read_run
from finetune.reporting.summary import find_highlights
from finetune.tasks.multi_label import MultiLabel

if TYPE_CHECKING:
    from finetune.photos.collection import Part
    from tests.reporting.conftest import MadeRun, OpenPage, ReadData

LABELS = ("<b>gull</b>", "heron", "in flight", "カワセミ")
PARTS = np.repeat(["train", "validation", "test"], [40, 30, 50])


def make_run(
    folder: Path, name: str = "several", seed: int = 0, precision: float | None = None
) -> tuple[Path, Path]:
    """Writes a multi-label run; returns its folder and the root of its photos."""
    rng = np.random.default_rng(7)
    truth = rng.random((len(PARTS), 4)) < [0.5, 0.3, 0.2, 0.1]
    logits = np.random.default_rng(seed).normal(size=truth.shape) * 1.2 + 2.4 * truth - 1.4
    photos = [EvaluatedPhoto(path=f"p {k:03d}.jpg", digest=f"{k:032x}", part=str(part))
              for k, part in enumerate(PARTS)]  # fmt: skip
    root = folder / "photos"
    root.mkdir(exist_ok=True)
    for k, photo in enumerate(photos):
        Image.new("RGB", (80, 60), tuple(int(v) for v in 60 + 120 * truth[k, :3])).save(
            root / photo.path
        )
    run = folder / "runs" / name
    run.mkdir(parents=True)
    chosen = PARTS == "validation"
    task = MultiLabel(precision=precision).calibrated(logits[chosen], truth[chosen])
    rows = []
    metrics: dict[str, Any] = {}
    for part in ("validation", "test"):
        here = np.flatnonzero(part == PARTS)
        metrics[part] = task.metrics(logits[here], truth[here], LABELS)
        rows += task.predictions([photos[k] for k in here], logits[here], truth[here], LABELS)
    write_predictions(run / "predictions.csv", rows)
    write_json(run / "metrics.json", metrics)
    write_json(run / "labels.json", list(LABELS))
    write_json(run / "calibration.json", {**task.to_dict(LABELS), "unknown": None})
    write_json(run / "config.json", {"photos": str(root), "model": "resnet50", "finished": True,
                                     "task": "multi-label", "settings": {}})  # fmt: skip
    write_split(run / "split.csv", [
        SplitRow(path=photo.path, digest=photo.digest, group=photo.digest,
                 part=cast("Part", photo.part),
                 labels=tuple(np.array(LABELS)[truth[k]].tolist()))
        for k, photo in enumerate(photos)])  # fmt: skip
    epochs = [{"epoch": k, "train_loss": 2 / k, "train_accuracy": 0.1 * k, "seconds": 1.0,
               "validation_loss": 2.1 / k, "validation_accuracy": 0.5 + 0.05 * k}
              for k in range(1, 5)]  # fmt: skip
    (run / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in epochs))
    return run, root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A run and its report with an overlay and suspects; tests must not write into them."""
    run, root = make_run(tmp_path_factory.mktemp("several"))
    overlay = (root / "p 100.jpg").read_bytes()
    rows = read_run(run).predictions_of("test")
    wrong = next(row.path for row in rows if not row.correct)
    suspects = [
        Suspect(path="p 100.jpg", label="<b>gull</b>", suggested=None, probability=0.97),
        Suspect(path="p 001.jpg", label=None, suggested="heron", probability=0.91),
    ]
    extras = Extras(overlays={wrong: overlay}, suspects=suspects)
    report = write_report(run, photos_root=root, extras=extras)
    return run, report


def test_page_has_true_and_predicted_labels_of_every_photo(
    made: tuple[Path, Report], read_data: ReadData
) -> None:
    run, report = made
    rows = read_run(run).predictions_of("test")
    data = read_data(report.path)
    assert report.photos == len(data["photos"]) == 50
    assert data["multi_label"] is True
    names = data["labels"]
    for row, (path, truth, ranked, predicted, probability) in zip(
        rows, data["photos"], strict=True
    ):
        assert path == row.path
        assert {names[k] for k in truth} == set(row.truth)
        assert {names[k] for k in predicted} == set(row.predicted_labels)
        assert probability == pytest.approx(row.probability, abs=1e-5)
        assert [names[k] for k, _ in ranked] == [name for name, _ in row.ranked]
    mistakes = [data["photos"][k] for k in data["galleries"]["mistakes"]]
    assert len(mistakes) == sum(not row.correct for row in rows)
    assert [p[4] for p in mistakes] == sorted((p[4] for p in mistakes), reverse=True)


def test_bars_count_found_missed_and_wrongly_predicted(made: tuple[Path, Report]) -> None:
    run, report = made
    rows = read_run(run).predictions_of("test")
    page = report.path.read_text("utf-8").partition('<figure class="chart bars">')[2]
    figure = ET.fromstring(
        "<table>" + page.partition("<tbody>")[2].partition("</tbody>")[0] + "</table>"
    )
    shown = {
        row.findtext("th"): [cell.text for cell in row.findall("td[@class='num']")]
        for row in figure
    }
    assert shown.keys() == set(LABELS)
    for label in LABELS:
        found = sum(label in r.truth and label in r.predicted_labels for r in rows)
        missed = sum(label in r.truth and label not in r.predicted_labels for r in rows)
        extra = sum(label not in r.truth and label in r.predicted_labels for r in rows)
        assert shown[label] == [str(found), str(missed), str(extra)]


def test_page_has_map_and_thresholds_but_no_confusion_matrix(made: tuple[Path, Report]) -> None:
    run, report = made
    text = report.path.read_text(encoding="utf-8").split('<script type="application/json"')[0]
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert f"{metrics['mean_average_precision'] * 100:.1f}\u202f%" in text
    for words in ("mean average precision", "Threshold", "Hamming loss", "All labels right"):
        assert words in text
    for words in ("confus", "Top-5", "Balanced accuracy"):
        assert words not in text
    assert "&lt;b&gt;gull&lt;/b&gt;" in text
    assert "<b>gull" not in text
    none = sum(not row.labels for row in read_run(run).split)
    assert f"{none} photos have none of the labels." in text


def test_highlights_count_by_label(made: tuple[Path, Report]) -> None:
    run, _ = made
    record = read_run(run)
    rows = record.predictions_of("test")
    found = find_highlights(record, record.metrics["test"], rows, None)
    missed = {n: sum(n in r.truth and n not in r.predicted_labels for r in rows) for n in LABELS}
    worst = max(missed, key=lambda name: missed[name])
    photos = sum(worst in row.truth for row in rows)
    assert found[0] == (
        f"“{worst}” is missed most often: in {missed[worst]} of its {photos} photos."
    )
    without = [row for row in rows if not row.truth]
    right = sum(not row.predicted_labels for row in without)
    assert f"Of {len(without)} photos with none of the labels, {right} got no label." in found


def test_the_most_confident_photo_of_a_label_has_it_and_is_predicted_to(
    made: tuple[Path, Report],
) -> None:
    rows = read_run(made[0]).predictions_of("test")
    for place in most_confident(rows, LABELS):
        assert set(rows[place].truth) & set(rows[place].predicted_labels)
    best = max((dict(r.ranked)["heron"], k) for k, r in enumerate(rows)
               if "heron" in r.truth and "heron" in r.predicted_labels)  # fmt: skip
    assert best[1] in most_confident(rows, LABELS)


def test_a_label_without_threshold_is_reported_as_never_predicted(tmp_path: Path) -> None:
    run, root = make_run(tmp_path, precision=0.5)
    calibration = json.loads((run / "calibration.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    calibration["thresholds"]["heron"] = None
    metrics["test"]["labels"]["heron"]["threshold"] = None
    write_json(run / "calibration.json", calibration)
    write_json(run / "metrics.json", metrics)
    text = write_report(run, photos_root=root).path.read_text(encoding="utf-8")
    assert "Never predicted, as no threshold reaches the requested precision: “heron”." in text
    assert "so that 50\u202f% of its predictions are correct on the validation photos" in text


def test_multi_label_runs_are_compared_by_whole_photos(tmp_path: Path, small_run: MadeRun) -> None:
    paths = [make_run(tmp_path, name, seed)[0] for name, seed in (("one", 0), ("two", 5))]
    runs = [contender(path.name, read_run(path)) for path in paths]
    found = compare(runs)
    assert found.notes[0] == (
        "A photo counts as right where exactly its labels are predicted: none missing, none extra."
    )
    assert found.rows[0].top1 == np.mean([row.correct for row in runs[0].predictions])


@pytest.mark.browser
def test_the_page_works_in_a_browser(made: tuple[Path, Report], open_page: OpenPage) -> None:
    run, report = made
    rows = read_run(run).predictions_of("test")
    watched = open_page(report.path, viewport={"width": 1200, "height": 900})
    page = watched.page
    assert not watched.complaints
    assert watched.outside() == [report.path.as_uri()]

    def expect_cards(gallery: str, count: int) -> Any:
        cards = page.locator(f"{gallery} > .card")
        page.wait_for_function(
            "([gallery, count]) => document.querySelectorAll(`${gallery} > .card`).length == count",
            arg=[gallery, count],
        )
        return cards

    mistakes = '[data-gallery="mistakes"]'
    expect_cards(mistakes, sum(not row.correct for row in rows))
    missed = sum("heron" in row.truth and "heron" not in row.predicted_labels for row in rows)
    choice = page.locator('[data-filter="mistakes"]')
    choice.select_option("missed 1")
    # inner_text would be empty for cards that are not rendered yet (content-visibility: auto).
    shown = expect_cards(mistakes, missed).locator(".verdict").all_text_contents()
    assert all("missed" in text and "heron" in text for text in shown)
    choice.select_option("")
    assert page.locator('[data-gallery="suspects"] .verdict').all_text_contents() == [
        "labeled <b>gull</b>, but does not look like it 97.0\u202f%",
        "not labeled heron, but looks like it 91.0\u202f%",
    ]
    assert page.locator('[data-gallery="suspects"] img').count() == 2
    page.locator('#label-table [data-label="1"]').click()
    expect_cards("#viewer .gallery", sum("heron" in row.truth for row in rows))
    page.locator("#viewer [data-close]").click()
    page.locator("#label-table thead button").nth(1).click()
    counts = page.locator("#label-table tbody td:nth-child(2)").all_text_contents()
    assert [int(text) for text in counts] == sorted(int(text) for text in counts)
    page.locator("#find-label").fill("カワセミ")
    page.wait_for_function(
        "[...document.querySelectorAll('#label-table tbody tr')].filter(r => !r.hidden).length == 1"
    )
    assert not watched.complaints

"""The report of a run that says several labels of a photo, as a file and in a real Chromium."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from finetune.errors import RunError
from finetune.evaluation.predictions import EvaluatedPhoto, write_predictions
from finetune.files import write_json
from finetune.photos.split.split import SplitRow, write_split
from finetune.reporting.compare import compare, contender
from finetune.reporting.multi_label_content import findings, surest_right
from finetune.reporting.report import Extras, Suspect, write_report
from finetune.reporting.run_record import read_run
from finetune.tasks.multi_label import MultiLabel

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LABELS = ("<b>gull</b>", "heron", "in flight", "カワセミ")
PARTS = np.repeat(["train", "validation", "test"], [40, 30, 50])


def make_run(folder, name="several", seed=0, precision=None):
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
    rows, metrics = [], {}
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
        SplitRow(path=photo.path, digest=photo.digest, group=photo.digest, part=photo.part,
                 labels=tuple(np.array(LABELS)[truth[k]].tolist()))
        for k, photo in enumerate(photos)])  # fmt: skip
    epochs = [{"epoch": k, "train_loss": 2 / k, "train_accuracy": 0.1 * k, "seconds": 1.0,
               "validation_loss": 2.1 / k, "validation_accuracy": 0.5 + 0.05 * k}
              for k in range(1, 5)]  # fmt: skip
    (run / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in epochs))
    return run, root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
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


def data_of(report):
    text = report.path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found.group(1))


def test_the_page_holds_every_photo_with_its_labels_and_what_was_said(made):
    run, report = made
    rows = read_run(run).predictions_of("test")
    data = data_of(report)
    assert report.photos == len(data["photos"]) == 50
    assert data["several"] is True
    names = data["labels"]
    for row, (path, truth, ranked, said, sure) in zip(rows, data["photos"], strict=True):
        assert path == row.path
        assert {names[k] for k in truth} == set(row.truth)
        assert {names[k] for k in said} == set(row.predicted_labels)
        assert sure == pytest.approx(row.probability, abs=1e-5)
        assert [names[k] for k, _ in ranked] == [name for name, _ in row.ranked]
    mistakes = [data["photos"][k] for k in data["galleries"]["mistakes"]]
    assert len(mistakes) == sum(not row.correct for row in rows)
    assert [p[4] for p in mistakes] == sorted((p[4] for p in mistakes), reverse=True)


def test_the_chart_of_answers_counts_found_missed_and_wrongly_said(made):
    run, report = made
    rows = read_run(run).predictions_of("test")
    chart = data_of(report)["charts"]["answers"]
    found, missed, extra = (dict(zip(t["customdata"], t["x"], strict=True)) for t in chart["data"])
    for label in LABELS:
        shown = label.replace("<", "&lt;").replace(">", "&gt;")
        assert found[shown] == sum(label in r.truth and label in r.predicted_labels for r in rows)
        assert missed[shown] == sum(
            label in r.truth and label not in r.predicted_labels for r in rows
        )
        assert extra[shown] == sum(
            label not in r.truth and label in r.predicted_labels for r in rows
        )


def test_the_page_speaks_of_map_and_thresholds_and_of_no_confusion_matrix(made):
    run, report = made
    text = report.path.read_text(encoding="utf-8").split('<script type="application/json"')[0]
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert f"{metrics['mean_average_precision'] * 100:.1f}\u202f%" in text
    for words in ("mean average precision", "Said from", "Hamming loss", "All labels right"):
        assert words in text
    for words in ("confusion", "top-5", "Balanced accuracy"):
        assert words not in text
    assert "&lt;b&gt;gull&lt;/b&gt;" in text
    assert "<b>gull" not in text
    none = sum(not row.labels for row in read_run(run).split)
    assert f"{none} photos of the collection show none of the labels." in text


def test_findings_count_by_label(made):
    run, _ = made
    record = read_run(run)
    rows = record.predictions_of("test")
    said = findings(record, record.metrics["test"], rows)
    missed = {n: sum(n in r.truth and n not in r.predicted_labels for r in rows) for n in LABELS}
    worst = max(missed, key=lambda name: missed[name])
    photos = sum(worst in row.truth for row in rows)
    assert said[0] == (
        f"“{worst}” is missed most often: in {missed[worst]} of its {photos} photos."
    )
    without = [row for row in rows if not row.truth]
    right = sum(not row.predicted_labels for row in without)
    assert (
        f"Of {len(without)} photos that show none of the labels, it says nothing of {right}."
        in said
    )


def test_the_surest_photo_of_a_label_has_it_and_was_said_to(made):
    rows = read_run(made[0]).predictions_of("test")
    for place in surest_right(rows, LABELS):
        assert set(rows[place].truth) & set(rows[place].predicted_labels)
    best = max((dict(r.ranked)["heron"], k) for k, r in enumerate(rows)
               if "heron" in r.truth and "heron" in r.predicted_labels)  # fmt: skip
    assert best[1] in surest_right(rows, LABELS)


def test_a_label_that_no_threshold_allowed_is_called_never_said(tmp_path):
    run, root = make_run(tmp_path, precision=0.5)
    calibration = json.loads((run / "calibration.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    calibration["thresholds"]["heron"] = None
    metrics["test"]["labels"]["heron"]["threshold"] = None
    write_json(run / "calibration.json", calibration)
    write_json(run / "metrics.json", metrics)
    text = write_report(run, photos_root=root).path.read_text(encoding="utf-8")
    assert "Never said, as no threshold reached the precision asked for: “heron”." in text
    assert "so that 50\u202f% of the label’s answers are right on the validation photos" in text


def test_runs_of_several_labels_are_compared_by_whole_photos(tmp_path, small_run):
    paths = [make_run(tmp_path, name, seed)[0] for name, seed in (("one", 0), ("two", 5))]
    runs = [contender(path.name, read_run(path)) for path in paths]
    found = compare(runs)
    assert found.notes[0] == (
        "A photo counts as right where exactly its labels are predicted: none missing, none extra."
    )
    assert found.rows[0].top1 == np.mean([row.correct for row in runs[0].predictions])
    with pytest.raises(RunError) as error:
        compare([runs[0], contender("single", read_run(small_run.path))])
    assert str(error.value) == (
        "one predicts several labels per photo and single one label per photo: "
        "they cannot be compared."
    )


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_works_in_a_browser(made):
    playwright = pytest.importorskip("playwright.sync_api")
    run, report = made
    rows = read_run(run).predictions_of("test")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(120_000)
        complaints, requests = [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.path.as_uri())
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every(e => e.querySelector('.main-svg'))"
        )
        assert not complaints
        assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
        cards = page.locator('[data-gallery="mistakes"] > .card')
        wrong = [row for row in rows if not row.correct]
        assert cards.count() == len(wrong)
        missed = sum("heron" in row.truth and "heron" not in row.predicted_labels for row in rows)
        choice = page.locator('[data-filter="mistakes"]')
        choice.select_option("missed 1")
        assert cards.count() == missed
        assert all("missed" in cards.nth(k).inner_text() for k in range(missed))
        choice.select_option("")
        doubtful = page.locator('[data-gallery="suspects"] .verdict').all_text_contents()
        assert doubtful == [
            "labeled <b>gull</b>, does not look like it 97.0\u202f%",
            "not labeled heron, looks like it 91.0\u202f%",
        ]
        assert page.locator('[data-gallery="suspects"] img').count() == 2
        page.locator('#label-table [data-label="1"]').click()
        shown = page.locator("#viewer .card")
        assert shown.count() == sum("heron" in row.truth for row in rows)
        page.locator("#viewer [data-close]").click()
        heads = page.locator("#label-table thead button")
        heads.nth(1).click()
        counts = page.locator("#label-table tbody td:nth-child(2)").all_inner_texts()
        assert [int(text) for text in counts] == sorted(int(text) for text in counts)
        page.locator("#find-label").fill("カワセミ")
        assert page.locator("#label-table tbody tr:visible").count() == 1
        assert not complaints
        browser.close()

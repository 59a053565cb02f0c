from __future__ import annotations

import base64
import io
import json
import re

import pytest
from PIL import Image

from finetune.errors import CollectionError, RunError
from finetune.files import read_json, write_json
from finetune.reporting import report_content as module
from finetune.reporting.report import Extras, Suspect, write_report


def data_of(path) -> dict:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.S
    )
    return json.loads(found[1])


def test_report_holds_every_photo_and_its_galleries(small_run, tmp_path):
    made = write_report(
        small_run.path, photos_root=small_run.photos, output=tmp_path / "report.html"
    )
    data = data_of(made.path)
    assert (made.part, made.photos, made.thumbnails, made.failed) == ("test", 24, 24, {})
    assert made.size_bytes == made.path.stat().st_size
    assert tuple(data["labels"]) == small_run.labels
    wrong = [k for k, (_, truth, ranked) in enumerate(data["photos"]) if ranked[0][0] != truth]
    assert sorted(data["galleries"]["mistakes"]) == wrong
    sure = [data["photos"][k][2][0][1] for k in data["galleries"]["mistakes"]]
    assert sure == sorted(sure, reverse=True)
    assert sum(map(sum, data["matrix"]["counts"])) == 24
    assert set(data["charts"]) == {"reliability", "coverage", "loss", "accuracy", "collection"}


def test_thumbnails_are_photos_without_metadata(small_run, tmp_path):
    made = write_report(small_run.path, photos_root=small_run.photos, output=tmp_path / "r.html")
    assert "SecretCamera" in (next(small_run.photos.rglob("*.jpg"))).read_bytes().decode("latin1")
    for content in data_of(made.path)["thumbnails"].values():
        raw = base64.b64decode(content)
        assert b"SecretCamera" not in raw
        assert not Image.open(io.BytesIO(raw)).getexif()


def test_labels_with_markup_are_text_and_nothing_else(small_run, tmp_path):
    page = write_report(small_run.path, output=tmp_path / "r.html").path.read_text("utf-8")
    assert '<script>alert("x")' not in page
    assert "<b>gull</b>" not in page
    assert "&lt;b&gt;gull&lt;/b&gt;" in page
    assert "カワセミ" in page


def test_without_the_photos_there_is_a_report_all_the_same(small_run, tmp_path):
    made = write_report(small_run.path, output=tmp_path / "r.html")
    assert made.thumbnails == 0
    assert data_of(made.path)["thumbnails"] == {}


def test_photos_that_are_gone_are_told(run_maker):
    run = run_maker(photo_count=60)
    gone = data_of(write_report(run.path).path)["photos"][0][0]
    (run.photos / gone).unlink()
    made = write_report(run.path, photos_root=run.photos)
    assert list(made.failed) == [gone]
    assert made.thumbnails == made.photos - 1
    assert "1 photo could not be opened for this page" in made.path.read_text("utf-8")


def test_max_photos_bounds_the_pictures_and_not_the_mistakes(small_run, tmp_path):
    made = write_report(
        small_run.path, photos_root=small_run.photos, max_photos=5, output=tmp_path / "r.html"
    )
    data = data_of(made.path)
    assert made.thumbnails == len(data["thumbnails"]) == 5
    assert len(data["photos"]) == 24
    none = write_report(
        small_run.path, photos_root=small_run.photos, max_photos=0, output=tmp_path / "n.html"
    )
    assert none.thumbnails == 0


def test_beyond_the_bound_rows_without_a_picture_are_left_out(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 12)
    made = write_report(
        small_run.path, photos_root=small_run.photos, max_photos=3, output=tmp_path / "r.html"
    )
    data = data_of(made.path)
    assert len(data["photos"]) == 12
    assert len(data["galleries"]["mistakes"]) == 8  # every one of them
    paths = {path for path, _, _ in data["photos"]}
    assert set(data["thumbnails"]) <= paths
    assert sum(map(sum, data["matrix"]["counts"])) == 24


def test_beyond_the_bound_the_matrix_keeps_the_most_confused_labels(
    small_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "MAX_MATRIX", 4)
    path = write_report(small_run.path, output=tmp_path / "r.html").path
    data = data_of(path)
    assert len(data["matrix"]["labels"]) == len(data["matrix"]["counts"]) == 4
    assert "the 4 in most mistakes are drawn" in path.read_text("utf-8")


def test_overlays_and_suspects_come_into_the_page(small_run, tmp_path):
    rows = data_of(write_report(small_run.path, output=tmp_path / "a.html").path)["photos"]
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    webp = io.BytesIO()
    Image.new("RGB", (4, 4)).save(webp, "WEBP")
    extras = Extras(
        overlays={rows[0][0]: png.getvalue(), rows[1][0]: webp.getvalue()},
        suspects=[Suspect(path=rows[2][0], label="heron", suggested="egret", probability=0.97)],
        annotate_url="http://127.0.0.1:8000/#",
    )
    path = write_report(
        small_run.path, photos_root=small_run.photos, output=tmp_path / "r.html", extras=extras
    ).path
    data = data_of(path)
    assert data["overlays"][rows[0][0]].startswith("data:image/png;base64,")
    assert data["overlays"][rows[1][0]].startswith("data:image/webp;base64,")
    assert data["suspects"] == [[rows[2][0], "heron", "egret", 0.97]]
    text = path.read_text("utf-8")
    assert "Show what it looked at" in text
    assert "Likely wrong labels" in text
    assert "Likely wrong labels" not in (tmp_path / "a.html").read_text("utf-8")


def test_one_part_can_be_asked_for(small_run, tmp_path):
    made = write_report(
        small_run.path, output=tmp_path / "r.html", extras=Extras(part="validation")
    )
    assert made.part == "validation"
    assert "which also chose the best epoch" in made.path.read_text("utf-8")


def test_a_split_that_leaks_is_said(run_maker):
    run = run_maker(draw=False, photo_count=60)
    lines = (run.path / "split.csv").read_text("utf-8").splitlines()
    cells = [line.rsplit(",", 2) for line in lines[1:]]
    one_group = [f"{head},same,{part}" for head, _, part in cells]
    (run.path / "split.csv").write_text("\n".join([lines[0], *one_group]), "utf-8")
    text = write_report(run.path).path.read_text("utf-8")
    assert "1 group of photos that belong together lie in more than one part" in text


def test_a_run_without_mistakes_log_or_split_has_a_report(run_maker):
    run = run_maker(draw=False, skill=30.0)
    for name in ("split.csv", "log.jsonl", "calibration.json"):
        (run.path / name).unlink()
    text = write_report(run.path).path.read_text("utf-8")
    assert "each of the 18 is right" not in text
    assert "Nothing: each of the 18 photos is right." in text
    assert 'id="training"' not in text
    assert 'id="collection"' not in text


def test_metrics_of_older_runs_without_all_figures_are_enough(run_maker):
    run = run_maker(draw=False)
    metrics = read_json(run.path / "metrics.json")
    few = {"photos": metrics["test"]["photos"], "top1": metrics["test"]["top1"]}
    write_json(run.path / "metrics.json", {"test": few})
    assert write_report(run.path).photos == few["photos"]


def test_predictions_of_labels_that_the_run_has_not_are_refused(run_maker):
    run = run_maker(draw=False)
    write_json(run.path / "labels.json", ["a", "b"])
    with pytest.raises(RunError, match=r"predictions\.csv has the label .* which labels\.json has"):
        write_report(run.path)


def test_a_part_without_predictions_is_refused(run_maker):
    run = run_maker(draw=False)
    metrics = read_json(run.path / "metrics.json")
    write_json(run.path / "metrics.json", {"train": metrics["test"]})
    with pytest.raises(RunError) as caught:
        write_report(run.path)
    assert str(caught.value) == (
        f"{run.path} has no predictions of its train part. "
        f"Write them again with: finetune evaluate {run.path.name}"
    )


def test_a_damaged_split_is_named(run_maker):
    run = run_maker(draw=False)
    (run.path / "split.csv").write_text("nothing\n")
    with pytest.raises(CollectionError, match=r"split\.csv"):
        write_report(run.path)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "The weights are those of epoch 12, the best on the validation photos."),
        (1.0, "The weights are those of epoch 12, the best on the validation photos."),
        (
            0.75,
            "The weights lie at 75% of the way from the start to epoch 12, the best on the "
            "validation photos: there they suit those photos best.",
        ),
        (
            0.0,
            "The weights are those before the first epoch, with the head that learned on the "
            "frozen backbone: the validation photos liked none better.",
        ),
    ],
)
def test_the_report_says_which_weights_became_the_model(run_maker, share, text):
    run = run_maker(photo_count=60)
    config = read_json(run.path / "config.json")
    write_json(
        run.path / "config.json",
        config | ({"share_of_training": share} if share is not None else {}),
    )
    assert text in write_report(run.path).path.read_text("utf-8")

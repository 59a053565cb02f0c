from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from finetune.errors import CollectionError, RunError
from finetune.files import read_json, write_json
from finetune.reporting import report as module
from finetune.reporting.report import Extras, Suspect, write_report

if TYPE_CHECKING:
    from tests.reporting.conftest import MadeRun, ReadData, RunMaker


def test_report_holds_every_photo_and_its_galleries(
    small_run: MadeRun, tmp_path: Path, read_data: ReadData
) -> None:
    made = write_report(
        small_run.path, photos_root=small_run.photos, output=tmp_path / "report.html"
    )
    data = read_data(made.path)
    assert (made.part, made.photos, made.thumbnails, made.failed) == ("test", 24, 24, {})
    assert made.size_bytes == made.path.stat().st_size
    assert tuple(data["labels"]) == small_run.labels
    wrong = [
        k for k, (_, truth, _, predicted, _) in enumerate(data["photos"]) if predicted != truth
    ]
    assert sorted(data["galleries"]["mistakes"]) == wrong
    confidence = [data["photos"][k][4] for k in data["galleries"]["mistakes"]]
    assert confidence == sorted(confidence, reverse=True)
    assert sum(map(sum, data["matrix"]["counts"])) == 24
    page = made.path.read_text("utf-8")
    # Accuracy by coverage of 24 photos would be noise.
    assert re.findall(r'id="chart-([^"]+)"', page) == ["reliability", "score", "loss"]
    assert "Photos of each label" in page


def test_thumbnails_are_photos_without_metadata(
    small_run: MadeRun, tmp_path: Path, read_data: ReadData
) -> None:
    made = write_report(small_run.path, photos_root=small_run.photos, output=tmp_path / "r.html")
    assert "SecretCamera" in (next(small_run.photos.rglob("*.jpg"))).read_bytes().decode("latin1")
    for content in read_data(made.path)["thumbnails"].values():
        raw = base64.b64decode(content)
        assert b"SecretCamera" not in raw
        assert not Image.open(io.BytesIO(raw)).getexif()


def test_labels_with_markup_are_escaped(small_run: MadeRun, tmp_path: Path) -> None:
    page = write_report(small_run.path, output=tmp_path / "r.html").path.read_text("utf-8")
    assert '<script>alert("x")' not in page
    assert "<b>gull</b>" not in page
    assert "&lt;b&gt;gull&lt;/b&gt;" in page
    assert "カワセミ" in page


def test_report_is_written_without_the_photos(
    small_run: MadeRun, tmp_path: Path, read_data: ReadData
) -> None:
    made = write_report(small_run.path, output=tmp_path / "r.html")
    assert made.thumbnails == 0
    assert read_data(made.path)["thumbnails"] == {}


def test_missing_photos_are_reported(run_maker: RunMaker, read_data: ReadData) -> None:
    run = run_maker(photo_count=60)
    gone = read_data(write_report(run.path).path)["photos"][0][0]
    (run.photos / gone).unlink()
    made = write_report(run.path, photos_root=run.photos)
    assert list(made.failed) == [gone]
    assert made.thumbnails == made.photos - 1
    assert "1 photo could not be opened for this page" in made.path.read_text("utf-8")


def test_max_photos_limits_thumbnails_but_not_mistakes(
    small_run: MadeRun, tmp_path: Path, read_data: ReadData
) -> None:
    made = write_report(
        small_run.path, photos_root=small_run.photos, max_photos=5, output=tmp_path / "r.html"
    )
    data = read_data(made.path)
    assert made.thumbnails == len(data["thumbnails"]) == 5
    assert len(data["photos"]) == 24
    none = write_report(
        small_run.path, photos_root=small_run.photos, max_photos=0, output=tmp_path / "n.html"
    )
    assert none.thumbnails == 0


def test_beyond_the_limit_photos_without_a_thumbnail_are_left_out(
    small_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_data: ReadData
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 12)
    made = write_report(
        small_run.path, photos_root=small_run.photos, max_photos=3, output=tmp_path / "r.html"
    )
    data = read_data(made.path)
    assert len(data["photos"]) == 12
    assert len(data["galleries"]["mistakes"]) == 8  # every one of them
    paths = {path for path, *_ in data["photos"]}
    assert set(data["thumbnails"]) <= paths
    assert sum(map(sum, data["matrix"]["counts"])) == 24


def test_beyond_the_limit_the_matrix_keeps_the_most_confused_labels(
    small_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_data: ReadData
) -> None:
    monkeypatch.setattr(module, "MAX_MATRIX", 4)
    path = write_report(small_run.path, output=tmp_path / "r.html").path
    data = read_data(path)
    assert len(data["matrix"]["labels"]) == len(data["matrix"]["counts"]) == 4
    assert "only the 4 with the most mistakes are shown" in path.read_text("utf-8")


def test_overlays_and_suspects_are_in_the_page(
    small_run: MadeRun, tmp_path: Path, read_data: ReadData
) -> None:
    rows = read_data(write_report(small_run.path, output=tmp_path / "a.html").path)["photos"]
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
    data = read_data(path)
    assert data["overlays"][rows[0][0]].startswith("data:image/png;base64,")
    assert data["overlays"][rows[1][0]].startswith("data:image/webp;base64,")
    assert data["suspects"] == [[rows[2][0], "heron", "egret", 0.97]]
    text = path.read_text("utf-8")
    assert "Highlight the deciding regions (Grad-CAM)" in text
    assert "Likely label errors" in text
    assert "Likely label errors" not in (tmp_path / "a.html").read_text("utf-8")


def test_any_evaluated_part_can_be_reported(small_run: MadeRun, tmp_path: Path) -> None:
    made = write_report(
        small_run.path, output=tmp_path / "r.html", extras=Extras(part="validation")
    )
    assert made.part == "validation"
    assert "which also chose the best epoch" in made.path.read_text("utf-8")


def test_a_leaking_split_is_reported(run_maker: RunMaker) -> None:
    run = run_maker(draw=False, photo_count=60)
    lines = (run.path / "split.csv").read_text("utf-8").splitlines()
    cells = [line.rsplit(",", 2) for line in lines[1:]]
    one_group = [f"{head},same,{part}" for head, _, part in cells]
    (run.path / "split.csv").write_text("\n".join([lines[0], *one_group]), "utf-8")
    text = write_report(run.path).path.read_text("utf-8")
    assert "1 group of photos that belong together is in several parts" in text


def test_report_needs_no_mistakes_log_or_split(run_maker: RunMaker) -> None:
    run = run_maker(draw=False, skill=30.0)
    for name in ("split.csv", "log.jsonl", "calibration.json"):
        (run.path / name).unlink()
    text = write_report(run.path).path.read_text("utf-8")
    assert "None: all 18 photos are correct." in text
    assert 'id="training"' not in text
    assert 'id="collection"' not in text


def test_report_needs_no_metrics_that_older_runs_lack(run_maker: RunMaker) -> None:
    run = run_maker(draw=False)
    metrics = read_json(run.path / "metrics.json")
    few = {"photos": metrics["test"]["photos"], "top1": metrics["test"]["top1"]}
    write_json(run.path / "metrics.json", {"test": few})
    assert write_report(run.path).photos == few["photos"]


def test_predictions_of_unknown_labels_are_refused(run_maker: RunMaker) -> None:
    run = run_maker(draw=False)
    write_json(run.path / "labels.json", ["a", "b"])
    with pytest.raises(RunError, match=r"predictions\.csv has the label .* which labels\.json has"):
        write_report(run.path)


def test_a_part_without_predictions_is_refused(run_maker: RunMaker) -> None:
    run = run_maker(draw=False)
    metrics = read_json(run.path / "metrics.json")
    write_json(run.path / "metrics.json", {"train": metrics["test"]})
    with pytest.raises(RunError) as caught:
        write_report(run.path)
    assert str(caught.value) == (
        f"{run.path} has no predictions of its train part. "
        f"Write them again with: finetune evaluate {run.path.name}"
    )


def test_a_damaged_split_is_named(run_maker: RunMaker) -> None:
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
            "The weights are a mix, 75\u202f% of the way from the frozen backbone with its head to "
            "epoch 12, the best on the validation photos.",
        ),
        (
            0.0,
            "The weights are those of the frozen backbone with its head, although the full network "
            "was trained as well; its best epoch was 12.",
        ),
    ],
)
def test_report_describes_the_weights(run_maker: RunMaker, share: float | None, text: str) -> None:
    run = run_maker(photo_count=60)
    config = read_json(run.path / "config.json")
    write_json(
        run.path / "config.json",
        config | ({"share_of_training": share} if share is not None else {}),
    )
    assert text in write_report(run.path).path.read_text("utf-8")

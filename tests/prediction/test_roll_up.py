"""Labels in nested folders: where none is sure, the answer is the deepest ancestor that is."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from finetune.cli import app
from finetune.errors import ConfigError
from finetune.prediction.export.export import ExportOptions, export
from finetune.prediction.predictions import PhotoPrediction
from finetune.prediction.predictor import PredictConfig, Predictor
from finetune.reporting.report import write_report
from finetune.runs.folder import open_run
from finetune.runs.model_card import model_card
from finetune.web.security import Policy
from finetune.web.serve.app import serve_app
from finetune.web.serve.batching import Limits

LABELS = ("insects/ant", "insects/bee", "plants/fern", "plants/moss")


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., Path]) -> Path:
    """A run on nested folders, with a threshold that its photos fall on both sides of."""
    run = train_tiny(tmp_path_factory.mktemp("nested"), photos=6, labels=LABELS)
    content = json.loads((run / "calibration.json").read_text())
    assert content["hierarchy"]["levels"] == ["level 1", "label"]
    assert content["hierarchy"]["paths"] == [[x.split("/")[0], x] for x in LABELS]
    config = PredictConfig(false_alarms=0)
    found = Predictor.load(run, config=config).predict_batch(photos_of(run))
    shares = sorted(max(share_of(one, "insects"), share_of(one, "plants")) for one in found)
    middle = (shares[len(shares) // 2 - 1] + shares[len(shares) // 2]) / 2
    # Nothing is sure at the labels; half of the photos at the level above.
    content["sure"] = {key: [] for key in ("thresholds", "photos", "right", "groups")} | {
        "total": 9
    }
    curve = {"thresholds": [middle], "photos": [99], "right": [99], "groups": [99], "total": 99}
    answers = {"95": [{"threshold": middle, "photos": 9, "right": 9}]}
    content["hierarchy"] |= {"curves": [curve], "answers": answers}
    (run / "calibration.json").write_text(json.dumps(content))
    return run


def photos_of(run: Path) -> list[str]:
    return [str(photo) for photo in sorted((run.parents[1] / "photos").rglob("*.png"))]


def share_of(prediction: PhotoPrediction, group: str) -> float:
    return sum(one.probability for one in prediction.ranked if one.label.startswith(group))


@pytest.fixture(scope="module")
def expected(nested: Path) -> dict[str, dict[str, Any]]:
    """The answers above the labels by the definition: sums of the labels' probabilities."""
    config = PredictConfig(false_alarms=0)
    limit = json.loads((nested / "calibration.json").read_text())["hierarchy"]["answers"]["95"][0]
    found = {}
    for one in Predictor.load(nested, config=config).predict_batch(photos_of(nested)):
        shares = {group: share_of(one, group) for group in ("insects", "plants")}
        best = max(shares, key=lambda group: shares[group])
        if shares[best] >= limit["threshold"]:
            found[str(one.photo)] = {"level": "level 1", "label": best}
    assert 0 < len(found) < len(photos_of(nested))
    return found


def of_python(run: Path, photos: list[str]) -> dict[str, Any]:
    found = Predictor.load(run, config=PredictConfig(false_alarms=0)).predict_batch(photos)
    assert all(one.status == "unsure" for one in found)
    return {str(one.photo): one.to_dict().get("ancestor") for one in found}


def of_onnx(run: Path, photos: list[str]) -> dict[str, Any]:
    pytest.importorskip("onnxruntime")
    return of_python(export(open_run(run), ExportOptions(), out=run / "run.onnx").path, photos)


def of_json(run: Path, photos: list[str]) -> dict[str, Any]:
    command = ["predict", *photos, "--run", str(run), "--json", "--false-alarms", "0"]
    found = json.loads(CliRunner().invoke(app, command).stdout)
    return {one["photo"]: one.get("ancestor") for one in found}


def of_serve(run: Path, photos: list[str]) -> dict[str, Any]:
    predictor = Predictor.load(run, config=PredictConfig(false_alarms=0))
    policy = Policy(token=None, hosts=frozenset({"testserver"}))
    with TestClient(serve_app(predictor, policy, Limits(), log=lambda line: None)) as client:
        answers = {p: client.post("/v1/predict", content=Path(p).read_bytes()) for p in photos}
    return {photo: answer.json()[0].get("ancestor") for photo, answer in answers.items()}


@pytest.mark.parametrize("ask", [of_python, of_onnx, of_json, of_serve])
def test_every_way_gives_the_same_ancestor(
    nested: Path,
    expected: dict[str, dict[str, Any]],
    ask: Callable[[Path, list[str]], dict[str, Any]],
) -> None:
    found = ask(nested, photos_of(nested))
    named = {
        photo: {key: one[key] for key in ("level", "label")} for photo, one in found.items() if one
    }
    assert named == expected


def test_the_answer_names_the_ancestor_and_the_likeliest_label(
    nested: Path, expected: dict[str, dict[str, Any]]
) -> None:
    photo = next(iter(expected))
    found = Predictor.load(nested, config=PredictConfig(false_alarms=0))(photo)
    assert found.ancestor is not None
    first = found.ranked[0]
    assert found.answer == (
        f"{found.ancestor.label} {found.ancestor.probability * 100:.1f}\u202f%, likeliest "
        f"{first.label} {first.probability * 100:.1f}\u202f%"
    )


def test_tables_have_a_column_for_each_level_and_photos_are_sorted_by_it(
    nested: Path, expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    table, folder = tmp_path / "out.csv", tmp_path / "sorted"
    command = ["predict", *photos_of(nested), "--run", str(nested), "--false-alarms", "0"]
    CliRunner().invoke(app, [*command, "--csv", str(table), "--sort-into", str(folder)])
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["photo", "status", "level 1", "label"]
    assert {row["photo"]: row["level 1"] for row in rows if row["level 1"]} == {
        photo: one["label"] for photo, one in expected.items()
    }
    for group in ("insects", "plants"):
        count = sum(one["label"] == group for one in expected.values())
        assert len(list((folder / group).glob("*.png"))) == count
    assert len(list((folder / "_unsure").iterdir())) == len(rows) - len(expected)


def test_a_level_can_be_predicted_alone(nested: Path, expected: dict[str, dict[str, Any]]) -> None:
    config = PredictConfig(false_alarms=0, level="Level 1")
    predictor = Predictor.load(nested, config=config)
    assert predictor.labels == ("insects", "plants")
    found = predictor.predict_batch(photos_of(nested))
    sure = {str(one.photo): one.label for one in found if one.status == "sure"}
    assert sure == {photo: one["label"] for photo, one in expected.items()}
    assert all(len(one.ranked) == 2 and one.ancestor is None for one in found)
    by_number = Predictor.load(nested, config=PredictConfig(false_alarms=0, level="1"))
    assert by_number.predict_batch(photos_of(nested)) == found
    labels = Predictor.load(nested, config=PredictConfig(false_alarms=0, level="label"))
    assert labels.labels == LABELS


def test_levels_that_are_not_there_are_refused(nested: Path, trained: Any) -> None:
    with pytest.raises(ConfigError) as error:
        Predictor.load(nested, config=PredictConfig(level="genus"))
    assert str(error.value) == "--level genus is none of the levels of tiny: level 1, label."
    with pytest.raises(ConfigError, match="--level 1: the labels of tiny have no levels above"):
        Predictor.load(trained.run, config=PredictConfig(level="1"))
    with pytest.raises(ConfigError, match="--level 1 needs a single --run"):
        Predictor.load([nested, nested], config=PredictConfig(level="1"))


def test_flat_labels_notice_nothing(trained: Any) -> None:
    assert "hierarchy" not in json.loads((trained.run / "calibration.json").read_text())
    assert "levels" not in json.loads((trained.run / "metrics.json").read_text())["validation"]
    config = PredictConfig(precision=0.99, false_alarms=0)
    photo = next((trained.run.parents[1] / "photos").rglob("*.png"))
    assert "ancestor" not in Predictor.load(trained.run, config=config)(photo).to_dict()


def test_evaluation_report_and_card_show_the_levels(nested: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(nested.parents[1] / "photos", photos)
    command = ["evaluate", str(nested), str(photos), "-o", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, command).stdout
    assert "level 1" in shown
    assert "levels away in the mean" in shown
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["photos"]
    top, labels = metrics["levels"]
    assert (top["nodes"], labels["nodes"], top["photos"]) == (2, 4, 24)
    assert labels["right"] == round(metrics["top1"] * 24) <= top["right"]
    assert "Roll-up: where no label is sure" in model_card(open_run(nested))
    page = write_report(nested, output=tmp_path / "report.html").path.read_text()
    assert "Tree of the labels" in page


def test_a_tree_of_other_labels_is_refused(nested: Path, tmp_path: Path) -> None:
    from finetune.errors import RunError

    run = tmp_path / "run"
    shutil.copytree(nested, run)
    content = json.loads((run / "calibration.json").read_text())
    content["hierarchy"]["paths"][0][1] = "insects/wasp"
    (run / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="the taxonomy has other labels than the run"):
        Predictor.load(run)
    with pytest.raises(RunError, match=r"run: calibration\.json has a tree of other labels than"):
        write_report(run, output=tmp_path / "report.html")

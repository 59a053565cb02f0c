"""The same photo gets the same status, whatever asks for it."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from finetune.cli import app
from finetune.evaluation.precision_curve import precision_curve
from finetune.prediction.export.export import ExportOptions, export
from finetune.prediction.predictor import PredictConfig, Predictor
from finetune.runs.evaluate import EvaluationRequest, evaluate
from finetune.runs.folder import RunFolder, open_run
from finetune.web.security import Policy
from finetune.web.serve.app import serve_app
from finetune.web.serve.batching import Limits


class Trained(Protocol):
    run: Path
    photos: Path


@pytest.fixture(scope="module")
def divided(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, with thresholds that divide its photos into all three statuses."""
    run = tmp_path_factory.mktemp("divided") / "run"
    shutil.copytree(trained.run, run)
    predictor = Predictor.load(run)
    engine = predictor.engines[0]
    detector = engine.metadata.unknown
    assert detector is not None
    photos = sorted(trained.photos.rglob("*.png"))
    images = np.stack([predictor.pixels_of(photo) for photo in photos])
    logits, features = engine.logits_and_features(images)
    temperature = engine.metadata.task.temperature
    scores = detector.scores(logits, detector.distances(features), temperature=temperature)
    limit = between(np.sort(scores)[:8])
    confidence = engine.metadata.task.probabilities(logits).max(axis=1)
    content = json.loads((run / "calibration.json").read_text())
    content["unknown"] |= {"known_scores": [limit] * 24, "photos": 24}
    sure_from = between(np.sort(confidence[scores > limit]))
    content["sure"] = precision_curve(
        np.full(100, sure_from), np.ones(100), np.arange(100)
    ).to_dict()
    (run / "calibration.json").write_text(json.dumps(content))
    return run


def between(values: np.ndarray) -> float:
    """The middle of the widest gap, where rounding is nothing."""
    widest = int(np.diff(values).argmax())
    return float(values[widest : widest + 2].mean())


@pytest.fixture(scope="module")
def expected(divided: Path, trained: Trained) -> dict[str, str]:
    predictor = Predictor.load(divided)
    found = {str(photo): predictor(photo).status for photo in sorted(trained.photos.rglob("*.png"))}
    assert set(found.values()) == {"sure", "unsure", "unknown"}
    return dict(found)


def by_stream(source: Path, photos: list[str]) -> dict[str, str]:
    stream = Predictor.load(source).predict_stream(photos, batch_size=5)
    return {str(prediction.photo): prediction.status for prediction in stream}


def by_onnx(source: Path, photos: list[str]) -> dict[str, str]:
    pytest.importorskip("onnxruntime")
    file = export(open_run(source), ExportOptions(), out=source.parent / "run.onnx").path
    return by_stream(file, photos)


def by_json(source: Path, photos: list[str]) -> dict[str, str]:
    result = CliRunner().invoke(app, ["predict", *photos, "--run", str(source), "--json"])
    return {item["photo"]: item["status"] for item in json.loads(result.stdout)}


def by_csv(source: Path, photos: list[str]) -> dict[str, str]:
    table = source.parent / "answers.csv"
    CliRunner().invoke(app, ["predict", *photos, "--run", str(source), "--csv", str(table)])
    with table.open(encoding="utf-8-sig", newline="") as file:
        return {row["photo"]: row["status"] for row in csv.DictReader(file)}


def by_serve(source: Path, photos: list[str]) -> dict[str, str]:
    policy = Policy(token=None, hosts=frozenset({"testserver"}))
    site = serve_app(Predictor.load(source), policy, Limits(), log=lambda line: None)
    found = {}
    with TestClient(site) as client:
        for photo in photos:
            content = Path(photo).read_bytes()
            response = client.post(
                "/v1/predict", content=content, headers={"Content-Type": "image/png"}
            )
            found[photo] = response.json()[0]["status"]
    return found


@pytest.mark.parametrize("ask", [by_stream, by_onnx, by_json, by_csv, by_serve])
def test_every_way_gives_the_same_status(
    divided: Path,
    expected: dict[str, str],
    ask: Callable[[Path, list[str]], dict[str, str]],
) -> None:
    assert ask(divided, list(expected)) == expected


def test_sorting_and_evaluation_count_the_same_statuses(
    divided: Path, expected: dict[str, str], trained: Trained, tmp_path: Path
) -> None:
    counts = Counter(expected.values())
    out = tmp_path / "sorted"
    CliRunner().invoke(
        app, ["predict", *expected, "--run", str(divided), "--sort-into", str(out), "--json"]
    )
    for status in ("unsure", "unknown"):
        assert len(list((out / f"_{status}").iterdir())) == counts[status]
    photos = tmp_path / "photos"
    shutil.copytree(trained.photos, photos, ignore=shutil.ignore_patterns(".finetune"))
    found = evaluate(RunFolder(divided), EvaluationRequest(photos=photos)).statuses
    assert found is not None
    assert (found["sure"], found["unknown"]) == (counts["sure"], counts["unknown"])
    assert found["photos"] == len(expected)


def test_an_ensemble_averages_the_thresholds_of_its_runs(
    divided: Path, trained: Trained, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(divided, other)
    content = json.loads((other / "calibration.json").read_text())
    content["sure"]["thresholds"] = [1.0]
    (other / "calibration.json").write_text(json.dumps(content))
    photo = sorted(trained.photos.rglob("*.png"))[0]
    config = PredictConfig(false_alarms=0)
    confidence = Predictor.load(divided)(photo).ranked[0].probability
    first = json.loads((divided / "calibration.json").read_text())["sure"]["thresholds"][0]
    both = Predictor.load([divided, other], config=config)
    assert both.claim is None
    assert both(photo).status == ("sure" if confidence >= (first + 1) / 2 else "unsure")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": 1.0}, "--precision 1 must lie above 0 and below 1, such as 0.95."),
        ({"false_alarms": 0.6}, "--false-alarms 0.6 must lie between 0 and 0.5, such as 0.05."),
    ],
)
def test_impossible_wishes_are_refused(wrong: dict[str, float], message: str) -> None:
    from finetune.errors import ConfigError

    with pytest.raises(ConfigError) as error:
        PredictConfig(**wrong)  # type: ignore[arg-type]
    assert str(error.value) == message

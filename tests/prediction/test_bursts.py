"""One answer for the frames of a burst."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from finetune.cli import app
from finetune.errors import ConfigError, RunError
from finetune.prediction.bursts import answer_by_burst, find_bursts, has_many_bursts, mean_of_frames
from finetune.prediction.decision import Decision
from finetune.prediction.predictor import PredictConfig, Predictor
from finetune.runs.evaluate import EvaluationRequest, evaluate
from finetune.runs.folder import RunFolder


def save(image: Image.Image, path: Path, seconds: int, light: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "K"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = (
        f"2024:05:01 12:{seconds // 60:02}:{seconds % 60:02}"
    )
    pixels = np.clip(np.asarray(image).astype(int) + light, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


@pytest.fixture(scope="module")
def frames(
    tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]
) -> dict[str, list[Path]]:
    """Three frames of an ant, a second apart, one bee, and a file that is no photo."""
    folder = tmp_path_factory.mktemp("frames")
    ants = [folder / "ant" / f"a{number}.jpg" for number in range(3)]
    for number, path in enumerate(ants):
        save(draw(0, 1), path, number, 12 * number)
    save(draw(1, 3), folder / "bee" / "b.jpg", 600, 0)
    (folder / "no.jpg").write_text("no photo")
    return {
        "ants": ants,
        "bee": [folder / "bee" / "b.jpg"],
        "all": [*ants, folder / "bee" / "b.jpg", folder / "no.jpg"],
    }


def test_frames_of_a_burst_are_found_by_time_and_looks(frames: dict[str, list[Path]]) -> None:
    assert find_bursts(frames["all"]) == [0, 0, 0, 1, 2]
    turned = [*frames["all"][::-1], frames["ants"][0]]
    assert find_bursts(turned) == [0, 1, 2, 2, 2, 2]


def test_log_probabilities_are_averaged() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(5), size=4)
    expected = shares.prod(axis=0) ** 0.25
    np.testing.assert_allclose(mean_of_frames(shares), expected / expected.sum())
    # One frame's rounding to 0 is no veto; a label that is impossible in all frames stays so.
    found = mean_of_frames([[1.0, 0.0, 0.0], [0.2, 0.8, 0.0]])
    assert found[0] > found[1] > 0
    assert found[2] == 0


def test_each_frame_has_the_answer_of_its_burst(
    trained: Any, frames: dict[str, list[Path]]
) -> None:
    predictor = Predictor.load(trained.run, config=PredictConfig(false_alarms=0, threshold=0.5))
    alone = predictor.predict_batch(frames["all"])
    found = answer_by_burst(alone, find_bursts(frames["all"]), predictor.decision)
    shares = np.array([[one.probability_of(x) for x in predictor.labels] for one in alone[:3]])
    assert len(np.unique(shares.round(9), axis=0)) == 3
    mean = mean_of_frames(shares)
    label = predictor.labels[mean.argmax()]
    best = str(frames["ants"][shares[:, mean.argmax()].argmax()])
    for path, one in zip(frames["ants"], found, strict=False):
        assert (one.photo, one.label, one.status) == (str(path), label, "sure")
        assert one.probability_of(label) == pytest.approx(mean.max())
        assert one.to_dict()["burst"] == {"frames": 3, "best": best}
    assert found[3:] == alone[3:]
    assert found[4].status == "failed"


def test_predict_by_burst_writes_its_frames_and_the_best(
    trained: Any, frames: dict[str, list[Path]], tmp_path: Path
) -> None:
    from finetune import predict

    table = tmp_path / "out.csv"
    paths = list(map(str, frames["ants"] + frames["bee"]))
    command = ["predict", *paths, "--run", str(trained.run), "--by", "burst"]
    answers = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [one.get("burst", {}).get("frames") for one in answers] == [3, 3, 3, None]
    assert len({json.dumps(one["ranked"]) for one in answers[:3]}) == 1
    assert CliRunner().invoke(app, command).stdout.count("one of 3 frames, the best") == 3
    in_python = predict(paths, trained.run, by="burst")
    assert [one.to_dict()["ranked"] for one in in_python] == [one["ranked"] for one in answers]
    CliRunner().invoke(app, [*command, "--csv", str(table)])
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["burst_frames"] for row in rows] == ["3", "3", "3", "1"]
    assert {row["burst_best"] for row in rows[:3]} == {answers[0]["burst"]["best"]}
    assert rows[3]["burst_best"] == paths[3]
    wrong = CliRunner().invoke(app, ["predict", "x.jpg", "--by", "day"])
    assert wrong.exit_code == 1
    assert "--by day is not one of photo, burst." in wrong.stderr


def test_bursts_of_several_labels_have_no_common_answer(trained: Any) -> None:
    metadata = Predictor.load(trained.run).engines[0].metadata
    decision = Decision([metadata], PredictConfig(), np.array([0.5, 0.5]))
    with pytest.raises(ConfigError) as error:
        answer_by_burst([], [], decision)
    assert str(error.value) == "--by burst is for runs of one label a photo."


def test_bursts_are_offered_where_many_are_seen(
    draw: Callable[..., Image.Image], tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.jpg" for number in range(8)]
    for number, path in enumerate(paths):
        save(draw(0, number), path, number if number < 4 else 60 * number, 0)
    assert has_many_bursts(paths)
    assert not has_many_bursts(paths[:7])
    save(draw(0, 1), paths[1], 900, 0)
    assert not has_many_bursts(paths)


def test_an_evaluation_can_count_bursts(
    trained: Any, frames: dict[str, list[Path]], tmp_path: Path
) -> None:
    folder = frames["ants"][0].parents[1]
    run = RunFolder(trained.run)
    by_photo, by_burst = (
        evaluate(run, EvaluationRequest(photos=folder, by_burst=by, output=tmp_path / str(by)))
        for by in (False, True)
    )
    (photos,), (bursts,) = by_photo.metrics.values(), by_burst.metrics.values()
    assert (photos["photos"], bursts["photos"]) == (4, 2)
    assert bursts["labels"]["ant"]["photos"] == 1
    predictor = Predictor.load(trained.run)
    shares = [
        [one.probability_of(x) for x in predictor.labels]
        for one in predictor.predict_batch(frames["ants"])
    ]
    (bee,) = predictor.predict_batch(frames["bee"])
    ant = mean_of_frames(shares)[predictor.labels.index("ant")]
    expected = -(np.log(ant) + np.log(bee.probability_of("bee"))) / 2
    assert bursts["log_loss"] == pytest.approx(expected, abs=1e-4)


def test_bursts_of_the_training_cannot_evaluate_a_cross_validated_run(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.photos.split.split import SplitRow
    from finetune.runs import evaluate as module

    row = SplitRow(path="a", digest="0" * 32, labels=("ant",), group="a", part="train", fold=0)
    monkeypatch.setattr(module, "read_split", lambda file: (row,))
    with pytest.raises(RunError, match="so bursts of these cannot evaluate it"):
        evaluate(RunFolder(trained.run), EvaluationRequest(by_burst=True))

"""Runs whose photos have several labels or none: trained, opened, evaluated, sorted by."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, f1_score

from finetune import Predictor, train
from finetune.config_io import resolve
from finetune.errors import ConfigError
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.labels import split_labels
from finetune.photos.scan import scan
from finetune.prediction.predictor import PredictConfig
from finetune.runs.evaluate import EvaluationRequest, evaluate
from finetune.runs.folder import RunFolder
from finetune.training.events import EpochDone, Event, Note
from finetune.training.train import RunResult

Settings = dict[str, object]
Draw = Callable[[int], tuple[tuple[str, ...], Image.Image]]
COLORS = ("blue", "green", "red")
PHOTOS = 60


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def run_of(photos: Path, runs: Path, flags: Settings, name: str = "r") -> RunResult:
    return train(photos, resolve({}, flags), run=name, runs=runs)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("mode", ["head", "full"])
def test_a_run_of_several_labels_says_so_and_holds_its_figures(
    several_folders: Path, tmp_path: Path, several: Settings, mode: str, draw_shapes: Draw
) -> None:
    events: list[Event] = []
    # Weights of an epoch as they are, so that its figures are those of the model.
    as_trained = {"optimizer": "adam"} if mode == "head" else {"final_weights": "best"}
    config = resolve({}, {**several, "mode": mode, **as_trained})
    result = train(several_folders, config, run="r", runs=tmp_path, callback=events.append)
    run = tmp_path / "r"
    assert json.loads((run / "config.json").read_text())["task"] == "multi-label"
    assert json.loads((run / "labels.json").read_text()) == list(COLORS)
    assert not (run / "confusion_matrix.csv").exists()
    calibration = json.loads((run / "calibration.json").read_text())
    assert calibration["task"] == "multi-label"
    assert set(calibration["thresholds"]) == set(COLORS)
    assert calibration["unknown"] is None
    truth_of = {f"{n:03d}.png": draw_shapes(n)[0] for n in range(PHOTOS)}
    with (run / "split.csv").open(encoding="utf-8") as file:
        split = list(csv.DictReader(file))
    assert len(split) == PHOTOS
    assert {Path(r["path"]).name: split_labels(r["label"]) for r in split} == truth_of

    # The figures are those of what is written down, by an independent count.
    rows = rows_of(run)
    for part in ("validation", "test"):
        of_part = [row for row in rows if row["part"] == part]
        shares, truth, said = (np.zeros((len(of_part), 3)) for _ in range(3))
        for n, row in enumerate(of_part):
            assert split_labels(row["labels"]) == truth_of[Path(row["path"]).name]
            for k in (1, 2, 3):
                shares[n, list(COLORS).index(row[f"label_{k}"])] = float(row[f"probability_{k}"])
            for cell, table in (("labels", truth), ("predicted", said)):
                for label in split_labels(row[cell]):
                    table[n, list(COLORS).index(label)] = 1
            assert (row["correct"] == "true") == (truth[n] == said[n]).all()
        thresholds = np.array([calibration["thresholds"][label] for label in COLORS])
        assert ((shares >= thresholds) == said).all()
        found = result.metrics[part]
        assert found["photos"] == len(of_part)
        assert found["exact_match"] == (truth == said).all(axis=1).mean()
        assert found["micro_f1"] == pytest.approx(f1_score(truth, said, average="micro"), abs=1e-9)
        assert found["mean_average_precision"] == pytest.approx(
            average_precision_score(truth, shares), abs=1e-9
        )
    epochs = [event for event in events if isinstance(event, EpochDone)]
    (best,) = [event for event in epochs if event.epoch == result.best_epoch]
    assert result.metrics["validation"]["mean_average_precision"] == pytest.approx(
        best.validation_accuracy, abs=1e-6
    )
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(note.startswith("Several labels a photo: ") for note in notes)
    assert any("have under 20 photos" in n or "has under 20 photos" in n for n in notes)
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "An image tagger of 3 labels" in card
    assert "| *no label* |" in card


def test_colors_that_stand_beside_each_other_are_learned(
    several_folders: Path, tmp_path: Path, several: Settings
) -> None:
    flags = {**several, "epochs": 40, "lr": 0.02, "label_smoothing": 0.0}
    found = run_of(several_folders, tmp_path, flags).metrics["validation"]
    assert found["mean_average_precision"] > 0.75


def test_prediction_agrees_with_evaluation(
    several_folders: Path, tmp_path: Path, several: Settings
) -> None:
    run = run_of(several_folders, tmp_path, several).run.path
    predictor = Predictor.load(run)
    for row in rows_of(run)[:8]:
        answer = predictor(several_folders / row["path"])
        assert answer.labels is not None
        assert set(answer.labels) == set(split_labels(row["predicted"]))
        assert answer.label == row["label_1"]
        assert answer.ranked[0].probability == pytest.approx(float(row["probability_1"]), abs=1e-5)
        assert (answer.status == "unsure") == (not row["predicted"])
        plain = answer.to_dict()
        assert plain["labels"] == [item["label"] for item in plain["ranked"] if item["predicted"]]
    nothing = Predictor.load(run, config=PredictConfig(threshold=1.0))(
        several_folders / row["path"]
    )
    assert nothing.labels == ()
    assert nothing.status == "unsure"
    again = evaluate(RunFolder(run))
    assert again.metrics.keys() == {"validation", "test"}
    assert again.statuses is None


def test_several_runs_answer_together_and_only_with_their_like(
    several_folders: Path, tmp_path: Path, several: Settings
) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        run_of(several_folders, tmp_path, {**several, "seed": seed}, name)
    photo = several_folders / "none" / next(p.name for p in (several_folders / "none").iterdir())
    runs = [tmp_path / "a", tmp_path / "b"]
    single = [Predictor.load(run)(photo) for run in runs]
    both = Predictor.load(runs)
    answer = both(photo)
    limits = [json.loads((run / "calibration.json").read_text())["thresholds"] for run in runs]
    for item in answer.ranked:
        mean = np.mean([one.probability_of(item.label) for one in single])
        assert item.probability == pytest.approx(mean)
        assert item.predicted == (mean >= np.mean([limit[item.label] for limit in limits]))
    flags = {k: v for k, v in several.items() if k not in ("multi_label", "negatives")}
    alone = tmp_path / "alone"
    shutil.copytree(several_folders, alone, ignore=shutil.ignore_patterns("none", ".finetune"))
    run_of(alone, tmp_path, flags, "c")
    with pytest.raises(ConfigError, match="--run c and --run a cannot be combined"):
        Predictor.load([tmp_path / "a", tmp_path / "c"])


def test_labels_come_from_the_catalog_as_well(
    tmp_path: Path, several: Settings, draw_shapes: Draw
) -> None:
    root = tmp_path / "flat"
    root.mkdir()
    truth = {}
    for number in range(40):
        labels, image = draw_shapes(number)
        image.save(root / f"{number:03d}.png")
        truth[f"{number:03d}.png"] = labels
    image.resize((50, 50)).save(root / "nobody.png")
    by_path = {photo.path: photo.digest for photo in scan(root).photos}
    with open_catalog(root) as catalog:
        for path, labels in truth.items():
            catalog.set_labels([by_path[path]], labels)
    flags = {**several, "epochs": 1}
    del flags["negatives"]
    result = run_of(root, tmp_path, flags)
    with result.run.split_file.open(encoding="utf-8") as file:
        split = {row["path"]: split_labels(row["label"]) for row in csv.DictReader(file)}
    assert split == truth


@pytest.fixture(scope="module")
def plain_runs() -> dict[str, str]:
    """Digests of runs without an option, by the way they were trained."""
    return {}


@pytest.mark.parametrize(
    "extra",
    [
        {"multi_label_loss": "asymmetric"},
        {"balance": "sampling"},
        {"balance": "loss", "multi_label_loss": "asymmetric", "asymmetric_positive": 1.0},
        {"label_precision": 0.9, "label_smoothing": 0.2},
        {"mode": "full", "mixup": 1.0, "balance": "sampling", "ema": 0.9},
        {"mode": "full", "cutmix": 1.0, "augment": "light", "balance": "loss"},
        {"views": 3, "balance": "sampling"},
    ],
)
def test_every_way_to_train_gives_a_run(
    several_folders: Path,
    tmp_path: Path,
    several: Settings,
    plain_runs: dict[str, str],
    extra: Settings,
) -> None:
    way: Settings = {key: extra[key] for key in ("mode", "views", "augment") if key in extra}
    flags = {**several, **way, "epochs": 2}
    if str(way) not in plain_runs:
        plain_runs[str(way)] = digest(run_of(several_folders, tmp_path, flags, "plain").run.path)
    result = run_of(several_folders, tmp_path, {**flags, **extra})
    assert 0 < result.metrics["validation"]["mean_average_precision"] <= 1
    if "label_precision" in extra:
        calibration = json.loads(result.run.calibration_file.read_text())
        assert calibration["thresholds_for"] == {"precision": 0.9}
        for figures in result.metrics["validation"]["labels"].values():
            assert figures["predicted"] == 0 or figures["precision"] >= 0.9
    assert digest(result.run.path) != plain_runs[str(way)]


def test_other_photos_are_evaluated_and_unknown_labels_count_as_none(
    several_folders: Path, tmp_path: Path, several: Settings, draw_shapes: Draw
) -> None:
    result = run_of(several_folders, tmp_path, {**several, "epochs": 1})
    other = tmp_path / "others"
    for number in range(200, 216):
        labels, image = draw_shapes(number)
        for label in labels or ("yellow",):
            (other / label).mkdir(parents=True, exist_ok=True)
            image.save(other / label / f"{number}.png")
    image.resize((60, 40)).save(other / "loose.png")
    found = evaluate(result.run, EvaluationRequest(photos=other))
    assert found.metrics["others"]["photos"] == 16
    assert found.left_out == 1
    counts = {label: sum(label in draw_shapes(n)[0] for n in range(200, 216)) for label in COLORS}
    assert {
        label: figures["photos"] for label, figures in found.metrics["others"]["labels"].items()
    } == counts
    assert found.folder is not None
    assert not (found.folder / "confusion_matrix.csv").exists()


def test_without_the_mode_its_settings_are_refused(
    several_folders: Path, tiny_settings: Settings
) -> None:
    for flags, text in (
        ({"negatives": "none"}, "--negatives none is for photos of several labels"),
        ({"label_precision": 0.9}, "--label-precision 0.9 is for photos of several labels"),
    ):
        with pytest.raises(ConfigError, match=text):
            train(several_folders, resolve({}, {**tiny_settings, **flags}))


@pytest.mark.parametrize("balance", ["sampling", "loss"])
@pytest.mark.parametrize("mode", ["head", "full"])
def test_one_label_a_photo_can_be_balanced(
    make_photos: Callable[..., Path],
    tmp_path: Path,
    tiny_settings: Settings,
    mode: str,
    balance: str,
) -> None:
    root = make_photos({"ant": 20, "bee": 6})
    plain = {**tiny_settings, "mode": mode, "epochs": 2}
    train(root, resolve({}, plain), run="plain", runs=tmp_path)
    result = train(root, resolve({}, {**plain, "balance": balance}), run="b", runs=tmp_path)
    assert digest(tmp_path / "b") != digest(tmp_path / "plain")
    steps = [
        [
            json.loads(line)["step"]
            for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        for name in ("plain", "b")
    ]
    assert steps[0] == steps[1]
    assert result.metrics["validation"]["photos"] > 0
    assert load_file(tmp_path / "b" / "model.safetensors")


def test_photos_sorted_by_several_labels_train_such_a_run_again(
    several_folders: Path, tmp_path: Path, several: Settings
) -> None:
    from finetune.prediction.sort_into import Sorter

    result = run_of(several_folders, tmp_path, several)
    predictor = Predictor.load(result.run)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(12):
        shutil.copy(next(several_folders.rglob(f"{number:03d}.png")), flat)
    answers = predictor.predict_batch(sorted(flat.iterdir()))
    sorter = Sorter(tmp_path / "sorted")
    for answer in answers:
        sorter.put(answer)
    for answer in answers:
        name = Path(answer.photo or "").name
        found = {path.parent.name for path in (tmp_path / "sorted").rglob(name)}
        assert found == set(answer.labels or ("_unsure",))

from __future__ import annotations

import csv
import json
import signal
import statistics
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    recall_score,
)

from finetune import Predictor
from finetune.config_io import resolve
from finetune.errors import ConfigError, RunError
from finetune.experiments.cross_validate import (
    CrossValidation,
    FoldConfig,
    cross_validate,
    is_cross_validation,
    read_state,
    result_of,
    resume_folds,
)
from finetune.experiments.fold_results import Fold, Pooled
from finetune.experiments.folds import read_folds
from finetune.models.features import FeatureCache
from finetune.runs.evaluate import evaluate
from finetune.runs.folder import RunFolder
from finetune.training.events import Note
from finetune.training.linear_probe import held_out

Settings = dict[str, object]
COUNTS = {"ant": 11, "bee": 12, "カワセミ": 10}


@pytest.fixture
def photos(make_photos: Callable[..., Path]) -> Path:
    return make_photos(COUNTS)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def pooled_rows(study: CrossValidation) -> list[dict[str, str]]:
    return [row for row in rows_of(study.folder.predictions_file) if row["part"] == "folds"]


@pytest.fixture(scope="module")
def studied(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, draw: Callable[..., Any]
) -> tuple[CrossValidation, Path]:
    """A cross-validation of 3 folds, for tests that only look at it."""
    root = tmp_path_factory.mktemp("folds")
    for index, (label, count) in enumerate(COUNTS.items()):
        (root / "photos" / label).mkdir(parents=True)
        for number in range(count):
            draw(index, number).save(root / "photos" / label / f"{number:03d}.jpg", quality=92)
    flags = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48, "device": "cpu"}
    config = resolve({}, {**flags, "mode": "head", "head_l2": "0.3,1"})
    study = cross_validate(
        root / "photos", config, FoldConfig(folds=3), run="s", runs=root / "runs"
    )
    return study, root / "photos"


@pytest.fixture
def study(studied: tuple[CrossValidation, Path]) -> CrossValidation:
    return studied[0]


def test_every_photo_is_held_out_once(
    studied: tuple[CrossValidation, Path],
) -> None:
    study, photos = studied
    everything = {p.relative_to(photos).as_posix() for p in photos.rglob("*.jpg")}
    held = []
    for fold in (1, 2, 3):
        split = rows_of(study.folder.path / f"fold-{fold}" / "split.csv")
        held += [row["path"] for row in split if row["part"] == "test"]
        assert {row["path"] for row in split} == everything
    assert sorted(held) == sorted(everything)
    pooled = [r["path"] for r in pooled_rows(study)]
    assert pooled == sorted(everything)


def test_pooled_metrics_match_scikit_learn(study: CrossValidation) -> None:
    rows = pooled_rows(study)
    truth, said = [r["label"] for r in rows], [r["predicted"] for r in rows]
    pooled = json.loads(study.folder.metrics_file.read_text())["folds"]
    assert pooled == json.loads(json.dumps(study.pooled))
    assert pooled["photos"] == len(rows) == 33
    assert pooled["top1"] == pytest.approx(accuracy_score(truth, said))
    assert pooled["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, said))
    labels = sorted(COUNTS)
    for label, recall in zip(
        labels, recall_score(truth, said, labels=labels, average=None), strict=True
    ):
        assert pooled["labels"][label]["recall"] == pytest.approx(recall)
        assert pooled["labels"][label]["photos"] == COUNTS[label]
    matrix = rows_of(study.folder.confusion_file)
    cells = [[int(row[label]) for label in labels] for row in matrix]
    assert cells == confusion_matrix(truth, said, labels=labels).tolist()
    right = sum(t == s for t, s in zip(truth, said, strict=True))
    wilson = stats.binomtest(right, len(rows)).proportion_ci(method="wilson")
    assert pooled["top1_interval"] == pytest.approx((wilson.low, wilson.high))


def test_pooled_log_loss_uses_each_folds_own_calibration(study: CrossValidation) -> None:
    labels = sorted(COUNTS)
    probabilities, truth = [], []
    for fold in (1, 2, 3):
        run = RunFolder(study.folder.path / f"fold-{fold}")
        logits = load_file(run.path / "held_out.safetensors")["logits"].astype(np.float64)
        temperature = json.loads(run.calibration_file.read_text())["temperature"]
        exponentials = np.exp(logits / temperature)
        probabilities.append(exponentials / exponentials.sum(axis=1, keepdims=True))
        split = rows_of(run.split_file)
        truth += [row["label"] for row in split if row["part"] == "test"]
    assert study.pooled is not None
    assert study.pooled["log_loss"] == pytest.approx(
        log_loss(truth, np.concatenate(probabilities), labels=labels), rel=1e-5
    )


def test_mean_and_interval_match_scipy(study: CrossValidation) -> None:
    scores = [fold.score for fold in study.folds]
    for fold in study.folds:
        metrics = json.loads(
            (study.folder.path / f"fold-{fold.number}" / "metrics.json").read_text()
        )
        assert fold.score == metrics["test"]["top1"]
    figures = study.statistics
    assert figures is not None
    assert figures.mean == pytest.approx(np.mean(scores))
    assert figures.spread == pytest.approx(np.std(scores, ddof=1))
    expected = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))
    if figures.spread > 0:
        assert figures.interval == pytest.approx(expected)
    else:
        assert figures.interval == (figures.mean, figures.mean)


def test_the_final_model_uses_all_photos_and_has_the_folds_metrics(
    studied: tuple[CrossValidation, Path],
) -> None:
    study, photos = studied
    folder = study.folder
    split = rows_of(folder.split_file)
    assert {row["part"] for row in split} == {"train", "validation"}
    assert len(split) == 33
    description = folder.read(folder.config_file)
    assert description["finished"]
    assert description["folds"]["count"] == 3
    assert description["folds"]["scores"] == [fold.score for fold in study.folds]
    assert folder.read(folder.metrics_file).keys() == {"validation", "folds"}
    prediction = Predictor.load(folder.path)(next(photos.rglob("*.jpg")))
    assert prediction.label in COUNTS
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    assert "On 33 cross-validated photos it is right" in card
    assert "each photo predicted once by one that was not trained on it (cross-validation)." in card


def test_the_final_model_can_be_evaluated_again(study: CrossValidation) -> None:
    again = evaluate(study.folder)
    own = study.folder.read(study.folder.metrics_file)["validation"]
    assert again.metrics["validation"]["top1"] == own["top1"]


def test_weights_of_folds_are_removed_unless_kept(
    study: CrossValidation, photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    folds = [study.folder.path / f"fold-{k}" for k in (1, 2, 3)]
    assert not [fold for fold in folds if list(fold.rglob("model.safetensors"))]
    assert not [fold for fold in folds if list(fold.rglob("checkpoints"))]
    config = resolve({}, {**tiny_settings, "mode": "head"})
    options = FoldConfig(folds=3, final=False, keep_models=True)
    kept = cross_validate(photos, config, options, run=str(tmp_path / "k"))
    models = [kept.folder.path / f"fold-{k}" for k in (1, 2, 3)]
    assert Predictor.load(models)(next(photos.rglob("*.jpg"))).label in COUNTS
    assert not kept.folder.config_file.exists()
    assert kept.folder.read(kept.folder.metrics_file).keys() == {"folds"}
    assert kept.pooled == study.pooled


def test_head_mode_computes_features_once_per_photo(
    photos: Path, tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    compute = FeatureCache.compute

    def count(self: FeatureCache, images: Any, *rest: Any) -> Any:
        nonlocal seen
        seen += len(images)
        return compute(self, images, *rest)

    monkeypatch.setattr(FeatureCache, "compute", count)
    # Pictures of other subjects are no photos.
    monkeypatch.setattr(held_out, "STRANGERS", ())
    config = resolve({}, {**tiny_settings, "mode": "head"})
    cross_validate(photos, config, FoldConfig(folds=3), run=str(tmp_path / "s"))
    assert seen == 33


KILL = """
import os, signal, sys
from finetune.experiments.cross_validate import FoldConfig, cross_validate
from finetune.config_io import resolve
from finetune.training.events import EpochDone, Note
photos, runs, sign, flags, mode = sys.argv[1], sys.argv[2], int(sys.argv[3]), *eval(sys.argv[4])
fold = 0
def callback(event):
    global fold
    if isinstance(event, Note) and event.text.startswith("Fold 2 of 2:"):
        fold = 2
    if isinstance(event, EpochDone) and fold == 2 and event.epoch == 1:
        os.kill(os.getpid(), sign)
study = cross_validate(photos, resolve({}, {**flags, "mode": mode}), FoldConfig(folds=2),
                       run=runs, callback=callback)
sys.exit(0 if study.interrupted else 3)
"""


def test_a_killed_cross_validation_resumes_to_the_same_bytes(
    photos: Path,
    tmp_path: Path,
    tiny_settings: Settings,
    run_child: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    tiny_settings["epochs"] = 2
    killed = tmp_path / "killed"
    sign, flags = str(int(signal.SIGKILL)), repr((tiny_settings, "full"))
    done = run_child(KILL, str(photos), str(killed), sign, flags)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert is_cross_validation(killed)
    first = (killed / "fold-1" / "held_out.safetensors").stat().st_mtime_ns
    partition = read_folds(killed / "folds.csv")
    notes: list[str] = []
    study = resume_folds(
        killed, callback=lambda e: notes.append(e.text) if isinstance(e, Note) else None
    )
    assert (killed / "fold-1" / "held_out.safetensors").stat().st_mtime_ns == first
    assert read_folds(killed / "folds.csv") == partition
    assert not any(note.startswith("Fold 1 of 2:") for note in notes)
    config = resolve({}, {**tiny_settings, "mode": "full"})
    whole = cross_validate(photos, config, FoldConfig(folds=2), run=str(tmp_path / "whole"))
    assert study.pooled == whole.pooled
    assert [fold.score for fold in study.folds] == [fold.score for fold in whole.folds]
    assert (killed / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    with pytest.raises(RunError, match=r"is finished; there is nothing to resume\."):
        resume_folds(killed)


def test_the_collections_own_test_folder_evaluates_only_the_final_model(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    make_photos({"a": 10, "b": 10}, folder="photos/train")
    make_photos({"a": 4, "b": 4}, folder="photos/test")
    for file in (tmp_path / "photos" / "test").rglob("*.jpg"):
        # Drawn alike in both folders; other bytes make them other photos.
        file.write_bytes(file.read_bytes() + file.name.encode())
    config = resolve({}, {**tiny_settings, "mode": "head", "group_by": "none"})
    study = cross_validate(
        tmp_path / "photos", config, FoldConfig(folds=2), run=str(tmp_path / "s")
    )
    assert study.pooled is not None
    assert study.test is not None
    assert study.pooled["photos"] == 20
    assert study.test["photos"] == 8
    parts = Counter(row["part"] for row in rows_of(study.folder.predictions_file))
    assert (parts["folds"], parts["test"]) == (20, 8)


def test_a_single_fold_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        cross_validate(photos, None, FoldConfig(folds=1), run=str(tmp_path / "s"))
    assert str(caught.value) == "--folds 1 must be at least 2."
    assert not (tmp_path / "s").exists()


def test_invalid_folds_leave_no_folder(
    photos: Path, tmp_path: Path, tiny_settings: Settings
) -> None:
    config = resolve({}, {**tiny_settings, "mode": "head"})
    with pytest.raises(ConfigError, match="--folds 40 is too many"):
        cross_validate(photos, config, FoldConfig(folds=40), run=str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()


SCORES = (0.75, 0.5, 1.0)
FOLDS = [
    Fold(
        number=number,
        metrics={"photos": 4, "top1": score, "balanced_accuracy": score, "log_loss": 0.5},
        best_epoch=number,
        seconds=1.25,
    )
    for number, score in enumerate(SCORES, start=1)
]
OPTIONS = FoldConfig(folds=3)


def pooled() -> Pooled:
    return Pooled(
        labels=("ant", "bee"),
        logits=np.zeros((12, 2), np.float32),
        targets=np.zeros(12, np.int64),
        metrics={"top1": 0.75},
        predictions=(),
    )


def test_a_finished_result_has_statistics_and_the_time_of_all_folds(tmp_path: Path) -> None:
    result = result_of(RunFolder(tmp_path), OPTIONS, FOLDS, pooled=pooled())
    assert result.statistics is not None
    assert result.statistics.mean == statistics.fmean(SCORES)
    assert result.statistics.spread == pytest.approx(statistics.stdev(SCORES))
    assert result.pooled == {"top1": 0.75}
    assert result.seconds == 3.75
    assert not result.interrupted
    assert result.results()["folds"][1] == {
        "number": 2,
        "photos": 4,
        "score": 0.5,
        "balanced_accuracy": 0.5,
        "log_loss": 0.5,
        "best_epoch": 2,
        "seconds": 1.25,
    }


def test_an_interrupted_result_has_its_folds_and_no_statistics(tmp_path: Path) -> None:
    result = result_of(RunFolder(tmp_path), OPTIONS, FOLDS[:1], interrupted=True)
    assert result.folds == (FOLDS[0],)
    assert result.interrupted
    assert result.results()["figures"] is None


def test_a_result_is_json(tmp_path: Path) -> None:
    result = result_of(RunFolder(tmp_path), OPTIONS, FOLDS, pooled=pooled())
    plain = json.loads(json.dumps(result.to_json()))
    assert plain["run"] == str(tmp_path)
    assert plain["plan"] == {"folds": 3, "final": True, "keep_models": False}
    assert [fold["number"] for fold in plain["folds"]] == [1, 2, 3]
    assert plain["figures"]["mean"] == statistics.fmean(fold["score"] for fold in plain["folds"])
    assert plain["pooled"] == {"top1": 0.75}
    assert (plain["test"], plain["seconds"], plain["interrupted"]) == (None, 3.75, False)


def test_a_folder_without_a_state_cannot_be_resumed(tmp_path: Path) -> None:
    assert not is_cross_validation(tmp_path)
    for work in (read_state, resume_folds):
        with pytest.raises(RunError) as caught:
            work(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path} has no readable folds.json, so it is not a cross-validation. "
            "Start one with: finetune train PHOTOS --folds 5"
        )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("rubbish", "Expecting value: line 1 column 1 (char 0)"),
        ("{}", "object missing required field `photos`"),
        ("[]", "expected `object`, got `array`"),
        ('{"plan": {"fold": 3}}', "object missing required field `photos`"),
        ('{"plan": null}', "`plan`: expected `object`, got `null`"),
    ],
)
def test_a_damaged_state_is_named_with_what_is_wrong(
    tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / "folds.json").write_text(content)
    assert is_cross_validation(tmp_path)
    for work in (read_state, resume_folds):
        with pytest.raises(RunError) as caught:
            work(tmp_path)
        assert str(caught.value) == f"{tmp_path}/folds.json cannot be read: {reason}."

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score

from finetune import train
from finetune.config_io import resolve
from finetune.errors import CollectionError, RunError
from finetune.models.inference import logits_of
from finetune.photos.split.split import read_split
from finetune.runs.evaluate import Evaluation, EvaluationRequest, evaluate
from finetune.runs.folder import RunFolder
from finetune.runs.follow import BestEpoch, follow_run
from finetune.runs.loading import open_trained
from finetune.training.events import EpochDone
from finetune.training.train import RunResult

Settings = dict[str, object]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("mode", ["head", "full"])
def test_evaluating_again_finds_what_training_found(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings, mode: str
) -> None:
    photos = make_photos({"a": 10, "b": 10})
    result = train(
        photos, resolve({}, {**tiny_settings, "mode": mode}), run="r", runs=tmp_path / "runs"
    )
    again = evaluate(result.run)
    assert set(again.metrics) == {"validation", "test"}
    for part, figures in again.metrics.items():
        assert figures["top1"] == result.metrics[part]["top1"]
        assert figures["log_loss"] == pytest.approx(result.metrics[part]["log_loss"], abs=1e-5)
    first = rows_of(result.run.predictions_file)
    assert again.folder == result.run.path / "evaluation"
    second = rows_of(again.folder / "predictions.csv")
    assert [r["path"] for r in first] == [r["path"] for r in second]
    for one, two in zip(first, second, strict=True):
        assert float(one["probability"]) == pytest.approx(float(two["probability"]), abs=1e-4)
    _check_moved(result, photos, again, first, tmp_path)


def _check_moved(
    result: RunResult,
    photos: Path,
    before: Evaluation,
    rows: list[dict[str, str]],
    tmp_path: Path,
) -> None:
    """Checks that only held-out photos are needed, wherever they are, and no place in the run."""
    part_of = {row.path: row.part for row in read_split(result.run.split_file)}
    next(photos / path for path, part in part_of.items() if part == "train").unlink()
    held_out = photos / rows[0]["path"]
    held_out.rename(held_out.with_name("renamed.jpg"))
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"is not there\. If it was moved, name its new place"):
        evaluate(result.run)
    folder = result.run.path / "evaluation"
    shutil.rmtree(folder)
    folder.write_text("in the way, as a read-only disk is")
    moved = EvaluationRequest(own_photos=tmp_path / "elsewhere")
    unsaved = evaluate(result.run, moved)
    assert (unsaved.folder, unsaved.metrics) == (None, before.metrics)
    saved = evaluate(result.run, dataclasses.replace(moved, output=tmp_path / "out"))
    assert saved.folder == tmp_path / "out"
    assert {row["digest"] for row in rows_of(tmp_path / "out" / "predictions.csv")} == {
        row["digest"] for row in rows
    }


def test_other_photos_are_matched_by_label_name(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    photos = make_photos({"a": 10, "b": 10})
    run = train(photos, resolve({}, {**tiny_settings, "mode": "head"}), runs=tmp_path / "runs").run
    others = make_photos({"b": 4, "c": 3}, "others")
    shutil.copy(photos / "a" / "000.jpg", others / "unlabeled.jpg")
    result = evaluate(run, EvaluationRequest(photos=others))
    assert result.unknown_labels == {"c": 3}
    assert result.left_out == 1
    assert result.folder is not None
    rows = rows_of(result.folder / "predictions.csv")
    assert [row["label"] for row in rows] == ["b"] * 4
    expected = accuracy_score([r["label"] for r in rows], [r["predicted"] for r in rows])
    assert result.metrics["others"]["top1"] == expected
    assert result.folder == run.path / "evaluation-others"
    assert result.statuses is not None
    assert result.statuses["photos"] == 4
    assert result.statuses["other_photos"] == 3
    nothing = make_photos({"x": 2, "y": 2}, "nothing")
    with pytest.raises(CollectionError) as error:
        evaluate(run, EvaluationRequest(photos=nothing))
    assert str(error.value) == f"No photo in {nothing} has a label of {run.path}. Its labels: a, b."


def test_tta_is_the_mean_of_a_photo_and_its_mirror_image(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    photos = make_photos({"a": 6, "b": 6})
    run = train(photos, resolve({}, {**tiny_settings, "mode": "head"}), runs=tmp_path / "runs").run
    trained = open_trained(run)
    # An even margin, so that the center of the mirror image is the mirror image of the center.
    side = trained.preprocessing.size + 2
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    plain = logits_of(trained.module, trained.preprocessing, images)
    mirrored = logits_of(trained.module, trained.preprocessing, images.flip(3))
    both = logits_of(trained.module, trained.preprocessing, images, tta=True)
    assert torch.allclose(both, (plain + mirrored) / 2, atol=1e-5)
    assert not torch.allclose(plain, mirrored, atol=1e-3)


def test_following_sees_every_new_best_and_ends_with_the_run(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    photos = make_photos({"a": 10, "b": 10})
    runs = tmp_path / "runs"
    ready, best = threading.Event(), []

    def callback(event: object) -> None:
        if isinstance(event, EpochDone):
            best.extend([event.epoch] if event.best else [])
            if event.epoch == 1:
                # The training waits here until the first epoch has been looked at.
                ready.set()
                looked.wait(60)

    looked = threading.Event()
    # What is kept at the end is then the best epoch as it was.
    config = resolve({}, {**tiny_settings, "mode": "full", "final_weights": "best"})
    worker = threading.Thread(
        target=train, args=(photos, config), kwargs={"run": "r", "runs": runs, "callback": callback}
    )
    worker.start()
    assert ready.wait(60)
    seen = []
    for update in follow_run(
        RunFolder(runs / "r"), EvaluationRequest(), wait=lambda seconds: worker.join(60)
    ):
        if isinstance(update, BestEpoch):
            seen.append((update.epoch, update.evaluation.metrics["validation"]["top1"]))
            looked.set()
    worker.join(60)
    log = [json.loads(line) for line in (runs / "r" / "log.jsonl").read_text().splitlines()]
    assert [epoch for epoch, _ in seen] == sorted({1, best[-1]})
    for epoch, accuracy in seen:
        assert accuracy == pytest.approx(log[epoch - 1]["validation_accuracy"])


def test_the_kept_weights_are_those_of_the_best_epoch(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    photos = make_photos({"a": 10, "b": 10})
    copies: dict[int, dict[str, torch.Tensor]] = {}

    def callback(event: object) -> None:
        if isinstance(event, EpochDone) and event.best:
            copies[event.epoch] = load_file(tmp_path / "r/checkpoints/best.safetensors")

    config = resolve({}, {**tiny_settings, "mode": "full", "epochs": 4, "final_weights": "best"})
    result = train(photos, config, run="r", runs=tmp_path, callback=callback)
    kept = load_file(result.run.model_file)
    assert result.best_epoch == max(copies)
    assert all(torch.equal(kept[name], copies[result.best_epoch][name]) for name in kept)

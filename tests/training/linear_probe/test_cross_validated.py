"""Heads that are trained on all photos, with cross-validated metrics."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score

from finetune import Predictor
from finetune.config_io import resolve
from finetune.errors import CollectionError, RunError
from finetune.models.linear_solver import Solution
from finetune.photos.split.leakage import prove_folds
from finetune.photos.split.split import SplitRow, read_split, write_split
from finetune.reporting.report import write_report
from finetune.runs.evaluate import EvaluationRequest, evaluate
from finetune.runs.model_card import model_card
from finetune.training.events import Event, Note
from finetune.training.linear_probe.heads import HeadFitter
from finetune.training.train import RunResult, train
from finetune.training.warm_start import inherit, open_parent

Settings = dict[str, Any]


@pytest.fixture
def settings(tiny_settings: Settings) -> Settings:
    """Flags of a head that is cross-validated."""
    del tiny_settings["validation"]
    return {**tiny_settings, "mode": "head"}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def run_with_notes(
    photos: Path, settings: Settings, folder: Path, **more: Any
) -> tuple[RunResult, list[str]]:
    notes: list[str] = []

    def callback(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    return train(photos, resolve({}, settings), run=str(folder), callback=callback, **more), notes


@pytest.fixture
def trained(
    make_photos: Callable[..., Path], tmp_path: Path, settings: Settings
) -> tuple[RunResult, list[str]]:
    photos = make_photos({"ant": 9, "bee": 9, "wasp": 7, "moth": 1})
    return run_with_notes(photos, settings, tmp_path / "run")


def test_no_head_starts_from_one_that_has_seen_its_held_out_photos(
    make_photos: Callable[..., Path],
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Where a start already fits the photos, the solver stops at once and keeps what it has seen.
    real = HeadFitter.fit
    learned_by: list[tuple[Solution, set[int]]] = []
    fits = 0

    def fit(self: HeadFitter, learned: Any, strength: Any, **options: Any) -> Solution:
        nonlocal fits
        own = set(learned.tolist())
        start = options.get("start")
        if start is not None:
            fits += 1
            seen = next(photos for solution, photos in learned_by if solution is start)
            assert seen <= own
        found = real(self, learned, strength, **options)
        learned_by.append((found, own))
        return found

    monkeypatch.setattr(HeadFitter, "fit", fit)
    photos = make_photos({"ant": 9, "bee": 9, "wasp": 7})
    run_with_notes(photos, {**settings, "head_l2": "0.1,1"}, tmp_path / "run")
    # The second strength of each fold, and the final head.
    assert fits == 6


def test_every_photo_is_trained_on_and_held_out_once(
    trained: tuple[RunResult, list[str]],
) -> None:
    result, notes = trained
    rows = rows_of(result.run.split_file)
    assert {row["part"] for row in rows} == {"train"}
    assert Counter(row["fold"] for row in rows if row["label"] != "moth").keys() == set("01234")
    folds_of_group: dict[str, set[str]] = {}
    for row in rows:
        folds_of_group.setdefault(row["group"], set()).add(row["fold"])
    assert all(len(folds) == 1 for folds in folds_of_group.values())
    assert result.metrics.keys() == {"folds"}
    predictions = rows_of(result.run.predictions_file)
    assert sorted(row["path"] for row in predictions) == sorted(
        row["path"] for row in rows if row["fold"] != "-1"
    )
    found = result.headline
    assert found["part"] == "cross-validated"
    assert found["photos"] == len(predictions) == 25
    assert found["top1"] == accuracy_score(
        [row["label"] for row in predictions], [row["predicted"] for row in predictions]
    )
    low, high = found["top1_interval"]
    assert low < found["top1"] < high
    assert (
        "All 26 photos are trained on. The metrics are cross-validated: 5 folds, each predicted by "
        "a head that was fitted on the others. No near-duplicates in two folds (26 groups)."
        in notes
    )
    right = round(found["top1"] * 25)
    (head,) = (note for note in notes if note.startswith("Head: L2 strength "))
    assert head.endswith(f"; {right} of 25 right.")
    assert result.run.read(result.run.calibration_file)["photos"] == 25


def test_a_label_of_one_photo_is_learned_and_its_missing_metrics_are_mentioned(
    trained: tuple[RunResult, list[str]],
) -> None:
    result, notes = trained
    assert json.loads(result.run.labels_file.read_text()) == ["ant", "bee", "moth", "wasp"]
    assert (
        "1 photo of 'moth' is only trained on, never held out: the label has no second, different "
        "photo. Metrics say nothing about such a label; add photos of it." in notes
    )
    assert result.headline["labels"]["moth"]["photos"] == 0
    assert "moth" in Predictor.load(result.run.path).labels
    card = model_card(result.run)
    assert "25 cross-validated photos" in card
    assert "26 train, in 5 folds. No group of near-duplicates is in two folds" in card
    assert "- head: logistic regression with L2 strength " in card
    assert "epochs" not in card


@pytest.mark.parametrize(
    "flags",
    [{"test": 0.2}, {"validation": 0.2}, {"mode": "full"}, {"multi_label": True}],
    ids=str,
)
def test_requested_parts_full_networks_and_several_labels_have_parts(
    make_photos: Callable[..., Path], tmp_path: Path, settings: Settings, flags: Settings
) -> None:
    photos = make_photos({"ant": 10, "bee": 10})
    more = {**settings, "epochs": 1, **flags}
    result = train(photos, resolve({}, more), run=str(tmp_path / "run"))
    assert result.metrics.keys() == {"validation", "test"}
    assert "fold" not in result.run.split_file.read_text().splitlines()[0]


def test_the_report_speaks_of_folds_and_not_of_epochs(
    trained: tuple[RunResult, list[str]],
) -> None:
    result, _ = trained
    page = write_report(result.run.path).path.read_text(encoding="utf-8")
    strength = result.run.read(result.run.config_file)["l2_strength"]
    assert f"with L2 strength {strength:g}" in page
    assert "Each fold was predicted by a head that was fitted on the others." in page
    assert "Loss by epoch" not in page


def test_evaluating_the_run_itself_gives_the_cross_validated_metrics(
    trained: tuple[RunResult, list[str]], make_photos: Callable[..., Path]
) -> None:
    result, _ = trained
    found = evaluate(result.run)
    assert found.metrics == json.loads(result.run.metrics_file.read_text())
    with pytest.raises(RunError, match="was trained on all of its photos"):
        evaluate(result.run, EvaluationRequest(tta=True))
    others = make_photos({"ant": 3, "bee": 2}, "others")
    assert evaluate(result.run, EvaluationRequest(photos=others)).metrics["others"]["photos"] == 5


def test_a_child_of_the_same_photos_fits_its_head_anew(
    trained: tuple[RunResult, list[str]], tmp_path: Path, settings: Settings
) -> None:
    result, _ = trained
    parent = open_parent(result.run)
    assert parent.cross_validated
    config = inherit(resolve({}, {"device": "cpu", "head_l2": "0.3,1"}), parent)
    notes: list[str] = []
    child = train(
        parent.photos(),
        config,
        run=str(tmp_path / "child"),
        parent=parent,
        callback=lambda e: notes.append(e.text) if isinstance(e, Note) else None,
    )
    assert any(note.startswith("Starts from the backbone of ") for note in notes)
    assert child.metrics == result.metrics
    weights = [load_file(r.run.model_file) for r in (result, child)]
    assert weights[0]["fc.weight"].equal(weights[1]["fc.weight"])
    # The full network gets parts of its own, of which the head has seen none.
    full = inherit(resolve({}, {"device": "cpu", "mode": "full", "epochs": 1, "batch_size": 8,
                                "min_photos": 2}), parent)  # fmt: skip
    found = train(parent.photos(), full, run=str(tmp_path / "full"), parent=parent)
    assert found.metrics.keys() == {"validation", "test"}


def test_a_child_of_other_photos_goes_on_from_the_head(
    trained: tuple[RunResult, list[str]], make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    result, _ = trained
    parent = open_parent(result.run)
    others = make_photos({"ant": 16, "bee": 16}, "others")
    for photo in [*others.rglob("*.jpg")]:
        if int(photo.stem) < 9:
            photo.unlink()
    config = inherit(resolve({}, {"device": "cpu", "head_l2": "1e9"}), parent)
    child = train(others, config, run=str(tmp_path / "child"), parent=parent)
    weights = [load_file(r.run.model_file)["fc.weight"] for r in (result, child)]
    # A penalty that allows no change leaves the weights of the labels that are left.
    assert weights[1].allclose(weights[0][:2], rtol=1e-4, atol=1e-3)
    assert child.metrics.keys() == {"folds"}


def test_a_copy_in_another_fold_breaks_the_proof(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    from finetune.photos.scan import scan

    root = make_photos({"ant": 6})
    copy = root / "ant" / "copy.jpg"
    copy.write_bytes((root / "ant" / "000.jpg").read_bytes())
    photos = scan(root).photos
    rows = [
        SplitRow(
            path=p.path, digest=p.digest, labels=p.labels, group=p.path, part="train", fold=k % 4
        )
        for k, p in enumerate(photos)
    ]
    copies = [k for k, p in enumerate(photos) if p.digest == photos[0].digest]
    assert len(copies) == 2
    apart = prove_folds(rows, photos)
    assert not apart.holds
    assert apart.straddling_contents == 1
    assert apart.leaks["validation"] >= 2
    assert apart.nearest is not None
    assert apart.nearest.distance_bits == 0
    together = [
        dataclasses.replace(row, fold=0, group="same") if k in copies else row
        for k, row in enumerate(rows)
    ]
    assert prove_folds(together, photos).straddling_contents == 0


def test_a_split_with_folds_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = tuple(
        SplitRow(path=f"{k}.jpg", digest="d", labels=("a",), group="g", part="train", fold=fold)
        for k, fold in enumerate((0, 1, -1))
    )
    path = write_split(tmp_path / "split.csv", rows)
    assert read_split(path) == rows
    path.write_text(path.read_text().replace(",-1", ",x"))
    with pytest.raises(CollectionError, match=r"line 4: the fold 'x' is no number\."):
        read_split(path)

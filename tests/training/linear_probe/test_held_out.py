from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from finetune.config_io import resolve
from finetune.errors import RunError
from finetune.evaluation.calibration import fit_temperature
from finetune.prediction.predictor import Predictor
from finetune.runs.evaluate import EvaluationRequest, evaluate
from finetune.runs.folder import RunFolder
from finetune.runs.loading import open_trained
from finetune.training.events import Event, Progressed
from finetune.training.train import train

Settings = dict[str, Any]


def trained_on(
    photos: Path, folder: Path, settings: Settings, **more: Any
) -> tuple[RunFolder, dict[str, Any]]:
    config = resolve({}, {**settings, "mode": "head", **more})
    run = train(photos, config, run="r", runs=folder).run
    return run, run.read(run.calibration_file)


def test_a_head_is_calibrated_on_photos_and_labels_held_out(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    photos = make_photos({"a": 14, "b": 14, "c": 14})
    stages: list[Progressed] = []

    def callback(event: Event) -> None:
        if isinstance(event, Progressed) and event.stage.startswith("Holding"):
            stages.append(event)

    config = resolve({}, {**tiny_settings, "mode": "head"})
    result = train(photos, config, run="r", runs=tmp_path / "runs", callback=callback)
    content = result.run.read(result.run.calibration_file)
    with result.run.split_file.open(encoding="utf-8", newline="") as file:
        learned_from = [row for row in csv.DictReader(file) if row["part"] != "test"]
    assert content["fitted_on"] == "held-out"
    assert content["photos"] == len(learned_from)
    unknown = content["unknown"]
    assert unknown["score"] == "odds_and_distance"
    assert unknown["photos"] == len(unknown["known_scores"]) == len(learned_from)
    assert unknown["power"][0]["subject"] == "labels left out"
    assert unknown["power"][0]["photos"] == len(learned_from)
    assert content["sure"]["total"] == len(learned_from)
    assert stages
    tensors = load_file(result.run.distance_file)
    assert tensors["means"].shape[0] == 3
    assert tensors["projection"].shape[1] == tensors["means"].shape[1]


def test_predict_and_evaluate_say_none_of_these_of_the_same_photos(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    photos = make_photos({"a": 14, "b": 14, "c": 14})
    run, content = trained_on(photos, tmp_path / "runs", tiny_settings)
    others = make_photos({"a": 6, "z": 9}, "others")
    everything = sorted(others.rglob("*.jpg"))
    scores = _scores(run, everything)
    # In the widest gap in the midst of them: both answers occur, and rounding is nothing.
    ordered = np.sort(scores)[4:-4]
    widest = int(np.diff(ordered).argmax())
    threshold = float(ordered[widest : widest + 2].mean())
    content["unknown"] |= {"known_scores": [threshold] * 24, "photos": 24}
    run.calibration_file.write_text(json.dumps(content))
    said = {
        p: a.status == "unknown" for p, a in zip(everything, _answers(run, everything), strict=True)
    }
    assert [bool(score < threshold) for score in scores] == list(said.values())
    found = evaluate(run, EvaluationRequest(photos=others))
    assert found.statuses is not None
    known = [odd for path, odd in said.items() if path.parent.name == "a"]
    strangers = [odd for path, odd in said.items() if path.parent.name == "z"]
    assert (found.statuses["photos"], found.statuses["unknown"]) == (len(known), sum(known))
    assert found.statuses["other_photos"] == len(strangers)
    assert found.statuses["other_unknown"] == sum(strangers)


def _answers(run: RunFolder, photos: list[Path]) -> list[Any]:
    return Predictor.load(run).predict_batch(photos)


def _scores(run: RunFolder, photos: list[Path]) -> np.ndarray:
    """By the network's own features, without the engines."""
    import torch

    from finetune.models.inference import logits_of
    from finetune.photos.crops import load_image

    opened = open_trained(run)
    limit = opened.unknown
    assert limit is not None
    assert limit.distance is not None
    preprocessing = opened.preprocessing
    squares = np.stack(
        [
            load_image(
                p,
                size=preprocessing.working_size,
                fit=preprocessing.fit,
                interpolation=preprocessing.interpolation,
            )
            for p in photos
        ]
    )
    images = torch.from_numpy(squares).permute(0, 3, 1, 2)
    taken: list[torch.Tensor] = []
    head = opened.module.get_classifier()  # type: ignore[operator]
    with head.register_forward_pre_hook(lambda _, given: taken.append(given[0])):
        logits = logits_of(opened.module, preprocessing, images).numpy()
    features = torch.cat(taken).numpy()
    return limit.scores(logits, limit.distance(features), temperature=opened.temperature)


def test_a_run_without_its_distance_says_so(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    run, _ = trained_on(make_photos({"a": 8, "b": 8, "c": 8}), tmp_path / "runs", tiny_settings)
    run.distance_file.unlink()
    with pytest.raises(RunError) as error:
        Predictor.load(run)
    assert str(error.value) == (
        f"{run.distance_file} is missing or damaged, and {run.path} needs it to detect unknown "
        f"photos (No such file or directory: {run.distance_file}). "
        "Copy the complete run folder again."
    )


def test_two_labels_measure_no_power_on_labels_left_out(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    _, content = trained_on(make_photos({"a": 20, "b": 20}), tmp_path / "runs", tiny_settings)
    subjects = [power["subject"] for power in content["unknown"]["power"]]
    assert subjects == ["noise", "text", "blank frames", "drawn birds"]
    assert content["unknown"]["threshold"] is not None


def test_the_full_network_is_calibrated_on_validation(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    photos = make_photos({"a": 10, "b": 10, "c": 10})
    config = resolve({}, {**tiny_settings, "mode": "full"})
    run = train(photos, config, run="r", runs=tmp_path / "runs").run
    content = run.read(run.calibration_file)
    assert content["fitted_on"] == "validation"
    assert content["unknown"]["score"] == "odds_and_distance"
    assert content["unknown"]["photos"] == content["sure"]["total"] == content["photos"]
    opened = open_trained(run)
    assert opened.unknown is not None
    assert opened.unknown.distance is not None


def test_a_run_of_an_earlier_version_opens(
    make_photos: Callable[..., Path], tmp_path: Path, tiny_settings: Settings
) -> None:
    run, content = trained_on(
        make_photos({"a": 8, "b": 8, "c": 8}), tmp_path / "runs", tiny_settings
    )
    parent = {
        "score": "max_probability",
        "threshold": 0.99999,
        "precision": 0.95,
        "measured_precision": 0.96,
        "precision_interval": [0.9, 0.99],
        "coverage": 0.7,
        "refused_unknown": 0.5,
        "photos": 10,
        "unknown_photos": 10,
    }
    run.calibration_file.write_text(json.dumps({**content, "unknown": parent, "sure": None}))
    run.distance_file.unlink()
    opened = open_trained(run)
    assert opened.unknown is not None
    assert opened.unknown.fixed == 0.99999
    photo = make_photos({"q": 1}, "asked") / "q" / "000.jpg"
    answer = Predictor.load(run)(photo)
    assert answer.status == ("unknown" if answer.ranked[0].probability < 0.99999 else "sure")


def test_temperature_is_that_of_answers_by_heads_that_did_not_see_the_photo(
    make_photos: Callable[..., Path],
    tmp_path: Path,
    tiny_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from finetune.training.linear_probe import held_out, probe

    seen = []
    original = held_out.hold_out

    def spy(*given: Any, **named: Any) -> Any:
        seen.append(original(*given, **named))
        return seen[-1]

    monkeypatch.setattr(probe, "hold_out", spy)
    _, content = trained_on(make_photos({"a": 9, "b": 9, "c": 9}), tmp_path / "runs", tiny_settings)
    (found,) = seen
    assert found is not None
    known = found.outputs.known
    assert content["temperature"] == fit_temperature(known.logits, known.targets)
    assert len(known.targets) == content["photos"]
    assert [group.logits.shape[1] for group in found.outputs.unknown] == [2, 2, 2]

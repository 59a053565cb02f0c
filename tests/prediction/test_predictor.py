from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from finetune import Predictor
from finetune.errors import ConfigError, DecodeError, RunError
from finetune.photos.decode.decoder import decode_photo
from finetune.prediction.predictor import PredictConfig
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import open_run


class Trained(Protocol):
    run: Path
    photos: Path


def test_probabilities_are_ranked_and_sum_to_one(trained: Trained) -> None:
    run, photos = trained.run, trained.photos
    prediction = Predictor.load(run)(photos / "ant" / "0.png")
    shares = [item.probability for item in prediction.ranked]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-9)
    assert prediction.to_dict(1) == {
        "photo": str(photos / "ant" / "0.png"),
        "status": prediction.status,
        "ranked": [{"label": prediction.label, "probability": shares[0]}],
    }


def test_every_way_to_hand_over_a_photo_gives_the_same_answer(trained: Trained) -> None:
    run, photos = trained.run, trained.photos
    path = photos / "bee" / "1.png"
    predictor = Predictor.load(run)
    expected = predictor(path).ranked
    assert predictor(str(path)).ranked == expected
    assert predictor(path.read_bytes()).ranked == expected
    assert predictor(Image.open(path)).ranked == expected
    assert predictor(decode_photo(path)).ranked == expected
    with pytest.raises(DecodeError, match=r"pixels must be \(H, W, 3\) uint8"):
        predictor(np.zeros((4, 4), np.uint8))


def test_a_bad_photo_is_a_row_and_never_a_neighbors_answer(
    trained: Trained, tmp_path: Path
) -> None:
    run, photos = trained.run, trained.photos
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a photo")
    good = sorted(photos.rglob("*.png"))
    asked = [*good[:5], bad, *good[5:], tmp_path / "missing.jpg"]
    predictor = Predictor.load(run)
    predictions = list(predictor.predict_stream(asked, batch_size=4))
    assert [prediction.photo for prediction in predictions] == [str(path) for path in asked]
    assert predictions[5].error == "not a photo"
    assert predictions[5].ranked == ()
    assert predictions[-1].error == "no such file"
    for path, prediction in zip(asked, predictions, strict=True):
        if prediction.error is None:
            alone = predictor(path)
            assert alone.label == prediction.label
            assert alone.ranked[0].probability == pytest.approx(
                prediction.ranked[0].probability, abs=1e-6
            )
    assert predictor.predict_batch([]) == []
    assert [a.error for a in predictor.predict_batch([bad])] == ["not a photo"]
    with pytest.raises(DecodeError) as error:
        predictor(bad)
    assert error.value.reason == "not a photo"


def test_threads_get_their_own_answers(trained: Trained) -> None:
    run, photos = trained.run, trained.photos
    predictor = Predictor.load(run)
    paths = sorted(photos.rglob("*.png"))
    expected = {path: predictor(path).ranked[0] for path in paths}
    wrong: list[Path] = []

    def ask(mine: list[Path]) -> None:
        for path in mine:
            got = predictor(path).ranked[0]
            if got != expected[path]:
                wrong.append(path)

    threads = [threading.Thread(target=ask, args=(paths[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_unknown_follows_the_threshold_of_the_run(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained.run, copy)
    photo = trained.photos / "ant" / "0.png"
    content = json.loads((copy / "calibration.json").read_text())
    config = PredictConfig(threshold=0.0)
    for limit, expected in [(-1e9, "sure"), (1e9, "unknown")]:
        content["unknown"]["known_scores"] = [limit] * 24
        content["unknown"]["photos"] = 24
        (copy / "calibration.json").write_text(json.dumps(content))
        assert Predictor.load(copy, config=config)(photo).status == expected
    heedless = Predictor.load(copy, config=PredictConfig(false_alarms=0, threshold=0.0))
    assert heedless(photo).status == "sure"


def test_a_threshold_makes_what_is_less_probable_unsure(trained: Trained) -> None:
    photo = trained.photos / "ant" / "0.png"
    sure = Predictor.load(trained.run, config=PredictConfig(false_alarms=0))(photo)
    probability = sure.ranked[0].probability
    for threshold, expected in [(probability - 1e-9, "sure"), (probability + 1e-9, "unsure")]:
        how = PredictConfig(false_alarms=0, threshold=threshold)
        assert Predictor.load(trained.run, config=how)(photo).status == expected
    with pytest.raises(ConfigError, match=r"^--threshold 1.5 must lie between 0 and 1\.$"):
        PredictConfig(threshold=1.5)


def test_several_runs_answer_with_the_mean_of_their_probabilities(
    trained: Trained, tmp_path: Path
) -> None:
    hotter = tmp_path / "hotter"
    shutil.copytree(trained.run, hotter)
    content = json.loads((hotter / "calibration.json").read_text())
    content["temperature"] *= 3
    (hotter / "calibration.json").write_text(json.dumps(content))
    photo = trained.photos / "bee" / "2.png"
    alone = [Predictor.load(run)(photo) for run in (trained.run, hotter)]
    together = Predictor.load([trained.run, hotter])
    assert together.name == "tiny+hotter"
    for item in together(photo).ranked:
        mean = sum(prediction.probability_of(item.label) for prediction in alone) / 2
        assert item.probability == pytest.approx(mean, abs=1e-12)


def test_labels_are_matched_by_name_and_not_by_place(trained: Trained) -> None:
    first, second = (TorchEngine.load(open_run(trained.run)) for _ in range(2))
    head = second.module.get_classifier()  # type: ignore[operator]
    head.weight.data = head.weight.data.flip(0)
    head.bias.data = head.bias.data.flip(0)
    turned = TorchEngine(
        second.module, dataclasses.replace(second.metadata, labels=second.metadata.labels[::-1])
    )
    photo = trained.photos / "bee" / "3.png"
    both, one = (Predictor(engines)(photo).ranked for engines in ([first, turned], [first]))
    assert [item.label for item in both] == [item.label for item in one]
    shares = [[item.probability for item in ranked] for ranked in (both, one)]
    assert shares[0] == pytest.approx(shares[1], abs=1e-6)
    other = TorchEngine(second.module, dataclasses.replace(second.metadata, labels=("ant", "wasp")))
    with pytest.raises(ConfigError) as error:
        Predictor([first, other])
    assert str(error.value) == (
        "--run tiny and --run tiny cannot be combined: only one of them has the label 'bee'."
    )


def test_a_stream_reads_no_further_than_it_must(trained: Trained) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield trained.photos / "ant" / "0.png"

    stream = Predictor.load(trained.run).predict_stream(endless(), batch_size=4)
    for _ in range(20):
        next(stream)
    assert taken <= 20 + 3 * 4
    stream.close()  # type: ignore[attr-defined]


def test_too_many_pixels_are_refused(trained: Trained) -> None:
    small = Predictor.load(trained.run, config=PredictConfig(max_pixels=100))
    prediction = small.predict_batch([trained.photos / "ant" / "0.png"])[0]
    assert prediction.error == "too many pixels"


def test_a_damaged_run_is_refused(trained: Trained, tmp_path: Path) -> None:
    run = trained.run
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "model.safetensors").write_bytes(b"half")
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        Predictor.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no model\.safetensors yet"):
        Predictor.load(copy)

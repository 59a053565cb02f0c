from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune import Predictor, train
from finetune.config import resolve
from finetune.errors import CollectionError, DecodeError, RunError
from finetune.photos.decode import decode_photo
from finetune.prediction.sources import photos_of


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_weights: Path,
    draw: Callable[..., Image.Image],
) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("trained")
    for index, label in enumerate(["a", "b"]):
        (root / "photos" / label).mkdir(parents=True)
        for number in range(8):
            draw(index, number).save(root / "photos" / label / f"{number}.png")
    flags = {
        "model": "test_resnet",
        "weights": str(tiny_weights),
        "size": 48,
        "device": "cpu",
        "epochs": 2,
        "mode": "head",
    }
    run = train(root / "photos", resolve({}, flags), run="r", runs=root).run.path
    return run, root / "photos"


def test_probabilities_are_ranked_and_sum_to_one(trained: tuple[Path, Path]) -> None:
    run, photos = trained
    answer = Predictor.load(run)(photos / "a" / "0.png")
    shares = [item.probability for item in answer.ranked]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-9)
    assert answer.to_dict(1) == {
        "photo": str(photos / "a" / "0.png"),
        "status": "ok",
        "ranked": [{"label": answer.label, "probability": shares[0]}],
        "unknown": answer.unknown,
    }


def test_every_way_to_hand_over_a_photo_gives_the_same_answer(trained: tuple[Path, Path]) -> None:
    run, photos = trained
    path = photos / "b" / "1.png"
    predictor = Predictor.load(run)
    expected = predictor(path).ranked
    assert predictor(str(path)).ranked == expected
    assert predictor(path.read_bytes()).ranked == expected
    assert predictor(Image.open(path)).ranked == expected
    assert predictor(decode_photo(path)).ranked == expected
    with pytest.raises(DecodeError, match=r"pixels must be \(H, W, 3\) uint8"):
        predictor(np.zeros((4, 4), np.uint8))


def test_a_bad_photo_is_a_row_and_never_a_neighbours_answer(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run, photos = trained
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a photo")
    good = sorted(photos.rglob("*.png"))
    asked = [*good[:5], bad, *good[5:], tmp_path / "missing.jpg"]
    predictor = Predictor.load(run)
    answers = list(predictor.predict_stream(asked, batch_size=4))
    assert [answer.photo for answer in answers] == [str(path) for path in asked]
    assert answers[5].status == "not a photo"
    assert answers[5].ranked == ()
    assert answers[-1].status == "no such file"
    for path, answer in zip(asked, answers, strict=True):
        if answer.status == "ok":
            alone = predictor(path)
            assert alone.label == answer.label
            assert alone.ranked[0].probability == pytest.approx(
                answer.ranked[0].probability, abs=1e-6
            )
    assert predictor.predict_batch([]) == []
    assert [a.status for a in predictor.predict_batch([bad])] == ["not a photo"]
    with pytest.raises(DecodeError) as error:
        predictor(bad)
    assert error.value.reason == "not a photo"


def test_threads_get_their_own_answers(trained: tuple[Path, Path]) -> None:
    run, photos = trained
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


def test_unknown_follows_the_threshold_of_the_run(trained: tuple[Path, Path]) -> None:
    run, photos = trained
    predictor = Predictor.load(run)
    assert predictor.unknown is not None
    content = json.loads((run / "calibration.json").read_text())["unknown"]
    for limit, expected in [(-1e9, False), (1e9, True)]:
        predictor.unknown = type(predictor.unknown).from_dict({**content, "threshold": limit})
        assert predictor(photos / "a" / "0.png").unknown is expected


def test_a_damaged_run_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    run, _ = trained
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "model.safetensors").write_bytes(b"half")
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        Predictor.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no model\.safetensors yet"):
        Predictor.load(copy)


def test_folders_expand_and_files_stay(make_photos: Callable[..., Path], tmp_path: Path) -> None:
    root = make_photos({"a": 2, "b": 1})
    missing = tmp_path / "missing.jpg"
    assert photos_of([missing, root]) == [missing, *sorted(root.rglob("*.jpg"))]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CollectionError, match="There are no photos in"):
        photos_of([tmp_path / "empty"])

"""Photos through a predictor, a batch a core or a batch on all cores."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch

from finetune import Predictor
from finetune.prediction import predictor as predictor_module
from finetune.prediction.torch_engine import TorchEngine
from finetune.runs.folder import open_run


class Trained(Protocol):
    run: Path
    photos: Path


@pytest.fixture(params=[1, 3], ids=["all cores", "a core each"])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    """Torch's threads, by which a stream shares photos out; put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def paths(trained: Trained, tmp_path: Path) -> list[Path]:
    good = sorted(trained.photos.rglob("*.png"))
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a photo")
    return [*good, bad, *reversed(good), tmp_path / "missing.jpg", *good]


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_each_photo_gets_the_answer_that_it_gets_alone(
    trained: Trained, paths: list[Path], cores: int, batch_size: int
) -> None:
    predictor = Predictor.load(trained.run)
    assert predictor.engines[0].cores == cores
    predictions = list(predictor.predict_stream(paths, batch_size=batch_size))
    assert [prediction.photo for prediction in predictions] == [str(path) for path in paths]
    for path, prediction in zip(paths, predictions, strict=True):
        if path.suffix == ".png":
            alone = predictor(path)
            assert prediction.status == alone.status
            for item in alone.ranked:
                assert prediction.probability_of(item.label) == pytest.approx(
                    item.probability, abs=1e-6
                )
        else:
            assert prediction.error == {"bad": "not a photo", "missing": "no such file"}[path.stem]
    assert torch.get_num_threads() == cores


def test_each_core_has_its_batch_and_a_few_photos_have_all_cores(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    asked: set[tuple[str, int]] = set()
    plain = TorchEngine.logits_and_features

    def note(self: TorchEngine, images: np.ndarray) -> object:
        said = plain(self, images)
        asked.add((threading.current_thread().name.partition("_")[0], torch.get_num_threads()))
        return said

    monkeypatch.setattr(TorchEngine, "logits_and_features", note)
    monkeypatch.setattr(TorchEngine, "logits", lambda self, images: note(self, images)[0])  # type: ignore[index]
    photo = trained.photos / "ant" / "0.png"
    predictor = Predictor.load(trained.run)
    try:
        torch.set_num_threads(2)
        list(predictor.predict_stream([photo] * (predictor_module.FEW_PHOTOS - 1)))
        assert asked == {("MainThread", 2)}
        asked.clear()
        list(predictor.predict_stream([photo] * 40))
        assert asked == {("predict", 1)}
        # A new thread begins with what was set before.
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_a_stream_may_be_endless_and_left_in_the_middle(trained: Trained, cores: int) -> None:
    taken = itertools.count()
    photo = trained.photos / "ant" / "0.png"
    stream = Predictor.load(trained.run).predict_stream(
        (photo for _ in taken), batch_size=4 * cores
    )
    assert [next(stream).error for _ in range(30)] == [None] * 30
    assert next(taken) <= 30 + 3 * 4 * max(cores, 4)
    stream.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == cores
    assert not [t for t in threading.enumerate() if t.name.startswith("predict_")]


def test_what_the_head_saw_is_each_threads_own(trained: Trained) -> None:
    engine = TorchEngine.load(open_run(trained.run))
    rng = np.random.default_rng(0)
    side = engine.metadata.preprocessing.working_size
    images = [rng.integers(0, 255, (n, side, side, 3), dtype=np.uint8) for n in (1, 2, 3, 4)]
    expected = [engine.logits_and_features(some)[1] for some in images]

    def ask(turn: int) -> bool:
        found = alone.logits_and_features(images[turn % 4])[1]
        return found.shape == expected[turn % 4].shape and bool(
            np.allclose(found, expected[turn % 4], atol=1e-5)
        )

    with engine.per_thread() as alone, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(80)))

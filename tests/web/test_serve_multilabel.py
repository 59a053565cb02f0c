"""The prediction server with a run that says several labels of a photo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from starlette.testclient import TestClient

from finetune import train
from finetune.config_io import resolve
from finetune.prediction.predictor import Predictor
from finetune.web.security import Policy
from finetune.web.serve.app import serve_app


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_weights: Path,
    draw: Callable[..., Image.Image],
) -> Iterator[tuple[TestClient, Predictor, Path]]:
    root = tmp_path_factory.mktemp("served")
    for number in range(24):
        for index, label in enumerate(["ant", "bee"]):
            if number >> index & 1 or number % 3 == 0:
                (root / "photos" / label).mkdir(parents=True, exist_ok=True)
                draw(0, number).save(root / "photos" / label / f"{number}.png")
    flags = {"model": "test_resnet", "weights": str(tiny_weights), "size": 48, "device": "cpu",
             "epochs": 1, "mode": "head", "multi_label": True}  # fmt: skip
    train(root / "photos", resolve({}, flags), run="several", runs=root)
    predictor = Predictor.load(root / "several")
    policy = Policy(token=None, hosts=frozenset({"testserver"}))
    with TestClient(serve_app(predictor, policy)) as client:
        yield client, predictor, root / "photos"


def test_an_answer_names_all_labels_that_are_said(
    served: tuple[TestClient, Predictor, Path],
) -> None:
    client, predictor, photos = served
    for photo in sorted(photos.rglob("*.png"))[:6]:
        (told,) = client.post(
            "/v1/predict", content=photo.read_bytes(), headers={"Content-Type": "image/png"}
        ).json()
        expected = predictor(photo)
        assert told["labels"] == list(expected.labels or ())
        assert told["unknown"] == (not told["labels"])
        assert [item["predicted"] for item in told["ranked"]] == [
            i.predicted for i in expected.ranked
        ]


def test_openapi_describes_the_labels_of_a_photo(
    served: tuple[TestClient, Predictor, Path],
) -> None:
    client, predictor, _ = served
    answer = client.get("/openapi.json").json()["components"]["schemas"]["PredictionJson"]
    assert answer["properties"]["labels"]["items"]["enum"] == list(predictor.labels)
    (model,) = client.get("/v1/model").json()
    assert model["task"] == "multi-label"
    assert set(model["thresholds"]) == set(predictor.labels)

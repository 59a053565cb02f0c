from __future__ import annotations

import asyncio
import io
import struct
import threading
import time
import zlib
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Message

from finetune import train
from finetune.config_io import resolve
from finetune.prediction.predictions import PredictionJson
from finetune.prediction.predictor import PredictConfig, Predictor
from finetune.web.security import Policy
from finetune.web.serve.app import UploadedPhoto, read_upload, serve_app
from finetune.web.serve.batching import Limits
from finetune.web.serve.openapi import ErrorJson, HealthJson


@dataclass(frozen=True)
class Site:
    client: TestClient
    predictor: Predictor
    photos: Path
    lines: list[str]


@pytest.fixture(scope="module")
def served_run(
    tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., Path]
) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("served")
    run = train_tiny(root)
    return run, root / "photos"


@pytest.fixture
def make_site(served_run: tuple[Path, Path]) -> Iterator[Callable[..., Site]]:
    clients: list[TestClient] = []

    def make(token: str | None = None, **limits: Any) -> Site:
        bounds = Limits(**limits)
        predictor = Predictor.load(
            served_run[0], config=PredictConfig(max_pixels=bounds.max_pixels)
        )
        lines: list[str] = []
        policy = Policy(
            token=token,
            hosts=frozenset({"testserver"}),
            max_body_bytes=bounds.body_bytes,
            public=frozenset({"/healthz"}),
        )
        client = TestClient(serve_app(predictor, policy, bounds, log=lines.append))
        client.__enter__()
        clients.append(client)
        return Site(client, predictor, served_run[1], lines)

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + head + rows + chunk(b"IEND", b"")


def test_bytes_and_forms_get_the_predictions_of_the_predictor(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    photos = sorted(site.photos.rglob("*.png"))
    for photo in photos[:3]:
        response = site.client.post(
            "/v1/predict", content=photo.read_bytes(), headers={"Content-Type": "image/png"}
        )
        assert response.status_code == 200
        expected = site.predictor(photo)
        (answer,) = response.json()
        assert answer["photo"] is None
        assert [item["label"] for item in answer["ranked"]] == [r.label for r in expected.ranked]
        for found, wanted in zip(answer["ranked"], expected.ranked, strict=True):
            assert found["probability"] == pytest.approx(wanted.probability, abs=1e-6)
    files = [("photo", (path.name, path.read_bytes(), "image/png")) for path in photos]
    files.insert(3, ("photo", ("bad.jpg", b"no photo", "image/jpeg")))
    answers = site.client.post("/v1/predict?top=1", files=files).json()
    assert [answer["photo"] for answer in answers] == [name for _, (name, _, _) in files]
    assert answers[3] == {
        "photo": "bad.jpg",
        "status": "failed",
        "error": "not a photo",
        "ranked": [],
    }
    del answers[3]
    for photo, answer in zip(photos, answers, strict=True):
        assert answer["ranked"][0]["label"] == site.predictor(photo).label


@pytest.mark.parametrize(
    ("content", "kind", "status", "words"),
    [
        (b"", "image/png", 400, "The request contains no photo, or an empty file."),
        (b"no photo", "image/png", 422, "The photo cannot be opened: not a photo."),
        (b"GIF89a", "application/octet-stream", 422, "damaged, or of an unknown kind"),
        (b"{}", "application/json", 415, "Send a photo or a form, not application/json."),
        (b"garbage", "multipart/form-data; boundary=x", 400, ""),
        (b"garbage", "multipart/form-data", 400, "Missing boundary"),
        (png_that_claims(60_000, 60_000), "image/png", 422, "too many pixels"),
        (png_that_claims(3000, 3000), "image/png", 422, "too many pixels"),
        (b"x" * 70_000, "image/png", 413, "The body is larger than 65,536 bytes."),
    ],
)
def test_malformed_requests_are_refused_with_a_reason(
    make_site: Callable[..., Site], content: bytes, kind: str, status: int, words: str
) -> None:
    site = make_site(body_bytes=1 << 16, max_pixels=1_000_000)
    response = site.client.post("/v1/predict", content=content, headers={"Content-Type": kind})
    assert response.status_code == status
    assert words in response.json()["error"]


def test_too_many_photos_in_a_form_are_refused(make_site: Callable[..., Site]) -> None:
    site = make_site(request_photos=2)
    photo = next(iter(site.photos.rglob("*.png"))).read_bytes()
    response = site.client.post("/v1/predict", files=[("photo", ("a.png", photo))] * 3)
    assert response.status_code == 400


@pytest.mark.parametrize("top", ["0", "-1", "x", "1.5", "٣"])
def test_top_must_be_a_number(make_site: Callable[..., Site], top: str) -> None:
    response = make_site().client.post("/v1/predict", params={"top": top}, content=b"x")
    assert response.status_code == 400
    assert response.json() == {"error": "'top' must be an integer of at least 1."}


class Slow:
    """A predictor whose network waits until it is let go."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.go = threading.Event()
        self.engines, self.config = predictor.engines, predictor.config
        self.name, self.working_images = predictor.name, predictor.working_images
        self.sizes: list[int] = []

    def predict_images(self, photos: Any) -> Any:
        self.sizes.append(len(photos))
        self.go.wait(10)
        return self.predictor.predict_images(photos)


def test_a_full_queue_sends_retry_after_and_waiting_photos_form_a_batch(
    served_run: tuple[Path, Path],
) -> None:
    slow = Slow(Predictor.load(served_run[0]))
    policy = Policy(token=None, hosts=frozenset({"testserver"}), max_body_bytes=1 << 20)
    limits = Limits(queue_photos=5, batch_photos=4)
    photos = sorted(served_run[1].rglob("*.png"))
    statuses: dict[int, Any] = {}
    with TestClient(serve_app(slow, policy, limits)) as client:  # type: ignore[arg-type]

        def ask(number: int) -> None:
            statuses[number] = client.post("/v1/predict", content=photos[number].read_bytes())

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
        threads[0].start()
        while not slow.sizes:
            time.sleep(0.01)
        for thread in threads[1:]:
            thread.start()
        while client.get("/healthz").json()["photos"] < 5:
            time.sleep(0.01)
        full = client.post("/v1/predict", content=photos[5].read_bytes())
        slow.go.set()
        for thread in threads:
            thread.join()
    assert full.status_code == 503
    assert full.json() == {"error": "The queue is full."}
    assert int(full.headers["Retry-After"]) >= 1
    assert slow.sizes == [1, 4]
    for number, response in statuses.items():
        assert response.json()[0]["ranked"][0]["label"] == slow.predictor(photos[number]).label


def test_a_failing_network_is_a_server_error_and_the_next_photo_is_predicted(
    served_run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(served_run[0])
    policy = Policy(token=None, hosts=frozenset({"testserver"}), max_body_bytes=1 << 20)
    photo = next(iter(served_run[1].rglob("*.png"))).read_bytes()
    app = serve_app(predictor, policy)
    with TestClient(app, raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(predictor, "predict_images", lambda photos: 1 / 0)
            assert client.post("/v1/predict", content=photo).status_code == 500
        assert client.post("/v1/predict", content=photo).status_code == 200


def test_a_slow_prediction_gets_504(served_run: tuple[Path, Path]) -> None:
    slow = Slow(Predictor.load(served_run[0]))
    policy = Policy(token=None, hosts=frozenset({"testserver"}), max_body_bytes=1 << 20)
    limits = Limits(response_seconds=0.3)
    photo = next(iter(served_run[1].rglob("*.png"))).read_bytes()
    with TestClient(serve_app(slow, policy, limits)) as client:  # type: ignore[arg-type]
        response = client.post("/v1/predict", content=photo)
        slow.go.set()
        assert response.status_code == 504
        assert client.get("/healthz").json() == {"status": "ok", "photos": 0}


def test_explain_returns_an_image_of_the_photo(make_site: Callable[..., Site]) -> None:
    site = make_site()
    photo = next(iter(site.photos.rglob("*.png"))).read_bytes()
    response = site.client.post("/v1/explain", params={"label": "bee"}, content=photo)
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == (448, 448)
    assert site.client.post("/v1/explain", content=photo).status_code == 200
    strange = site.client.post("/v1/explain", params={"label": "owl"}, content=photo)
    assert (strange.status_code, strange.json()) == (400, {"error": "There is no such label."})
    bad = site.client.post("/v1/explain", content=b"x")
    assert bad.json() == {"error": "The photo cannot be opened: not a photo."}


def test_a_preview_is_a_small_jpeg_of_the_photo_upright(make_site: Callable[..., Site]) -> None:
    photo = Image.new("RGB", (900, 600), (200, 40, 40))
    photo.paste((40, 40, 200), (0, 0, 450, 600))
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to the right
    photo.save(content, "TIFF", exif=exif)
    client = make_site().client
    response = client.post("/v1/preview", content=content.getvalue())
    assert response.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(response.content)) as shown:
        assert shown.size == (299, 448)
        upper, lower = (np.asarray(shown)[y, 150].astype(int) for y in (60, 390))
    # What was left is above now.
    assert upper[2] > 150 > upper[0]
    assert lower[0] > 150 > lower[2]
    assert client.post("/v1/preview", content=b"no photo").json() == {
        "error": "The photo cannot be opened: not a photo."
    }


def test_the_description_is_readable_as_a_page(make_site: Callable[..., Site]) -> None:
    client = make_site().client
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in page.text
    assert "curl" in page.text


def test_the_api_key_is_required_if_set(make_site: Callable[..., Site]) -> None:
    site = make_site(token="secret")
    photo = next(iter(site.photos.rglob("*.png"))).read_bytes()
    assert site.client.get("/healthz").status_code == 200
    for path in ("/", "/metrics", "/openapi.json", "/v1/model"):
        assert site.client.get(path).status_code == 401
    assert site.client.post("/v1/predict", content=photo).status_code == 401
    for key, status in [("secret", 200), ("guess", 401)]:
        response = site.client.post(
            "/v1/predict", content=photo, headers={"Authorization": f"Bearer {key}"}
        )
        assert response.status_code == status
    description = site.client.get(
        "/openapi.json", headers={"Authorization": "Bearer secret"}
    ).json()
    assert description["security"] == [{"key": []}]


def test_foreign_hosts_and_sites_are_refused(make_site: Callable[..., Site]) -> None:
    client = make_site().client
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    crossed = client.post("/v1/predict", content=b"x", headers={"Origin": "http://evil.example"})
    assert crossed.status_code == 403


def test_responses_match_the_types_of_the_openapi_document(make_site: Callable[..., Site]) -> None:
    site = make_site()
    photo = next(iter(site.photos.rglob("*.png"))).read_bytes()
    files = [("photo", ("a.png", photo)), ("photo", ("b.png", b"no photo"))]
    answers = {
        "/v1/predict": (list[PredictionJson], site.client.post("/v1/predict", files=files)),
        "/healthz": (HealthJson, site.client.get("/healthz")),
        "/gone": (ErrorJson, site.client.get("/gone")),
    }
    for kind, answer in answers.values():
        TypeAdapter(kind).validate_python(answer.json(), strict=True, extra="forbid")
    schemas = site.client.get("/openapi.json").json()["components"]["schemas"]
    ranked = schemas["RankedJson"]["properties"]
    assert ranked["label"]["enum"] == list(site.predictor.labels)
    names = ("Prediction", "Ranked", "Ancestor", "Burst", "Health", "Error")
    assert schemas.keys() == {f"{name}Json" for name in names}


def test_every_route_is_described(make_site: Callable[..., Site]) -> None:
    site = make_site()
    described = site.client.get("/openapi.json").json()["paths"]
    routes = {
        (route.path, method.lower())
        for route in site.client.app.routes  # type: ignore[attr-defined]
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD"
    } - {("/", "get")}
    assert {(path, method) for path, item in described.items() for method in item} == routes


def test_photos_are_counted_and_logged_without_their_names(make_site: Callable[..., Site]) -> None:
    site = make_site()
    photo = next(iter(site.photos.rglob("*.png"))).read_bytes()
    site.client.post("/v1/predict?top=1", files=[("photo", ("secret.png", photo))] * 2)
    site.client.post("/v1/predict", content=b"x")
    site.client.get("/etc/passwd")
    text = site.client.get("/metrics").text
    assert 'finetune_photos_total{status="ok"} 2.0' in text
    assert 'finetune_photos_total{status="bad"} 1.0' in text
    assert 'finetune_requests_total{path="/v1/predict",status="200"} 1.0' in text
    assert 'finetune_requests_total{path="other",status="404"} 1.0' in text
    assert "finetune_queue_photos 0.0" in text
    assert [line.split()[:3] for line in site.lines[:3]] == [
        ["POST", "/v1/predict", "200"],
        ["POST", "/v1/predict", "422"],
        ["GET", "other", "404"],
    ]
    assert site.lines[0].endswith(" 2 photos")
    assert not any("secret" in line or "passwd" in line for line in site.lines)


def test_the_page_allows_no_foreign_scripts(make_site: Callable[..., Site]) -> None:
    response = make_site().client.get("/")
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    assert response.headers["Permissions-Policy"].startswith("camera=(self)")
    assert "<li>ant</li>" in response.text


T = TypeVar("T")


def run_alone(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in a thread of its own: a browser's loop may be running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


FORM = "multipart/form-data; boundary=cut"


def read(kind: str | None, *chunks: bytes, **limits: Any) -> list[UploadedPhoto]:
    """Returns the photos in a body that arrives in chunks."""
    headers = [] if kind is None else [(b"content-type", kind.encode())]
    waiting = list(chunks)

    async def receive() -> Message:
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    # Within an application Starlette refuses a bad form with an HTTPException.
    scope = {"type": "http", "headers": headers, "app": None}
    return run_alone(read_upload(Request(scope, receive), Limits(**limits)))


def part(content: bytes, name: str | None = "photo", file: str | None = None) -> bytes:
    header = f'form-data; name="{name}"' + ("" if file is None else f'; filename="{file}"')
    return b"--cut\r\nContent-Disposition: " + header.encode() + b"\r\n\r\n" + content + b"\r\n"


@pytest.mark.parametrize(
    "kind",
    [None, "image/png", "IMAGE/JPEG; x=y", "application/octet-stream"],
)
def test_a_body_of_bytes_is_one_photo_without_a_name(kind: str | None) -> None:
    assert read(kind, b"abc", b"def") == [UploadedPhoto(name=None, content=b"abcdef")]


def test_only_the_files_of_a_form_are_photos() -> None:
    body = part(b"one", file="1.jpg") + part(b"words", name="said") + part(b"two", file="2.jpg")
    assert read(FORM, body + b"--cut--\r\n") == [
        UploadedPhoto(name="1.jpg", content=b"one"),
        UploadedPhoto(name="2.jpg", content=b"two"),
    ]


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        ("image/png", b"", 400, "The request contains no photo, or an empty file."),
        (
            FORM,
            part(b"words") + b"--cut--\r\n",
            400,
            "The request contains no photo, or an empty file.",
        ),
        ("text/html", b"<p>", 415, "Send a photo or a form, not text/html."),
        ("a" * 200, b"x", 415, f"Send a photo or a form, not {'a' * 80}."),
    ],
)
def test_requests_without_a_photo_are_refused(
    kind: str, body: bytes, status: int, words: str
) -> None:
    with pytest.raises(HTTPException) as caught:
        read(kind, body)
    assert (caught.value.status_code, caught.value.detail) == (status, words)


def test_too_many_photos_are_refused() -> None:
    body = part(b"x", file="x.jpg") * 3 + b"--cut--\r\n"
    with pytest.raises(HTTPException) as caught:
        read(FORM, body, request_photos=2)
    assert caught.value.status_code == 400


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


def test_a_multi_label_prediction_lists_all_predicted_labels(
    served: tuple[TestClient, Predictor, Path],
) -> None:
    client, predictor, photos = served
    for photo in sorted(photos.rglob("*.png"))[:6]:
        (told,) = client.post(
            "/v1/predict", content=photo.read_bytes(), headers={"Content-Type": "image/png"}
        ).json()
        expected = predictor(photo)
        assert told["labels"] == list(expected.labels or ())
        assert told["status"] == ("sure" if told["labels"] else "unsure")
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
